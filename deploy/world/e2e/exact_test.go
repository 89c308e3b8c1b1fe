package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/deploy/world"
)

var hosts = []world.Host{
	{Name: "front", Number: 11, Workload: "e2e/front", Instance: "front-1", Release: "1"},
	{Name: "back", Number: 12, Workload: "e2e/back", Instance: "back-1", Release: "1", ByAddress: true},
	{Name: "store", Number: 13, Workload: "e2e/store", Instance: "store-1", Release: "1"},
	{Name: "job", Number: 14, Workload: "e2e/job", Instance: "job-1", Release: "1", ByAddress: true},
}

const (
	portBack    = 8080
	portStore   = 5432
	portRefused = 9999
	refused     = 53
)

// serve opens the ports of the servers.
func (r *rig) serve() {
	r.t.Helper()
	for host, port := range map[string]uint16{"back": portBack, "store": portStore} {
		if err := r.procs[host].Listen(r.ctx, world.Listen{Port: port}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// plan is n connections of different sizes between four pairs, IPv4 and IPv6, some closed by the server, and the refused ones.
func (r *rig) plan(n int) []world.Step {
	pairs := []struct {
		from, to string
		port     uint16
	}{{"front", "back", portBack}, {"back", "store", portStore}, {"job", "store", portStore}, {"job", "back", portBack}}
	steps := make([]world.Step, len(pairs))
	for i, p := range pairs {
		steps[i] = world.Step{By: r.procs[p.from], Job: world.Job{ID: fmt.Sprintf("%s-%s", p.from, p.to), Parallel: 4}}
	}
	for i := range n {
		p, job := pairs[i%len(pairs)], &steps[i%len(pairs)].Job
		job.Calls = append(job.Calls, world.Call{
			To: r.to(p.to, p.port, i/len(pairs)), Request: uint64(16 + i), Response: uint64(i * 7919 % 20_011), ServerCloses: i%7 == 0, Rounds: 1 + i%2,
		})
	}
	for i := range refused {
		steps[0].Job.Calls = append(steps[0].Job.Calls, world.Call{To: r.to("store", portRefused, i), Request: 16})
	}
	return steps
}

func (r *rig) to(host string, port uint16, i int) netip.AddrPort {
	if i%2 == 0 {
		return netip.AddrPortFrom(r.world.IPv4(host), port)
	}
	return netip.AddrPortFrom(r.world.IPv6(host), port)
}

// run does the plan and waits until its last record is stored.
func (r *rig) run(plan []world.Step) world.Truth {
	r.t.Helper()
	truth, err := r.world.RunPlan(r.ctx, plan)
	if err != nil {
		r.t.Fatal(err)
	}
	r.stored(truth)
	return truth
}

func (r *rig) stored(truth world.Truth) {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			r.t.Logf("what is stored: %v", r.rows(`SELECT role, kind, local_why, remote_why, max(version), count() FROM flows WHERE `+r.inWorld()+` GROUP BY ALL`))
			r.t.Logf("what was lost: %v", r.losses())
		}
	}()
	r.waitFor(ends(truth), soon, `SELECT count() FROM flows WHERE kind IN ('closed', 'failed') AND remote_why != 'pending' AND `+r.inWorld())
}

// Every connection, every byte, every name; the same out of Kafka; and the books balance.
func TestExact(t *testing.T) {
	r := newRig(t, hosts, true)
	r.serve()
	truth := r.run(r.plan(5_000))
	r.checkExact(truth)
	r.checkRollups(truth)
	r.checkRefused(refused)
	r.checkKafka(truth)
	r.checkBooks()
	r.checkListeners(truth)
}

// checkListeners wants both servers' listeners with their owners, one known by its addresses, the other by its namespace, and every
// connection that they accepted.
func (r *rig) checkListeners(truth world.Truth) {
	r.t.Helper()
	accepted := uint64(0)
	for _, c := range truth.Connections {
		if c.Server != nil {
			accepted++
		}
	}
	const ours = ` FROM listeners WHERE (local_workload, local_port) IN (('e2e/back', 8080), ('e2e/store', 5432)) AND since_observed AND pid > 0`
	r.waitFor(accepted, soon, `SELECT sum(accepted)`+ours)
	if rows := r.rows(`SELECT count(), uniq(host, netns, local_port), countIf(last_accepted_ns BETWEEN since_ns AND read_time_ns), sum(accept_queue)` + ours); strings.Join(rows[0], " ") != "2 2 2 0" {
		r.t.Errorf("listeners: %v", r.rows(`SELECT *`+ours))
	}
}

// A collector that is killed in the middle loses nothing and stores nothing twice.
func TestCollectorKilled(t *testing.T) {
	r := newRig(t, hosts, true)
	r.serve()
	truth := r.disturbed(func() {
		r.collector.kill()
		time.Sleep(500 * time.Millisecond)
		r.startCollector()
	})
	r.checkExact(truth)
	r.checkRollups(truth)
	r.checkRefused(refused)
	r.checkKafka(truth)
	r.checkBooks()
}

// The same for the store alone.
func TestStoreKilled(t *testing.T) {
	r := newRig(t, hosts, false)
	r.serve()
	truth := r.disturbed(func() {
		children := r.collector.children(t)
		if len(children) != 1 {
			t.Errorf("the collector has children %v, want the store alone", children)
			return
		}
		if err := unix.Kill(children[0], unix.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	r.checkExact(truth)
	r.checkRollups(truth)
	r.checkRefused(refused)
	r.checkBooks()
}

// disturbed runs 5,000 connections over some seconds and disturbs a third into it; connections go on meanwhile.
func (r *rig) disturbed(disturb func()) world.Truth {
	r.t.Helper()
	const parts = 10
	whole := r.plan(5_000)
	var truth world.Truth
	var wait sync.WaitGroup
	for part := range parts {
		if part == parts/3 {
			wait.Go(disturb)
		}
		truth.Connections = append(truth.Connections, r.part(whole, part, parts).Connections...)
		time.Sleep(300 * time.Millisecond)
	}
	wait.Wait()
	r.stored(truth)
	return truth
}

// part does one part of every job.
func (r *rig) part(plan []world.Step, part, parts int) world.Truth {
	r.t.Helper()
	steps := slices.Clone(plan)
	for i := range steps {
		j := &steps[i].Job
		n := len(j.Calls)
		j.ID = fmt.Sprintf("%s-%d", j.ID, part)
		j.Calls = j.Calls[n*part/parts : n*(part+1)/parts]
	}
	truth, err := r.world.RunPlan(r.ctx, steps)
	if err != nil {
		r.t.Fatal(err)
	}
	return truth
}
