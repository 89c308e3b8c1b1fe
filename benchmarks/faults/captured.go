package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"time"

	"tributary/deploy/world"
)

// captured is the exporter that captures, and two programs on a host of their own, whose connections it sees. It is a sidecar there, so that nothing
// else that this machine does fills its ring.
type captured struct {
	world          *world.World
	client, server *world.Process
}

const liveHost = "pair"

var liveHosts = []world.Host{{Name: liveHost, Number: 11, Workload: "faults/pair", Instance: "pair-1"}}

const (
	livePort  = 7000 // of round 0; each round has a port of its own
	liveEvery = 25 * ms
)

// startLive builds the host and the exporter beside its programs.
func (r *region) startLive(ctx context.Context) error {
	w := world.New(liveHosts, io.Discard)
	if err := w.Start(); err != nil {
		return err
	}
	r.captured = &captured{world: w}
	var err error
	if r.captured.client, err = w.Spawn(liveHost, "asks"); err != nil {
		return err
	}
	if r.captured.server, err = w.Spawn(liveHost, "answers"); err != nil {
		return err
	}
	inside := func(f func() error) error { return w.In(liveHost, f) }
	var through string
	if err := inside(func() (err error) {
		through, err = r.link(linkOf(live), r.ingest[collectorA], r.ingest[collectorB])
		return err
	}); err != nil {
		return err
	}
	r.metrics[live] = "127.0.0.1:9748" // of that host
	r.inside = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = inside(func() (err error) {
				c, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
	}}
	args := []string{
		"run", "--scope", "netns", "--workload", liveHosts[0].Workload, "--instance", liveHosts[0].Instance, "--network", w.Network(), "--collector", through,
		"--filter-keep", "prefix=" + w.IPv4(liveHost).String(), "--metrics-listen", r.metrics[live], "--spool-dir", filepath.Join(r.dir, live),
		"--socket", filepath.Join(r.dir, live+".sock"),
	}
	p := &program{name: live, log: filepath.Join(r.dir, live+".log"), where: inside, make: func() *exec.Cmd {
		return exec.Command(filepath.Join(r.programs, "tributary-exporter"), args...)
	}}
	r.programsOf[live] = p
	p.start()
	return r.ready(ctx, live)
}

func jobOf(round int) string { return fmt.Sprintf("round-%d", round) }

// begin lets connections come, until quiet.
func (c *captured) begin(ctx context.Context, round int) error {
	port := uint16(livePort + round)
	if err := c.server.Listen(ctx, world.Listen{Port: port}); err != nil {
		return err
	}
	j := world.Job{ID: jobOf(round), Every: liveEvery}
	for i := range 16 {
		j.Calls = append(j.Calls, world.Call{To: netip.AddrPortFrom(c.world.IPv4(liveHost), port), Request: uint64(100 + i), Response: uint64(i * 7919 % 20_011), ServerCloses: i%5 == 0})
	}
	return c.client.Begin(j)
}

// quiet ends the connections and returns the truth about the round's.
func (c *captured) quiet(ctx context.Context, round int) (world.Truth, error) {
	if err := c.client.Quiet(ctx); err != nil {
		return world.Truth{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	t, err := c.world.Settle(ctx)
	return t.Of(jobOf(round)), err
}

func (c *captured) close() error { return c.world.Close() }
