package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A disk that fills up under --data: the collector says so, takes no more than it can answer for, acknowledges nothing that is not stored, and
// goes on by itself when there is room again.
func TestDiskFull(t *testing.T) {
	r := bareRig(t, false)
	data := filepath.Join(r.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=96m"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		r.stop()
		if err := unix.Unmount(data, 0); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	r.observe(hosts)
	r.serve()
	ballast := filepath.Join(data, "ballast")
	fill(t, ballast)
	const acked = "tributary_exporter_spool_acked_rows_total"
	before := r.sample(r.exporterMetrics).sum(acked)
	truth, err := r.world.RunPlan(r.ctx, r.plan(1_000))
	if err != nil {
		t.Fatal(err)
	}
	r.untilLog(r.collector, "its disk is full")
	r.untilPending(ends(truth))
	if after := r.sample(r.exporterMetrics).sum(acked); after != before {
		t.Errorf("%v rows were acknowledged that no store has", after-before)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	r.stored(truth)
	r.checkExact(truth)
	r.checkRefused(refused)
	r.checkBooks()
}

// fill writes a file until nothing more goes on its disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		switch _, err := f.Write(block); {
		case errors.Is(err, unix.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			t.Fatal(err)
		}
	}
}

// untilLog waits until the program's log has the text.
func (r *rig) untilLog(p *program, text string) {
	r.t.Helper()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		content, err := os.ReadFile(p.log)
		if err != nil {
			r.t.Fatal(err)
		}
		if strings.Contains(string(content), text) {
			return
		}
	}
	r.t.Fatalf("%s does not say %q:\n%s", p.name, text, tail(p.log))
}

// untilPending waits until the exporter keeps n unacknowledged rows or more.
func (r *rig) untilPending(n uint64) {
	r.t.Helper()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if r.sample(r.exporterMetrics).sum("tributary_exporter_spool_pending_rows") >= float64(n) {
			return
		}
	}
	r.t.Fatal("the exporter does not keep the rows that the store cannot take")
}
