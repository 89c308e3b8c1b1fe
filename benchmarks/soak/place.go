package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"tributary/deploy/world"
)

// host is where everything runs.
var host = world.Host{Name: "soak", Number: 11, Workload: "soak/load", Instance: "soak-1"}

// place is a network namespace of the soak's own, and a client for what listens in it.
type place struct {
	world  *world.World
	client http.Client
}

func newPlace() (*place, error) {
	p := &place{world: world.New([]world.Host{host}, io.Discard)}
	p.client = http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = p.in(func() error {
				c, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	}}
	return p, p.world.Start()
}

// in runs f on a thread inside. What f starts is inside too.
func (p *place) in(f func() error) error { return p.world.In(host.Name, f) }

func (p *place) get(url string) (string, error) {
	answer, err := p.client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return string(body), err
}
