package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/exporter/mounts"
	"tributary/proto/flow"
	"tributary/service/files"
	"tributary/service/testenv"
)

// A changed file takes effect at once, and says of each release why.
func TestFileChanges(t *testing.T) {
	testenv.NeedRoot(t)
	a := namespace(t, "f")
	for _, address := range []string{"10.209.2.1/24", "10.209.2.2/24", "10.209.2.3/24"} {
		ip(t, in(a, "addr", "add", address, "dev", "d0")...)
	}
	file := func(one, two string) string {
		return "workloads:\n- {workload: " + one + ", instance: i1, addresses: [10.209.2.1]}\n- {workload: " + two + ", instance: i2, addresses: [10.209.2.2]}\n"
	}
	b, registry := newBook(t, Options{}, file("s/a", "s/b"))
	running(t, b)
	s := listen(t, b)
	reloaded := func(text string, count string) func() {
		return func() {
			want := metricsOf(t, registry)[count] + 1
			write(t, b.opts.File, text)
			eventually(t, count, func() bool { return metricsOf(t, registry)[count] == want })
		}
	}
	before := time.Now().UnixNano()
	s.want(b, reloaded(file("s/c", "s/b"), "file_reloads_total ok"), "default 10.209.2.1 not s/a: moved", "default 10.209.2.1 is s/c")
	for at, want := range map[int64]string{before: "s/a", time.Now().UnixNano(): "s/c"} {
		if got, _ := b.Local(Socket{Addr: addr("10.209.2.1"), StartNs: at}); got.Workload != want || got.Evidence != flow.EvidenceAddress {
			t.Errorf("a flow of %d is %+v, want %s", at, got, want)
		}
	}
	s.want(b, reloaded("workloads: [{workload: bad}]\n", "file_reloads_total invalid"))
	s.want(b, reloaded(strings.Replace(file("s/c", "s/b"), "[10.209.2.2]", "[10.209.2.3]", 1), "file_reloads_total ok"),
		"default 10.209.2.2 not s/b: stopped", "default 10.209.2.3 is s/b")
	lines := s.after(b, reloaded("zone: x\n", "file_reloads_total ok"))
	slices.Sort(lines)
	if diff := cmp.Diff([]string{"default 10.209.2.1 not s/c: stopped", "default 10.209.2.3 not s/b: stopped"}, lines); diff != "" {
		t.Error(diff)
	}
	checkBooks(t, registry, b)
}

