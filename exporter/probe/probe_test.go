package probe

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"tributary/bpf"
	"tributary/exporter/event"
	"tributary/service/testenv"
)

func TestRecordLayoutIsTheKernels(t *testing.T) {
	spec, err := bpf.LoadCapture()
	if err != nil {
		t.Fatal(err)
	}
	var c *btf.Struct
	if err := spec.Types.TypeByName("flow_record", &c); err != nil {
		t.Fatal(err)
	}
	twin := reflect.TypeFor[event.Record]()
	if int(c.Size) != event.RecordSize || len(c.Members) != twin.NumField() {
		t.Fatalf("C: %d bytes, %d members; Go: %d bytes, %d fields", c.Size, len(c.Members), event.RecordSize, twin.NumField())
	}
	for i, m := range c.Members {
		f := twin.Field(i)
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.EqualFold(camel(m.Name), f.Name) || m.Offset.Bytes() != uint32(f.Offset) || size != int(f.Type.Size()) {
			t.Errorf("C %s at %d of %d bytes; Go %s at %d of %d bytes", m.Name, m.Offset.Bytes(), size, f.Name, f.Offset, f.Type.Size())
		}
	}
}

func camel(snake string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' {
			return -1
		}
		return unicode.ToLower(r)
	}, snake)
}

func TestCloseEarlyAndTwice(t *testing.T) {
	p := New(Options{})
	if _, err := p.Counters(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := p.Start(); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrPrivilege) {
		t.Errorf("start after close: %v", err)
	}
	if _, _, err := p.Ring(); !errors.Is(err, ErrClosed) {
		t.Errorf("ring after close: %v", err)
	}
	if _, err := p.Walk(); !errors.Is(err, ErrClosed) {
		t.Errorf("walk after close: %v", err)
	}
}

func TestNothingIsLeftInTheKernel(t *testing.T) {
	testenv.NeedRoot(t)
	p := New(Options{FailedConnects: true})
	if err := p.Start(); err != nil || p.Missing() != nil {
		t.Fatal(err, p.Missing())
	}
	if err := p.Start(); err == nil {
		t.Error("a second start was accepted")
	}
	var ids []ebpf.ProgramID
	for _, prog := range append(p.tracepoints(), p.objects.FailedConnect, p.objects.ReportOpenSockets, p.objects.FindSockets) {
		info, err := prog.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		ids = append(ids, id)
	}
	if costs, err := p.Costs(); err != nil || len(costs) != 9 {
		t.Errorf("costs: %v, %v", costs, err)
	}
	if err := p.Detach(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, id := range ids {
		waitFor(t, func() bool { // freed after a grace period
			prog, err := ebpf.NewProgramFromID(id)
			if err == nil {
				prog.Close()
			}
			return err != nil
		})
	}
}

func TestStartFailureLeavesNothing(t *testing.T) {
	testenv.NeedRoot(t)
	p := New(Options{RingBytes: 5000}) // no power of two
	err := p.Start()
	if err == nil {
		t.Fatal("a ring of 5000 bytes was accepted")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a sentence: %v", err)
	}
	if p.objects != nil || p.links != nil || p.slots != nil || p.hashed != nil {
		t.Error("something is left")
	}
}

func TestKernelVersions(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.223": false, "4.19.0-27-amd64": false, "5.14-rc1": false, "5.15.0-97-generic": true, "5.15-rc1": true,
		"6.1.0": true, "6.18.44-x": true, "10.0": true, "what": true, "x.y.z": true,
	} {
		if got := newEnough(release); got != want {
			t.Errorf("%s: %v, want %v", release, got, want)
		}
	}
}

func TestEffectiveCapabilities(t *testing.T) {
	got, err := effectiveCapabilities("Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000000c000000000\n")
	if err != nil || got != 1<<38|1<<39 {
		t.Errorf("%#x, %v", got, err)
	}
	if _, err := effectiveCapabilities("Name:\tx\n"); err == nil {
		t.Error("a status without CapEff was accepted")
	}
}

const checkEnv = "TRIBUTARY_PROBE_TEST_CHECK"

// TestCheckInAUserNamespace: its root has every capability, and still lacks the host's. That is not the kernel's nature, so nothing else is tried.
func TestCheckInAUserNamespace(t *testing.T) {
	testenv.NeedRoot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), checkEnv+"=1")
	whole := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 16}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: whole, GidMappings: whole}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), ErrPrivilege.Error()+" of the host; this process has those of a user namespace") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCostOfAnEndIsMeasured(t *testing.T) {
	s := newSpace(t)
	p := start(t, Options{}, s.inum)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for range 200 {
			_, _ = s.dial("127.0.0.1:9")
		}
	}()
	perEnd, err := p.MeasurePerEnd(ctx)
	if err != nil || perEnd < 50*time.Nanosecond || perEnd > 100*time.Microsecond {
		t.Errorf("an end takes %v, %v", perEnd, err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if perEnd, err := p.MeasurePerEnd(done); err != nil || perEnd != 0 {
		t.Errorf("without any end: %v, %v", perEnd, err)
	}
}
