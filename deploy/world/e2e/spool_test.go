package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An exporter that is killed while the collector is away loses nothing that it had sealed, and nothing is stored twice: the next
// run finds it in the spool and sends it under the name of the run that died.
func TestExporterKilledWhileTheCollectorIsAway(t *testing.T) {
	r := newRig(t, hosts, false)
	r.serve()
	whole := r.plan(3_000)
	truth := r.part(whole, 0, 3) // the collector has these, and may not have acknowledged them all
	r.collector.kill()
	unseen := r.part(whole, 1, 3)
	truth.Connections = append(truth.Connections, unseen.Connections...)
	r.awaitSealed(ends(truth))
	killed := time.Now()
	r.exporter.kill()
	if rows := r.spooled(); rows < ends(unseen) {
		t.Errorf("%d rows in the spool, %d connection ends were captured while the collector was away", rows, ends(unseen))
	}

	restarted := time.Now()
	r.launchExporter("--identity", r.identity())
	r.awaitCapture()
	truth.Connections = append(truth.Connections, r.part(whole, 2, 3).Connections...)
	r.startCollector()
	r.ready(r.exporter, r.exporterMetrics)
	r.stored(truth)
	r.checkExact(truth)
	r.checkRefused(refused)
	if n := r.number(`SELECT uniqExact(exporter_id) FROM flows WHERE ` + r.inWorld()); n != 2 {
		t.Errorf("records of %d runs, want 2", n)
	}
	r.checkSpoolEmpties()
	r.checkGap(killed, restarted)
}

// checkGap wants the new run to have told the collector from when to when something may be missing: not later than the kill, at most
// 2 s before it, and until it captured.
func (r *rig) checkGap(killed, restarted time.Time) {
	r.t.Helper()
	const from, to = `counters['gap.from_ns']`, `counters['gap.to_ns']`
	within := func(column string, after, before time.Time) string {
		return fmt.Sprintf("max(%s) BETWEEN %d AND %d", column, after.UnixNano(), before.UnixNano())
	}
	r.waitFor(1, soon, `SELECT max(counters['gap.killed']) AND `+within(from, killed.Add(-2*time.Second), killed)+
		` AND `+within(to, restarted, time.Now())+` FROM exporter_health`)
}

// awaitSealed waits until the exporter has sealed at least n ends of connections, and what else it had read.
func (r *rig) awaitSealed(n uint64) {
	r.t.Helper()
	for deadline := time.Now().Add(soon); ; time.Sleep(100 * time.Millisecond) {
		s := r.sample(r.exporterMetrics)
		ended := s[`tributary_exporter_event_decoded_total{kind="closed"}`] + s[`tributary_exporter_event_decoded_total{kind="failed"}`]
		if ended >= float64(n) && s["tributary_exporter_batch_open_rows"] == 0 {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%v ends of %d were read", ended, n)
		}
	}
	time.Sleep(3 * time.Second) // other connections of the host count too: the ring is read every 500 ms, a batch sealed each second
}

// awaitCapture waits until the exporter captures, collector or not.
func (r *rig) awaitCapture() {
	r.t.Helper()
	for deadline := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		_, err := get("http://" + r.exporterMetrics + "/readyz")
		if err == nil || strings.Contains(err.Error(), "no collector has answered") && !strings.Contains(err.Error(), "not attached") {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the exporter does not capture: %v", err)
		}
	}
}

// spooled asks the exporter's own verb how many rows are to be sent.
func (r *rig) spooled() (rows uint64) {
	r.t.Helper()
	out, err := exec.CommandContext(r.ctx, filepath.Join(programs, "tributary-exporter"), "spool", "--spool-dir", r.spool(), "-o", "json").Output()
	if err != nil {
		r.t.Fatal(err)
	}
	for lines := json.NewDecoder(bytes.NewReader(out)); lines.More(); {
		var file struct {
			State         string
			Rows, Damaged uint64
		}
		if err := lines.Decode(&file); err != nil {
			r.t.Fatalf("%v: %s", err, out)
		}
		if file.State != "ready" || file.Damaged != 0 {
			r.t.Errorf("in the spool: %+v", file)
		}
		rows += file.Rows
	}
	return rows
}

// checkSpoolEmpties wants all that was found to be acknowledged, nothing lost on the way, and the books of the new run to balance.
func (r *rig) checkSpoolEmpties() {
	r.t.Helper()
	var s sample
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		s = r.sample(r.exporterMetrics)
		if len(s.unbalanced(exporterBooks)) == 0 && s["tributary_exporter_spool_pending_rows"] == 0 {
			break
		}
	}
	if wrong := s.unbalanced(exporterBooks); len(wrong) > 0 {
		r.t.Errorf("the books do not balance: %v", wrong)
	}
	for _, name := range noLoss {
		if n := s.sum(name); n != 0 {
			r.t.Errorf("%s is %v", name, n)
		}
	}
	if s[`tributary_exporter_spool_taken_rows_total{source="recovered"}`] == 0 || s["tributary_exporter_spool_pending_rows"] != 0 {
		r.t.Errorf("%v rows were recovered, %v are pending", s[`tributary_exporter_spool_taken_rows_total{source="recovered"}`], s["tributary_exporter_spool_pending_rows"])
	}
}