// Kubernetes changes a file by swapping a symbolic link above it.
func TestSymlinkSwap(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, d, "i.yaml"), "workloads: [{workload: s/"+d+", addresses: [10.209.2.9]}]\n")
	}
	link := func(from, to string) {
		if err := os.Symlink(from, filepath.Join(dir, "tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "..data")
	link("..data/i.yaml", "i.yaml")
	b, _ := newBook(t, Options{File: filepath.Join(dir, "i.yaml")}, "")
	running(t, b)
	link("v2", "..data")
	eventually(t, "the new file", func() bool {
		owner, _ := b.Local(Socket{Addr: addr("10.209.2.9"), StartNs: time.Now().UnixNano()})
		return owner.Workload == "s/v2"
	})
}

// A reader that does not keep up is cut off and begins anew; one whose context ends is let go.
func TestSubscriptions(t *testing.T) {
	b, registry := newBook(t, Options{}, "")
	ctx, cancel := context.WithCancel(t.Context())
	_, slow := b.Subscribe(t.Context())
	_, left := b.Subscribe(ctx)
	cancel()
	for range left {
	}
	b.mu.Lock()
	for range changesWaiting + 1 {
		b.publish(Change{Claims: make([]Claim, 1)})
	}
	b.mu.Unlock()
	n := 0
	for range slow {
		n++
	}
	m := metricsOf(t, registry)
	if n != changesWaiting || m["subscriptions"] != 0 || m["subscriptions_cut_total"] != 1 {
		t.Errorf("%d changes, %v", n, m)
	}
}

// The static workload has the addresses of the exporter's own namespace; a plain host claims nothing but is verified.
func TestStaticAndPlain(t *testing.T) {
	b, _ := newBook(t, Options{OwnNetns: true, Workload: "base/host"}, "")
	running(t, b)
	full, _ := b.Subscribe(t.Context())
	for _, c := range full {
		if c.Workload != "base/host" || !c.Derived || c.Instance != "base/host@h1" || c.Evidence != flow.EvidenceStatic {
			t.Errorf("%+v", c)
		}
	}
	plain, _ := newBook(t, Options{HostNames: true}, "")
	running(t, plain)
	if full, _ := plain.Subscribe(t.Context()); len(full) != 0 {
		t.Errorf("a plain host claims %v", full)
	}
	socket := Socket{Comm: "Web Content", CgroupID: 1}
	if got, _ := plain.Local(socket); got.Workload != "h1/Web_Content" || got.Evidence != flow.EvidenceProgram {
		t.Errorf("%+v", got)
	}
	if n := testing.AllocsPerRun(100, func() { plain.Local(socket) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A cgroup and what is below it, also when it is made later; the inner entry wins. A unit is found by its name.
func TestCgroups(t *testing.T) {
	testenv.NeedRoot(t)
	root := mounts.CgroupRoot()
	if root == "" {
		testenv.Skip(t, "no cgroup v2 hierarchy is mounted")
	}
	top := fmt.Sprintf("tbid%d", os.Getpid())
	mkdir := func(parts ...string) uint64 {
		t.Helper()
		dir := filepath.Join(append([]string{root, top}, parts...)...)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		id, err := inode(dir)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	outer, inner := mkdir(), mkdir("inner")
	unit := mkdir("tbid.service")
	b, _ := newBook(t, Options{}, "workloads:\n- {workload: s/o, cgroup: /"+top+"}\n- {workload: s/i, cgroup: "+root+"/"+top+"/inner/deep}\n")
	running(t, b)
	named := func(id uint64, want string) func() bool {
		return func() bool {
			owner, _ := b.Local(Socket{CgroupID: id, StartNs: time.Now().UnixNano() - int64(time.Minute)})
			return owner.Workload == want
		}
	}
	eventually(t, "the outer one", named(outer, "s/o"))
	eventually(t, "one below it", named(inner, "s/o"))
	deep := mkdir("inner", "deep")
	eventually(t, "one made later", named(deep, "s/i"))
	eventually(t, "one below that", named(mkdir("inner", "deep", "leaf"), "s/i"))

	plain, _ := newBook(t, Options{HostNames: true}, "")
	if got, _ := plain.Local(Socket{CgroupID: unit, Comm: "x"}); got.Workload != "h1/tbid" || got.Evidence != flow.EvidenceUnit {
		t.Errorf("%+v", got)
	}
	if got, _ := plain.Local(Socket{CgroupID: inner, Comm: "x"}); got.Workload != "h1/x" {
		t.Errorf("%+v", got)
	}
	byUnit, _ := newBook(t, Options{}, "workloads: [{workload: s/u, unit: tbid.service}]\n")
	running(t, byUnit)
	eventually(t, "the unit", func() bool {
		owner, _ := byUnit.Local(Socket{CgroupID: unit})
		return owner.Workload == "s/u" && owner.Evidence == flow.EvidenceCgroup
	})
}

// Every counter is there from the start with all values of its labels.
func TestMetrics(t *testing.T) {
	b, registry := newBook(t, Options{}, example)
	b.Local(Socket{Addr: addr("10.77.0.12")})
	b.Local(Socket{})
	want := map[string]float64{
		"lookups_total none": 1, "lookups_total cgroup": 0, "lookups_total netns": 0, "lookups_total port": 0, "lookups_total address": 1,
		"lookups_total unit": 0, "lookups_total program": 0, "lookups_total static": 0,
		"claims_total": 0, "releases_total moved": 0, "releases_total gone": 0, "releases_total stopped": 0, "releases_total shared": 0, "open_claims": 0,
		"file_reloads_total ok": 0, "file_reloads_total invalid": 0,
		"address_events_total added": 0, "address_events_total removed": 0, "address_events_total lost": 0,
		"namespaces": 0, "subscriptions": 0, "subscriptions_cut_total": 0, "holes_total": 0, "shared_addresses": 0, "past_owners_forgotten_total": 0,
	}
	if diff := cmp.Diff(want, metricsOf(t, registry)); diff != "" {
		t.Error(diff)
	}
}

// TestNoIdentityFile: what is no file is not opened, which would wait for the writer of a FIFO.
func TestNoIdentityFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.yaml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan error)
	go func() {
		_, _, err := load(path)
		loaded <- err
	}()
	select {
	case err := <-loaded:
		if !errors.Is(err, files.ErrIrregular) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a FIFO is waited for")
	}
}
