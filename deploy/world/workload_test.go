package world

import (
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"tributary/deploy/dev/ports"
)

// harness drives a workload in this process, on the host's loopback: no namespace, no root.
type harness struct {
	t       *testing.T
	say     *json.Encoder
	reports chan report
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	h := &harness{t: t, say: json.NewEncoder(inW), reports: make(chan report, 100)}
	served := make(chan struct{})
	w := newWorkload("loop", inR, outW)
	go func() {
		defer close(served)
		w.serve()
	}()
	go func() {
		lines := json.NewDecoder(outR)
		for {
			var r report
			if lines.Decode(&r) != nil {
				return
			}
			h.reports <- r
		}
	}()
	t.Cleanup(func() {
		inW.Close()
		<-served
		for _, l := range w.listeners {
			l.Close()
		}
		outR.Close()
	})
	return h
}

// until collects the entries before the end of a command.
func (h *harness) until(done string) (entries []Entry, failure string) {
	h.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case r := <-h.reports:
			if r.Entry != nil {
				entries = append(entries, *r.Entry)
			}
			if r.Done == done {
				return entries, r.Error
			}
		case <-timeout:
			h.t.Fatalf("%s is never done", done)
		}
	}
}

func (h *harness) command(c command) {
	h.t.Helper()
	if err := h.say.Encode(c); err != nil {
		h.t.Fatal(err)
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	return netip.MustParseAddrPort(ports.Address(t)).Port()
}

func TestWorkload(t *testing.T) {
	h := newHarness(t)
	port := freePort(t)
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	h.command(command{Job: &Job{ID: "early", Calls: []Call{{To: to, Request: 16}}}})
	entries, _ := h.until("early")
	if len(entries) != 1 || entries[0].Errno != syscall.ECONNREFUSED || entries[0].Connected {
		t.Errorf("nobody listens: %+v", entries)
	}
	h.command(command{Listen: &Listen{Port: port}})
	if _, failure := h.until(doneListen(port)); failure != "" {
		t.Fatal(failure)
	}
	h.command(command{Listen: &Listen{Port: port}})
	if _, failure := h.until(doneListen(port)); failure == "" {
		t.Error("a port was opened twice")
	}
	h.command(command{Job: &Job{ID: "plain", Calls: []Call{
		{To: to}, {To: to, Request: 5, Response: 7}, {To: to, Request: 100_000, Response: 50_000, Rounds: 2, ServerCloses: true},
	}}})
	var tx, rx uint64
	entries, _ = h.until("plain")
	for _, e := range entries {
		if e.Error != "" {
			t.Errorf("%+v", e)
		}
		if e.Role == RoleClient {
			tx, rx = tx+e.Tx, rx+e.Rx
		}
	}
	if tx != 200_016 || rx != 100_007 {
		t.Errorf("sent %d, received %d", tx, rx)
	}
}

// A repeated job goes on until it is told to be quiet, and a long connection ends in order then.
func TestWorkloadQuiet(t *testing.T) {
	h := newHarness(t)
	port := freePort(t)
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	h.command(command{Listen: &Listen{Port: port}})
	h.until(doneListen(port))
	h.command(command{Job: &Job{ID: "often", Every: time.Millisecond, Parallel: 2, Calls: []Call{{To: to, Request: 16, Response: 16}}}})
	h.command(command{Job: &Job{ID: "long", Calls: []Call{{To: to, Request: 32, Response: 8, Rounds: 1 << 30, Pause: time.Millisecond}}}})
	time.Sleep(2 * time.Second)
	h.command(command{Quiet: true})
	entries, _ := h.until("quiet")
	often, long := 0, Entry{}
	for _, e := range entries {
		switch {
		case e.Role == RoleClient && e.Job == "often":
			often++
		case e.Role == RoleClient:
			long = e
		}
	}
	if often < 10 || long.Error != "" || long.Tx < 10*32 || long.Rx != long.Tx/4 {
		t.Errorf("%d short connections, long one %+v", often, long)
	}
}

// What is not a request of this world ends the connection and is written down.
func TestWorkloadBadRequest(t *testing.T) {
	h := newHarness(t)
	port := freePort(t)
	h.command(command{Listen: &Listen{Port: port}})
	h.until(doneListen(port))
	conn, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, headerBytes)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("an answer to nonsense")
	}
	r := <-h.reports
	if r.Entry == nil || r.Entry.Error == "" || r.Entry.Rx != headerBytes {
		t.Errorf("%+v", r.Entry)
	}
}
