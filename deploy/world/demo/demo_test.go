package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/deploy/world"
)

func TestMain(m *testing.M) {
	world.RunChild()
	os.Exit(m.Run())
}

func TestStore(t *testing.T) {
	var asked string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = r.URL.RawQuery
		switch {
		case r.URL.Query().Get("param_network") == "broken":
			http.Error(w, "Code: 60. DB::Exception: no table", http.StatusNotFound)
		case r.URL.Query().Get("param_network") == "odd":
			io.WriteString(w, "a\tb\n")
		case strings.Contains(string(body), "remote_addr"):
			io.WriteString(w, "shop/cart-old\tcart-old-1\t1000000000\t2000000000\t7\n")
		default:
			io.WriteString(w, "shop/web\t\tnamed\texternal\t443\t3\t1\t100\t200\t35.5\t0\t1000000000\t2000000000\n")
		}
	}))
	defer srv.Close()
	s := store{url: srv.URL}
	edges, err := s.edges(t.Context(), "lab-0")
	if err != nil {
		t.Fatal(err)
	}
	want := []edge{{
		client: "shop/web", whyClient: "named", whyServer: "external", port: 443, connections: 3, failed: 1, tx: 100, rx: 200,
		rtt: 35 * time.Microsecond, firstSeen: time.Unix(1, 0), lastSeen: time.Unix(2, 0),
	}}
	if d := cmp.Diff(want, edges, cmp.AllowUnexported(edge{})); d != "" {
		t.Error(d)
	}
	if asked != "param_network=lab-0" {
		t.Error("asked with", asked)
	}
	owners, err := s.owners(t.Context(), "10.77.0.40", "lab-0")
	if err != nil || len(owners) != 1 || owners[0].workload != "shop/cart-old" || owners[0].connections != 7 {
		t.Error(owners, err)
	}
	for network, want := range map[string]string{"broken": "Code: 60", "odd": "2 columns"} {
		if _, err := s.edges(t.Context(), network); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", network, err)
		}
	}
}

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	d := &demo{out: &out}
	d.print(view{edges: []edge{
		{whyClient: "external", server: "shop/gateway", port: 443, connections: 12, tx: 6_000, rx: 240_000, connect: 90 * time.Microsecond, rtt: 1500 * time.Microsecond},
		{client: "shop/web", server: "shop/cache", port: 11211, connections: 3, failed: 3},
		{client: "shop/web", whyServer: "gap", port: 7000, connections: 1},
	}}, "14 s after the start")
	want := `
Who talks to whom (14 s after the start)

  CLIENT      SERVER                 PORT   CONNECTIONS  FAILED  SENT    RECEIVED  CONNECT  RTT
  (external)  shop/gateway           443    12           -       6000 B  240.0 kB  90µs     1.5ms
  shop/web    shop/cache             11211  3            3       0 B     0 B       -        -
  shop/web    (unattributed: gap)    7000   1            -       0 B     0 B       -        -
`
	if d := cmp.Diff(squeeze(want), squeeze(out.String())); d != "" {
		t.Error(d)
	}
}

// squeeze forgets how wide the columns are.
func squeeze(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func script(t *testing.T, body string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "tributary-fake")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, dir
}

func TestFamily(t *testing.T) {
	var f family
	path, dir := script(t, "exec sleep 60\n")
	alive, err := f.start(path, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	if err := f.dead(); err != nil {
		t.Error("a live child is dead:", err)
	}
	path, dir = script(t, "echo one clear sentence >&2\nexit 3\n")
	dying, err := f.start(path, dir)
	if err != nil {
		t.Fatal(err)
	}
	err = dying.ready(t.Context(), "http://127.0.0.1:1/readyz")
	for _, want := range []string{"tributary-fake", "exit status 3", "one clear sentence"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if f.dead() == nil {
		t.Error("nobody noticed the dead child")
	}
	f.stop()
	f.stop()
	<-alive.gone
	if err := f.dead(); err != nil {
		t.Error("a child that was stopped counts as dead:", err)
	}
}

func TestReady(t *testing.T) {
	answers := make(chan int, 2)
	answers <- http.StatusServiceUnavailable
	answers <- http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(<-answers) }))
	defer srv.Close()
	c := &child{name: "x", gone: make(chan struct{})}
	if err := c.ready(t.Context(), srv.URL); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.ready(ctx, "http://127.0.0.1:1/"); err == nil {
		t.Error("ready without an answer")
	}
}

func TestFreeAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken := l.Addr().String()
	if got, err := freeAddress(taken); err != nil || got == taken {
		t.Error("a taken address is free:", got, err)
	}
	l.Close()
	if got, err := freeAddress(taken); err != nil || got != taken {
		t.Error("a free address is taken:", got, err)
	}
}

func TestNamesSizes(t *testing.T) {
	got := []string{name("a/b", ""), name("", "external"), name("", "pending"), size(9_999), size(10_000), size(20_000_000), count(0), count(2), latency(0)}
	want := []string{"a/b", "(external)", "(unattributed: pending)", "9999 B", "10.0 kB", "20.0 MB", "-", "2", "-"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParse(t *testing.T) {
	if _, err := parse([]string{"what"}); err == nil {
		t.Error("an unknown argument passed")
	}
	opt, err := parse([]string{"--host", "--once", "--refresh", "1ms"})
	if err != nil || !opt.host || !opt.once || opt.refresh != time.Second || opt.bin == "" {
		t.Error(opt, err)
	}
}

func TestArrange(t *testing.T) {
	d := &demo{options: options{host: true}}
	edges := []edge{
		{whyClient: "pending", whyServer: "no_evidence", connections: 9},
		{client: "h/a", whyServer: "no_evidence", connections: 8},
		{client: "h/a", whyServer: "external", connections: 1},
		{client: "h/a", server: "h/b", connections: 2},
	}
	shown, hidden := d.arrange(edges)
	if hidden != 1 || len(shown) != 3 || shown[0].server != "h/b" || shown[1].whyServer != "external" {
		t.Error(shown, hidden)
	}
	d.host = false
	if shown, hidden := d.arrange(edges); len(shown) != 4 || hidden != 0 {
		t.Error(shown, hidden)
	}
}

// Complete needs every edge of the shop, each failing where it should, and the two owners of the cart.
func TestMissing(t *testing.T) {
	d := &demo{shop: world.NewShop(nil)}
	v := view{owners: []owner{{workload: "shop/cart-old"}, {workload: "shop/cart-new"}}}
	for _, want := range d.shop.Expected() {
		e := edge{client: want.Client, server: want.Server, port: want.Port, whyClient: "external", whyServer: "external", connections: 2}
		if want.Failing {
			e.failed = 2
		}
		v.edges = append(v.edges, e)
	}
	if missing := d.missing(v); len(missing) > 0 || !d.complete(v, 0) || d.verdict(v) != nil {
		t.Error("a whole map lacks", missing)
	}
	v.edges[0].whyClient, v.edges[1].failed, v.owners = "gap", 1, v.owners[:1]
	if missing := d.missing(v); len(missing) != 3 || d.complete(v, time.Hour) || d.verdict(v) == nil {
		t.Error("want three things missing, got", missing)
	}
}
