package world

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"tributary/service/testenv"
)

// TestFirewall: what a host's rules answer is what its clients get; no rules, no answer of theirs.
func TestFirewall(t *testing.T) {
	w, client, _ := pair(t)
	for _, c := range []struct {
		in   string
		want syscall.Errno
	}{
		{"", 0},
		{"tcp dport 7000 reject with tcp reset", syscall.ECONNREFUSED},
		{"tcp dport 7000 reject with icmpx type host-unreachable", syscall.EHOSTUNREACH},
		{"", 0},
	} {
		if err := w.Firewall("server", c.in, ""); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		truth, err := w.RunPlan(ctx, []Step{{client, Job{ID: "job " + c.in, Calls: []Call{{To: netip.AddrPortFrom(w.IPv4("server"), 7000), Request: 100, Response: 100, Timeout: 10 * time.Second}}}}})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range truth.Connections {
			if x.Client.Errno != c.want {
				t.Errorf("%q: %v (%s), want %v", c.in, x.Client.Errno, x.Client.Error, c.want)
			}
		}
	}
	if err := w.Firewall("nobody", "", ""); err == nil || errors.Is(err, ErrClosed) {
		t.Error("a host that is not there has a firewall")
	}
}

// pair is a world of a client and of a server that listens on port 7000.
func pair(t *testing.T) (w *World, client, server *Process) {
	t.Helper()
	testenv.NeedRoot(t)
	w = New([]Host{{Name: "client", Number: 11}, {Name: "server", Number: 12}}, t.Output())
	t.Cleanup(func() { _ = w.Close() })
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	server, err := w.Spawn("server", "server")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(t.Context(), Listen{Port: 7000}); err != nil {
		t.Fatal(err)
	}
	if client, err = w.Spawn("client", "client"); err != nil {
		t.Fatal(err)
	}
	return w, client, server
}
