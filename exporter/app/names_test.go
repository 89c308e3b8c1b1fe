package app

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/testing/protocmp"

	"tributary/exporter/config"
	"tributary/exporter/event"
	"tributary/exporter/identity"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/findings"
	"tributary/service/testenv"
)

func TestChangesBecomeMessages(t *testing.T) {
	key := identity.Key{Network: "lab", Addr: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 9}, PortFrom: 1, PortTo: 2}
	owner := identity.Owner{Workload: "a/b", Instance: "b-1", Zone: "z", Region: "r", Release: "v", Evidence: flow.EvidenceNetns, Derived: true}
	claim := identity.Claim{Key: key, Owner: owner, FromNs: 5}
	got := ownershipMessage(identity.Change{
		Claims: []identity.Claim{claim},
		Releases: []identity.Release{
			{Claim: claim, AtNs: 6, Reason: identity.Moved}, {Claim: claim, AtNs: 6, Reason: identity.Gone}, {Claim: claim, AtNs: 6, Reason: identity.Stopped},
		},
	})
	release := func(reason flowv1.ReleaseReason) *flowv1.Release {
		return &flowv1.Release{Network: "lab", Addr: key.Addr[:], PortFrom: 1, PortTo: 2, Workload: "a/b", Instance: "b-1", AtNs: 6, Reason: reason}
	}
	want := &flowv1.Ownership{
		Claims: []*flowv1.Claim{{
			Network: "lab", Addr: key.Addr[:], PortFrom: 1, PortTo: 2, Workload: "a/b", Instance: "b-1", InstanceDerived: true,
			Zone: "z", Region: "r", Release: "v", Evidence: flowv1.Evidence_EVIDENCE_NETNS, FromNs: 5,
		}},
		Releases: []*flowv1.Release{
			release(flowv1.ReleaseReason_RELEASE_REASON_MOVED), release(flowv1.ReleaseReason_RELEASE_REASON_GONE),
			release(flowv1.ReleaseReason_RELEASE_REASON_STOPPED),
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestProgramsNameOnlyWhereNothingElseDoes(t *testing.T) {
	for _, c := range []struct {
		file, workload string
		want           bool
	}{{"", "", true}, {"f.yaml", "", false}, {"", "a/b", false}} {
		if got := identityOptions(config.Config{Identity: c.file, Workload: c.workload}, host{}).HostNames; got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestDoctorSaysWhatIsAbsent(t *testing.T) {
	testenv.NeedRoot(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	file := filepath.Join(t.TempDir(), "identity.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := testConfig(t, listener.Addr().String())
	c.Identity, c.Workload, c.Instance = file, "", ""
	write("workloads:\n- workload: shop/web\n  addresses: [198.51.100.77]\n")
	var out bytes.Buffer
	if err := Doctor(t.Context(), c, &out); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"ok    capture loads", "warn  shop/web: 198.51.100.77", "ok    something listens"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	write("worklods: []\n")
	out.Reset()
	if err := Doctor(t.Context(), c, &out); err == nil || !strings.Contains(out.String(), "FAIL") || !strings.Contains(out.String(), "worklods") {
		t.Errorf("a bad file: %v\n%s", err, out.String())
	}
}

// TestChangedIdentityFile changes the owner of a namespace between connections: each record has the owner of its time, and the
// addresses change hands, without a restart and without a lost record.
func TestChangedIdentityFile(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "identity.yaml")
	write := func(workload string) {
		text := "workloads:\n- workload: " + workload + "\n  instance: one\n  netns: /proc/self/ns/net\n"
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("lab/before")
	c := startCollector(t)
	config := testConfig(t, c.address)
	config.Identity, config.Workload, config.Instance = file, "", ""
	config.Conntrack = false // its look-ups are the capture goroutine's alone, and this test looks names up too
	a, stop := runApp(t, config)
	const n = 53
	before := exchange(t, "127.0.0.1:0", n)
	time.Sleep(50 * time.Millisecond) // file times are those of the kernel's last tick
	write("lab/after")
	now := func() string {
		e := event.Event{NetnsInum: mustNetns(t)}
		return a.names.local(&e, "", time.Now().UnixNano()).Workload
	}
	for end := time.Now().Add(30 * time.Second); now() != "lab/after"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the changed file does not take effect")
		}
	}
	after := exchange(t, "127.0.0.1:0", n)
	c.awaitWatermarks(t, 2) // one may have been under way; all changes are told before the second
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for port, workload := range map[uint32]string{before: "lab/before", after: "lab/after"} {
		named, _, _ := c.count(func(r row) bool { return (r.localPort == port || r.remotePort == port) && r.workload == workload })
		all, _, _ := c.count(func(r row) bool { return r.localPort == port || r.remotePort == port })
		if named != 2*n || all != 2*n {
			t.Errorf("%s: %d rows of %d have the name, want %d", workload, named, all, 2*n)
		}
	}
	checkHandover(t, c.said)
}

func mustNetns(t *testing.T) uint32 {
	t.Helper()
	inum, err := scopeNetns("netns")
	if err != nil {
		t.Fatal(err)
	}
	return inum
}

// checkHandover: every claim of the old owner is released before the new one claims. A host without an address beyond loopback
// claims nothing.
func checkHandover(t *testing.T, said []string) {
	t.Helper()
	count := map[string]int{}
	for i, s := range said {
		count[s]++
		if s == "claim lab/after" && count["release lab/before"] == 0 {
			t.Errorf("the new owner claims before the old one releases: %v", said[:i+1])
		}
	}
	if n := count["claim lab/before"]; count["release lab/before"] != n || count["claim lab/after"] != n || len(said) != 3*n {
		t.Errorf("claims and releases do not match: %v", count)
	}
	if len(said) == 0 {
		t.Log("this host has no address to claim")
	}
}

// BenchmarkNames is what naming adds to BenchmarkRecord.
func BenchmarkNames(b *testing.B) {
	for name, workload := range map[string]string{"static": "a/b", "program": ""} {
		b.Run(name, func(b *testing.B) {
			c := config.Config{Network: "default", Workload: workload}
			book, err := identity.New(identityOptions(c, host{name: "h"}), prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			n := &names{book: book}
			e := event.Event{NetnsInum: 4026531840, CgroupID: 99999999, PID: 1 << 22, LocalAddr: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 1}}
			now := time.Now().UnixNano()
			b.ReportAllocs()
			for b.Loop() {
				_ = n.local(&e, "curl", now)
			}
		})
	}
}

// TestDoctorLooksAtTheSpool: a directory that can be made is fine, and is not made.
func TestDoctorLooksAtTheSpool(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "a", "b")
	for dir, want := range map[string]string{
		"": "warn  no spool directory", file: "is no directory", filepath.Join(file, "x"): "cannot be written", missing: "ok    batches",
	} {
		var out bytes.Buffer
		d := doctor{findings.New(&out)}
		d.spool(dir)
		if !strings.Contains(out.String(), want) || d.Failed() {
			t.Errorf("%q: %s", dir, out.String())
		}
	}
	if _, err := os.Stat(filepath.Dir(missing)); err == nil {
		t.Error("the directory was made")
	}
}
