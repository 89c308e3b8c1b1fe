package e2e

import (
	"slices"
	"testing"
	"time"

	"tributary/deploy/world"
)

// settled is how long a collector takes to be sure after its start that no exporter is still to come. Until then it calls
// nothing no_evidence, and a stranger's connection to an unknown address keeps the whole batch it is in for 4 s.
const settled = 12 * time.Second

// From the end of a short connection to its named row in the store: half within 3 s, 99 % within 6 s, three times what it takes. (Other tests look at
// a collector that has just started.)
func TestLatency(t *testing.T) {
	r := newRig(t, hosts, false)
	r.serve()
	time.Sleep(settled)
	const n = 300
	job := world.Job{ID: "short", Every: 30 * time.Millisecond, Parallel: 4}
	for i := range n {
		job.Calls = append(job.Calls, world.Call{To: r.to("back", portBack, i), Request: 100, Response: 1000})
	}
	if err := r.procs["front"].Begin(job); err != nil {
		t.Fatal(err)
	}
	seen := map[endKey]time.Time{}
	for quiet := time.Now().Add(n * job.Every); time.Now().Before(quiet); time.Sleep(50 * time.Millisecond) {
		r.look(seen)
	}
	if err := r.procs["front"].Quiet(r.ctx); err != nil {
		t.Fatal(err)
	}
	truth, err := r.world.Settle(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(soon); uint64(len(seen)) < ends(truth) && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		r.look(seen)
	}
	latencies := r.latencies(truth, seen)
	half, most := latencies[len(latencies)/2], latencies[len(latencies)*99/100]
	t.Logf("%d ends: half within %v, 99 %% within %v, all within %v", len(latencies), half, most, latencies[len(latencies)-1])
	if half > 3*time.Second || most > 6*time.Second {
		t.Errorf("half within %v (want 3s), 99 %% within %v (want 6s)", half, most)
	}
}

// look notes when a named row is first seen.
func (r *rig) look(seen map[endKey]time.Time) {
	r.t.Helper()
	rows := r.rows(`SELECT toString(role), local_addr, local_port, remote_addr, remote_port FROM flows
		WHERE kind = 'closed' AND local_workload != '' AND remote_workload != '' AND ` + r.inWorld())
	now := time.Now()
	for _, row := range rows {
		k := endKey{row[0], address(r.t, row[1], row[2]), address(r.t, row[3], row[4])}
		if _, ok := seen[k]; !ok {
			seen[k] = now
		}
	}
}

// latencies is how long each end took, sorted; an end that never came takes an hour.
func (r *rig) latencies(truth world.Truth, seen map[endKey]time.Time) []time.Duration {
	r.t.Helper()
	var all []time.Duration
	note := func(role string, e *world.Entry) {
		at, ok := seen[endKey{role, e.Local, e.Remote}]
		if !ok {
			r.t.Errorf("never seen: %s %s to %s", role, e.Local, e.Remote)
			at = time.Now().Add(time.Hour)
		}
		all = append(all, at.Sub(time.Unix(0, e.End)))
	}
	for _, c := range truth.Connections {
		note("client", &c.Client)
		if c.Server != nil {
			note("server", c.Server)
		}
	}
	if len(all) == 0 {
		r.t.Fatal("no connection at all")
	}
	slices.Sort(all)
	return all
}
