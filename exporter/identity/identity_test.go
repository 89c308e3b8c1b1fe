package identity

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"tributary/proto/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addr(s string) [16]byte { return netip.MustParseAddr(s).As16() }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// newBook returns a Book with an identity file of that text, "" for none.
func newBook(t *testing.T, opts Options, text string) (*Book, *prometheus.Registry) {
	t.Helper()
	if text != "" && opts.File == "" {
		opts.File = filepath.Join(t.TempDir(), "identity.yaml")
		write(t, opts.File, text)
	}
	opts.Host = "h1"
	registry := prometheus.NewPedanticRegistry()
	b, err := New(opts, registry, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return b, registry
}

// running runs b until the test ends.
func running(t *testing.T, b *Book) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "a watermark", func() bool { return b.VerifiedTo(time.Now().UnixNano()) > 0 })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

const example = `
zone: eu-1a
region: eu
labels: {rack: r7}
networks: [{cidr: 172.30.0.0/16, network: lab}, {cidr: 172.30.5.0/24, network: lab5}]
workloads:
  - workload: shop/web
    instance: web-7f9c
    release: "2026-11-20.3"
    addresses: [10.77.0.12, "fd77::12"]
  - workload: shop/legacy
    zone: eu-1b
    addresses: [10.77.0.20]
    ports: 30000-30099
  - workload: shop/rest
    addresses: ["::ffff:10.77.0.20"]
`

func TestLocalByFileAndStatic(t *testing.T) {
	b, _ := newBook(t, Options{Workload: "base/host", Region: "config"}, example)
	web := Owner{"shop/web", "web-7f9c", "eu-1a", "eu", "2026-11-20.3", flow.EvidenceAddress, false}
	cases := []struct {
		name   string
		socket Socket
		want   Owner
	}{
		{"address", Socket{Addr: addr("10.77.0.12")}, web},
		{"IPv6", Socket{Addr: addr("fd77::12")}, web},
		{"port", Socket{Addr: addr("10.77.0.20"), Port: 30099}, Owner{"shop/legacy", "shop/legacy@h1", "eu-1b", "eu", "", flow.EvidencePort, true}},
		{"beside the ports", Socket{Addr: addr("10.77.0.20"), Port: 30100}, Owner{"shop/rest", "shop/rest@h1", "eu-1a", "eu", "", flow.EvidenceAddress, true}},
		{"the rest", Socket{Addr: addr("10.77.0.99")}, Owner{"base/host", "base/host@h1", "eu-1a", "eu", "", flow.EvidenceStatic, true}},
	}
	for _, c := range cases {
		got, why := b.Local(c.socket)
		if diff := cmp.Diff(c.want, got); diff != "" || why != flow.WhyNamed {
			t.Errorf("%s: why %d, %s", c.name, why, diff)
		}
	}
	b, _ = newBook(t, Options{}, example)
	if got, why := b.Local(Socket{Addr: addr("10.77.0.99")}); got != (Owner{Zone: "eu-1a", Region: "eu"}) || why != flow.WhyNoEvidence {
		t.Errorf("unnamed: %+v, %d", got, why)
	}
	socket := Socket{Addr: addr("10.77.0.20"), Port: 30001, CgroupID: 99, NetnsIno: 7}
	if n := testing.AllocsPerRun(100, func() { b.Local(socket) }); n != 0 {
		t.Errorf("%v allocations a look-up", n)
	}
}

