package world

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Shop is the world of the demo: a small online shop with one of everything that makes a dependency map interesting.
//
//	outside → gateway → web → api → db, cache     a chain, IPv4 and IPv6 mixed
//	batch → api → db; batch → db                  a job, and one connection that lives as long as the shop
//	api → outside                                 a payment provider, external
//	web → cache:11211                             refused: nobody listens
//	gateway → db:5433                             dropped by db's firewall, silently
//	web → cart address:7000                       served by cart-old, after MoveCart by cart-new
type Shop struct {
	*World
	// Cart is the address that moves.
	Cart      netip.Addr
	processes map[string]*Process
}

var shopHosts = []Host{
	{Name: "gateway", Number: 11, Workload: "shop/gateway", Instance: "gateway-5d8f", Release: "2026-11-20.1", ByAddress: true},
	{Name: "web", Number: 12, Workload: "shop/web", Instance: "web-7f9c", Release: "2026-11-20.3"},
	{Name: "api", Number: 13, Workload: "shop/api", Instance: "api-66b4", Release: "2026-11-19.9"},
	{Name: "db", Number: 14, Workload: "shop/db", Instance: "db-0", Release: "17.2", ByAddress: true},
	{Name: "cache", Number: 15, Workload: "shop/cache", Instance: "cache-0", Release: "8.1"},
	{Name: "batch", Number: 16, Workload: "shop/batch", Instance: "batch-9a1e", Release: "2026-11-18.2"},
	{Name: "cart-old", Number: 21, Workload: "shop/cart-old", Instance: "cart-old-1", Release: "2026-11-20.3"},
	{Name: "cart-new", Number: 22, Workload: "shop/cart-new", Instance: "cart-new-1", Release: "2026-11-20.4"},
	{Name: "outside", Number: 1, Outside: true},
}

// Ports of the shop. PortRefused has no listener, PortDropped a firewall.
const (
	PortGateway = 443
	PortWeb     = 8080
	PortAPI     = 9000
	PortDB      = 5432
	PortDropped = 5433
	PortCache   = 6379
	PortRefused = 11211
	PortCart    = 7000
	PortPayment = 443
)

// NewShop describes the shop; logs takes what its programs say on their standard error and may be nil.
func NewShop(logs io.Writer) *Shop {
	return &Shop{World: New(shopHosts, logs), processes: map[string]*Process{}}
}

// Start builds the world with a process on every host, all ports open and no traffic.
func (s *Shop) Start(ctx context.Context) error {
	if err := s.World.Start(); err != nil {
		return err
	}
	s.Cart = s.FloatingAddress(40)
	if err := s.Assign(s.Cart, "cart-old"); err != nil {
		return err
	}
	if err := s.DropPort("db", PortDropped); err != nil {
		return err
	}
	for _, h := range s.hosts {
		p, err := s.Spawn(h.Name, h.Name)
		if err != nil {
			return err
		}
		s.processes[h.Name] = p
		for _, l := range s.listeners(h.Name) {
			if err := p.Listen(ctx, l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Shop) listeners(host string) []Listen {
	switch host {
	case "gateway":
		return []Listen{{Port: PortGateway, Calls: []Call{s.v4("web", PortWeb, 700, 18_000)}}}
	case "web":
		return []Listen{{Port: PortWeb, Calls: []Call{s.v6("api", PortAPI, 420, 5_200)}}}
	case "api":
		return []Listen{{Port: PortAPI, Calls: []Call{s.v4("db", PortDB, 310, 9_700), s.v6("cache", PortCache, 64, 1_100)}}}
	case "db":
		return []Listen{{Port: PortDB}}
	case "cache":
		return []Listen{{Port: PortCache}}
	case "cart-old", "cart-new":
		return []Listen{{Port: PortCart}}
	case "outside":
		return []Listen{{Port: PortPayment}}
	}
	return nil
}

// Traffic starts all clients. They go on until Close.
func (s *Shop) Traffic() error {
	replication := s.v6("db", PortDB, 200, 3_000)
	replication.Rounds, replication.Pause = 1<<30, 500*time.Millisecond
	cart := Call{To: netip.AddrPortFrom(s.Cart, PortCart), Request: 150, Response: 900}
	jobs := []struct {
		host string
		job  Job
	}{
		{"outside", Job{ID: "visitors", Every: 150 * time.Millisecond, Calls: []Call{s.v4("gateway", PortGateway, 500, 20_000), s.v6("gateway", PortGateway, 650, 31_000)}}},
		{"batch", Job{ID: "batch", Every: 400 * time.Millisecond, Calls: []Call{s.v4("api", PortAPI, 2_000, 60_000)}}},
		{"batch", Job{ID: "replication", Calls: []Call{replication}}},
		{"api", Job{ID: "payments", Every: 600 * time.Millisecond, Calls: []Call{s.v4("outside", PortPayment, 1_200, 300), s.v6("outside", PortPayment, 1_250, 310)}}},
		{"web", Job{ID: "refused", Every: time.Second, Calls: []Call{s.v4("cache", PortRefused, 64, 64)}}},
		{"gateway", Job{ID: "dropped", Every: 2 * time.Second, Parallel: 3, Calls: []Call{s.v4("db", PortDropped, 64, 64)}}},
		{"web", Job{ID: "cart", Every: 100 * time.Millisecond, Parallel: 8, Calls: []Call{cart}}},
	}
	for _, j := range jobs {
		if err := s.processes[j.host].Begin(j.job); err != nil {
			return fmt.Errorf("start %s on %s: %w", j.job.ID, j.host, err)
		}
	}
	return nil
}

// MoveCart moves the cart's address from its old workload to its new one.
func (s *Shop) MoveCart() error { return s.Move(s.Cart, "cart-old", "cart-new") }

// ExpectedEdge is a line the map must show; Failing means that all its connections fail.
type ExpectedEdge struct {
	Edge
	Failing bool
}

// Expected is the map of the shop after MoveCart. The outside has no name.
func (s *Shop) Expected() []ExpectedEdge {
	return []ExpectedEdge{
		{Edge{"", "shop/gateway", PortGateway}, false},
		{Edge{"shop/gateway", "shop/web", PortWeb}, false},
		{Edge{"shop/web", "shop/api", PortAPI}, false},
		{Edge{"shop/api", "shop/db", PortDB}, false},
		{Edge{"shop/api", "shop/cache", PortCache}, false},
		{Edge{"shop/api", "", PortPayment}, false},
		{Edge{"shop/batch", "shop/api", PortAPI}, false},
		{Edge{"shop/batch", "shop/db", PortDB}, false},
		{Edge{"shop/web", "shop/cart-old", PortCart}, false},
		{Edge{"shop/web", "shop/cart-new", PortCart}, false},
		{Edge{"shop/web", "shop/cache", PortRefused}, true},
		{Edge{"shop/gateway", "shop/db", PortDropped}, true},
	}
}

func (s *Shop) v4(host string, port uint16, request, response uint64) Call {
	return Call{To: netip.AddrPortFrom(s.IPv4(host), port), Request: request, Response: response}
}

func (s *Shop) v6(host string, port uint16, request, response uint64) Call {
	return Call{To: netip.AddrPortFrom(s.IPv6(host), port), Request: request, Response: response}
}
