package e2e

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"
	"time"

	"tributary/deploy/world"
)

var movingHosts = []world.Host{
	{Name: "client", Number: 11, Workload: "e2e/client", Instance: "client-1"},
	{Name: "old", Number: 12, Workload: "e2e/old", Instance: "old-1"},
	{Name: "new", Number: 13, Workload: "e2e/new", Instance: "new-1"},
}

// nearTheMove is the time around a move in which an end may stay without a name: the clock tolerance and the moment in
// which nobody has the address. A wrong name is never right.
const nearTheMove = 2 * time.Second

// An address that moves while connections run to it: before and after, each is named after who really answered it.
func TestMovedAddress(t *testing.T) {
	r := newRig(t, movingHosts, false)
	for _, host := range []string{"old", "new"} {
		if err := r.procs[host].Listen(r.ctx, world.Listen{Port: 7000}); err != nil {
			t.Fatal(err)
		}
	}
	addr := r.world.FloatingAddress(40)
	if err := r.world.Assign(addr, "old"); err != nil {
		t.Fatal(err)
	}
	moves := r.moveBackAndForth(addr)
	truth, err := r.world.Settle(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.waitFor(0, soon, `SELECT count() FROM flows WHERE remote_why = 'pending' AND `+r.inWorld())
	r.checkMoved(truth, moves)
	r.checkBooks()
}

// moveBackAndForth lets a client connect all the time and moves the address three times.
func (r *rig) moveBackAndForth(addr netip.Addr) []time.Time {
	r.t.Helper()
	client := r.procs["client"]
	err := client.Begin(world.Job{ID: "moving", Every: 5 * time.Millisecond, Parallel: 64, Calls: []world.Call{
		{To: netip.AddrPortFrom(addr, 7000), Request: 100, Response: 1_000},
		{To: netip.AddrPortFrom(addr, 7000), Request: 50, Response: 500, Rounds: 3, Pause: 20 * time.Millisecond},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	var moves []time.Time
	from, to := "old", "new"
	for range 3 {
		time.Sleep(6 * time.Second)
		if err := r.world.Move(addr, from, to); err != nil {
			r.t.Fatal(err)
		}
		moves = append(moves, time.Now())
		from, to = to, from
	}
	time.Sleep(6 * time.Second)
	if err := client.Quiet(r.ctx); err != nil {
		r.t.Fatal(err)
	}
	return moves
}

func (r *rig) checkMoved(truth world.Truth, moves []time.Time) {
	r.t.Helper()
	want := namesInTime(truth)
	named, unnamed, unnamedFar := 0, 0, 0
	for _, row := range r.rows(`SELECT toString(role), local_addr, local_port, remote_addr, remote_port, local_workload, remote_workload,
		toUnixTimestamp64Nano(start_time_ns), toString(remote_why) FROM flows WHERE record_seq = 0 AND kind = 'closed' AND ` + r.inWorld()) {
		k := endKey{row[0], address(r.t, row[1], row[2]), address(r.t, row[3], row[4])}
		start := time.Unix(0, int64(parse(r.t, row[7])))
		truth, known := want.at(k, start.UnixNano())
		got := names{row[5], row[6]}
		switch {
		case !known:
			r.t.Errorf("a record of a connection that no program knows: %v", row)
		case got == truth:
			named++
		case (got.local == truth.local || got.local == "") && (got.remote == truth.remote || got.remote == ""):
			if unnamed++; far(start, moves) {
				unnamedFar++
				r.t.Logf("unnamed: %v", row)
			}
		default:
			r.t.Errorf("wrong: %+v named %+v, want %+v (%v)", k, got, truth, row)
		}
	}
	r.t.Logf("%d named, %d unnamed around the moves", named, unnamed)
	if unnamedFar > 0 || named < 1_000 {
		r.t.Errorf("%d named, %d unnamed far from a move", named, unnamedFar)
	}
}

// timedNames are the names of the connections between two ends: one that the move has broken frees its port at once for another one.
type timedNames map[endKey][]timedName

type timedName struct {
	start int64
	names names
}

func namesInTime(truth world.Truth) timedNames {
	want := timedNames{}
	for _, c := range truth.Connections {
		for k, n := range wantNames(world.Truth{Connections: []world.Connection{c}}) {
			want[k] = append(want[k], timedName{c.Client.Start, n})
		}
	}
	return want
}

// at is the connection that began nearest to a time.
func (w timedNames) at(k endKey, start int64) (names, bool) {
	if len(w[k]) == 0 {
		return names{}, false
	}
	nearest := slices.MinFunc(w[k], func(a, b timedName) int {
		return cmp.Compare(max(a.start-start, start-a.start), max(b.start-start, start-b.start))
	})
	return nearest.names, true
}

func far(at time.Time, moves []time.Time) bool {
	for _, m := range moves {
		if d := at.Sub(m).Abs(); d < nearTheMove {
			return false
		}
	}
	return true
}