// A connection belongs to who owned its address when it began, whenever its record comes.
func TestTablesAreLookedUpAtTheStart(t *testing.T) {
	h := history{keys: map[key][]span{}}
	a, b := &Owner{Workload: "s/a"}, &Owner{Workload: "s/b"}
	k := key{kind: byAddr, addr: addr("10.0.0.1")}
	n := key{kind: byNetns, id: 7}
	gone := map[key]bool{}
	step := func(at int64, want map[key]*Owner) { h.update(want, at, func(k key) bool { return gone[k] }) }
	step(100, map[key]*Owner{k: a, n: a})
	step(200, map[key]*Owner{k: b})
	step(300, map[key]*Owner{})
	step(400, map[key]*Owner{k: a, n: b})
	gone[n] = true
	step(500, map[key]*Owner{k: a})
	step(600, map[key]*Owner{k: a, n: a})
	table := h.table()
	find := func(s Socket) string {
		owner, gap := table.find(&s)
		switch {
		case gap:
			return "gap"
		case owner == nil:
			return ""
		}
		return owner.Workload
	}
	for _, c := range []struct {
		at          int64
		addr, netns string
	}{
		{-1, "s/a", "s/a"},
		{100, "s/a", "s/a"},
		{199, "s/a", "s/a"},
		{200, "s/b", "gap"},
		{299, "s/b", "gap"},
		{300, "gap", "gap"},
		{399, "gap", "gap"},
		{400, "s/a", "s/b"},
		{499, "s/a", "s/b"},
		{500, "s/a", "s/a"},
		{600, "s/a", "s/a"},
		{1 << 60, "s/a", "s/a"},
	} {
		if got := find(Socket{Addr: k.addr, StartNs: c.at}); got != c.addr {
			t.Errorf("address at %d: %q, want %q", c.at, got, c.addr)
		}
		if got := find(Socket{NetnsIno: 7, StartNs: c.at}); got != c.netns {
			t.Errorf("namespace at %d: %q, want %q", c.at, got, c.netns)
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	h := history{keys: map[key][]span{}}
	k := key{kind: byAddr, addr: addr("10.0.0.1")}
	none := func(key) bool { return false }
	for i := range int64(50) {
		h.update(map[key]*Owner{k: {Workload: "s/a", Release: string(rune('a' + i))}}, i, none)
	}
	if len(h.keys[k]) != maxSpans || h.forgot != 50-maxSpans {
		t.Errorf("%d spans, %d forgotten", len(h.keys[k]), h.forgot)
	}
	if owner, _ := at(h.keys[k], 0); owner != nil {
		t.Errorf("a forgotten time is named %v", owner)
	}
	owner := &Owner{Workload: "s/b"}
	want := map[key]*Owner{}
	for i := range uint64(maxPast + 1000) {
		want[key{kind: byCgroup, id: i}] = owner
	}
	h.update(want, 100, none)
	h.update(nil, 200, none)
	if len(h.keys) > maxPast {
		t.Errorf("%d keys kept", len(h.keys))
	}
}

func TestNetwork(t *testing.T) {
	b, _ := newBook(t, Options{Network: "prod"}, example)
	b.spaces.Load().bridges = append([]subnet{{netip.MustParsePrefix("172.18.0.0/16"), "h1/br-x"}}, b.spaces.Load().bridges...)
	for in, want := range map[string]string{
		"10.1.2.3": "prod", "127.0.0.1": "h1/7", "::1": "h1/7", "fe80::1": "h1/7", "169.254.1.1": "h1/7", "fd77::1": "prod",
		"172.30.1.1": "lab", "172.30.5.1": "lab5", "172.17.0.2": "h1/docker0", "10.88.0.9": "h1/podman0", "172.18.3.4": "h1/br-x",
	} {
		if got := b.Network(7, addr(in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { b.Network(7, addr("127.0.0.1")) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBadFiles(t *testing.T) {
	const w = "workloads:\n- workload: a/b\n  "
	long := strings.Repeat("x", 10_000)
	for text, want := range map[string]string{
		"zon: a\n":                                       `line 1: unknown key "zon"`,
		"workloads:\n- workload: a\n":                    `workloads[0]: workload "a" is not namespace/name`,
		"workloads:\n- instance: a\n":                    "workload is missing",
		w + "instance: x\n":                              "a/b needs addresses, netns, cgroup, container or unit",
		w + "container: x/y\n":                           "is not the id of a container",
		w + "addresses: [10.0.0]\n":                      "line 3: workloads[0].addresses[0]",
		w + "addresses: [127.0.0.1]\n":                   "127.0.0.1 means nothing outside",
		w + "addresses: [1.1.1.1]\n  ports: 9-1\n":       "line 4",
		w + "addresses: [1.1.1.1]\n  ports: 1-70000\n":   "line 4",
		w + "netns: x\n":                                 `"x" is not an absolute path`,
		w + "netns: /a\n  ports: 80\n":                   "ports are part of an address",
		w + "cgroup: /\n":                                "the root cgroup",
		w + "unit: a/b\n":                                "is not a unit",
		w + "netns: /a\n- workload: a/c\n  netns: /a/\n": "workloads[1]: netns /a is that of workloads[0]",
		w + "addresses: [1.1.1.1, \"::ffff:1.1.1.1\"]\n": "is an address of workloads[0] already",
		w + "addresses: [1.1.1.1]\n  ports: 1-9\n- workload: a/c\n  addresses: [1.1.1.1]\n  ports: 9-10\n": "is an address of workloads[0] already",
		w + "netns: /a\n  instance: \"a\\x01b\"\n":                                                         "not printable",
		w + "netns: /a\n  instance: " + long + "\n":                                                        "longer than 256",
		"workloads:\n- workload: a/" + long + "\n":                                                         "longer than 256",
		"networks: [{cidr: 10.0.0.0/8}]\n":                                                                 "both needed",
		"networks: [{cidr: 10.0.0.0/8, network: a}, {cidr: 10.1.0.0/8, network: b}]\n":                     "10.0.0.0/8 is there twice",
	} {
		_, err := parse("f", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 400 {
			t.Errorf("%.80q: error %v, want one line with %q", text, err, want)
		}
	}
	if _, err := New(Options{File: "/nonexistent/i.yaml"}, prometheus.NewRegistry(), slog.Default()); err == nil || err.Error() != "identity file /nonexistent/i.yaml: no such file or directory" {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("workloads: [{workload: a/b, netns: /x, ports: 1-2, addresses: [::]}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := parse("f", data)
		if err != nil {
			return
		}
		for _, e := range parsed.Workloads {
			if CheckWorkload(e.Workload) != nil || len(e.Instance) > maxName || !clean(e.Instance) {
				t.Errorf("accepted %+v", e)
			}
		}
	})
}

func TestUnitOf(t *testing.T) {
	for path, want := range map[string]string{
		"/system.slice/nginx.service": "nginx", "/system.slice/postgresql@14-main.service": "postgresql@14-main", "/": "", "/init.scope": "",
		"/user.slice/user-1000.slice/session-3.scope":                                      "",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/sync.service":             "sync",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope":              "",
		"/system.slice/containerd.service/kubepods-burstable.slice/cri-containerd-1.scope": "",
		"/system.slice/nginx.service/worker":                                               "nginx",
	} {
		if got := unitOf(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func addrString(a [16]byte) string { return netip.AddrFrom16(a).Unmap().String() }

func BenchmarkLocal(b *testing.B) {
	h := history{keys: map[key][]span{}}
	want := map[key]*Owner{}
	for i := range 10_000 {
		a := [16]byte{10: 0xff, 11: 0xff, 12: 10, 14: byte(i >> 8), 15: byte(i)}
		want[key{kind: byAddr, addr: a}] = &Owner{Workload: "s/a", Evidence: flow.EvidenceAddress}
	}
	h.update(want, 0, func(key) bool { return false })
	book := &Book{}
	book.metrics = newBookMetrics(book)
	book.table.Store(h.table())
	socket := Socket{NetnsIno: 7, CgroupID: 99, Addr: addr("10.0.4.210"), StartNs: 5}
	b.ReportAllocs()
	for b.Loop() {
		if _, why := book.Local(socket); why != flow.WhyNamed {
			b.Fatal("unnamed")
		}
	}
}

// A change among 10,000 entries: how long the table takes.
func BenchmarkRebind(b *testing.B) {
	owner := &Owner{Workload: "s/a"}
	want := map[key]*Owner{}
	for i := range uint64(10_000) {
		want[key{kind: byCgroup, id: i}] = owner
	}
	h := history{keys: map[key][]span{}}
	for i := 0; b.Loop(); i++ {
		h.update(want, int64(i), func(key) bool { return false })
		h.table()
		want[key{kind: byCgroup, id: 5}] = &Owner{Workload: "s/b", Release: string(rune(i))}
	}
}
