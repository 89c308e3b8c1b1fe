package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"tributary/deploy/world"
)

// end names one end of a connection of a round.
type end struct {
	role          string
	local, remote netip.AddrPort
}

// String implements fmt.Stringer.
func (e end) String() string { return fmt.Sprintf("%s %s of %s", e.role, e.local, e.remote) }

// recorded is what the store has of an end.
type recorded struct {
	opened       uint64
	tx, rx       uint64
	local, named string // the workloads
}

// gap is a time in which an exporter says that it may have missed something.
type gap struct{ from, to int64 }

// checkLive holds what was captured against what the programs wrote down: an end that no gap touches is there once, with its bytes; what is there was made;
// no name is wrong; and the edges are what the records add up to.
func (r *round) checkLive(ctx context.Context, truth world.Truth) error {
	port := uint16(livePort + r.number)
	want := ends(truth)
	var got map[end]recorded
	var gaps []gap
	silent := func(string, ...any) {}
	// A server's end may be a moment later than its program's line, and gaps are told with the counters, which are written every few seconds.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(500 * ms) {
		var err, gerr error
		got, err = r.recorded(port)
		gaps, gerr = r.gaps()
		if err = errors.Join(err, gerr); err != nil {
			return err
		}
		if r.unexplained(want, got, gaps, silent) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
	}
	r.unexplained(want, got, gaps, r.failf)
	r.names(want, got)
	return r.liveEdges(got, port)
}

// gaps are those that runs killed so far have left, as the next runs told the collector.
func (r *round) gaps() (out []gap, err error) {
	rows, err := r.rows(`SELECT DISTINCT counters['gap.from_ns'], counters['gap.to_ns'] FROM exporter_health WHERE counters['gap.to_ns'] > 0`)
	for _, row := range rows {
		out = append(out, gap{int64(number(row[0])), int64(number(row[1]))})
	}
	return out, err
}

func (r *round) recorded(port uint16) (map[end]recorded, error) {
	rows, err := r.rows(fmt.Sprintf(`SELECT toString(role), local_addr, local_port, remote_addr, remote_port, sumIf(connections, record_seq = 0 AND start_observed),
		sum(tx_bytes), sum(rx_bytes), max(local_workload), max(remote_workload), count() - uniqExact(exporter_id, flow_id, record_seq)
		FROM flows WHERE network = '%s' AND if(role = 'client', remote_port, local_port) = %d AND role != 'unknown'
		GROUP BY role, local_addr, local_port, remote_addr, remote_port`, r.captured.world.Network(), port))
	if err != nil {
		return nil, err
	}
	out := map[end]recorded{}
	for _, row := range rows {
		e := end{row[0], address(row[1], row[2]), address(row[3], row[4])}
		out[e] = recorded{number(row[5]), number(row[6]), number(row[7]), row[8], row[9]}
		if row[10] != "0" {
			r.failf("%v is in flows twice", e)
		}
	}
	return out, nil
}

func address(addr, port string) netip.AddrPort {
	a, _ := netip.ParseAddr(addr) // the store has nothing else
	return netip.AddrPortFrom(a.Unmap(), uint16(number(port)))
}

// wanted is what an end must look like. The kernel may give a port again within a round: then it stands for several connections.
type wanted struct {
	recorded
	spans []gap // when these lasted
}

// ends are both ends of every connection that was made.
func ends(truth world.Truth) map[end]wanted {
	out := map[end]wanted{}
	add := func(role string, e world.Entry, began int64, own, other string) {
		k := end{role, e.Local, e.Remote}
		w := out[k]
		w.recorded = recorded{w.opened + 1, w.tx + e.Tx, w.rx + e.Rx, own, other}
		w.spans = append(w.spans, gap{began, e.End})
		out[k] = w
	}
	for _, c := range truth.Connections {
		if !c.Client.Connected {
			continue // the program never learned its port
		}
		add("client", c.Client, c.Client.Start, c.ClientWorkload, c.ServerWorkload)
		if c.Server != nil {
			add("server", *c.Server, c.Client.Start, c.ServerWorkload, c.ClientWorkload) // it accepts later than the kernel does
		}
	}
	return out
}

// unexplained tells of each end that is not as it was, though no gap touches it, and returns how many there are.
func (r *round) unexplained(want map[end]wanted, got map[end]recorded, gaps []gap, tell func(string, ...any)) (n int) {
	lost, late, longest, longestEnd := 0, 0, time.Duration(0), ""
	for e, w := range want {
		g := got[e]
		if g.opened == w.opened && g.tx == w.tx && g.rx == w.rx {
			continue
		}
		if !touched(w.spans, gaps) {
			if d := r.late(w.spans, gaps); d > 0 {
				late++
				r.noteMost("live: ends seen late and lost, seconds before a kill", d.Seconds())
				continue
			}
			n++
			tell("%s of %s is recorded as %+v, it was %+v, and no gap was told of", e, time.Unix(0, w.spans[0].from).Format(time.StampMilli), g, w.recorded)
			continue
		}
		lost++
		for _, span := range w.spans {
			if d := unsealed(span.from, r.liveKills, gaps); d > longest && touched([]gap{span}, gaps) { // of an end that stands for several, those that may be missing
				longest, longestEnd = d, fmt.Sprintf("%s at %s", e, time.Unix(0, span.from).Format(time.StampMilli))
			}
		}
	}
	for e, g := range got {
		if _, ok := want[e]; !ok {
			n++
			tell("%s is recorded as %+v, and no program had it", e, g)
		}
	}
	r.note("live: ends", float64(len(want)))
	r.note("live: ends lost in gaps that were told of", float64(lost))
	r.note("live: longest unsealed loss before a kill, seconds", longest.Seconds())
	r.note("live: ends seen late and lost", float64(late))
	if late > 1+len(want)/1000 {
		n++
		tell("%d ends are missing that were not long before a kill, and no gap was told of", late)
	}
	if longest > r.unsealedMost {
		n++
		tell("what was captured and not sealed %s before a kill was lost: %s", longest, longestEnd)
	}
	return n
}

// lateMost is how long an end waits for the walk of open sockets where the kernel kept every program from seeing it, and then for its batch. That is one end in thousands.
const lateMost = 3500 * ms

// late is how long before a kill an end was that may have waited for the walk; 0 if it was not before one.
func (r *round) late(spans, gaps []gap) (most time.Duration) {
	for _, s := range spans {
		if d := unsealed(s.from, r.liveKills, gaps); d <= lateMost {
			most = max(most, d)
		}
	}
	return most
}

// touched reports whether a gap touches one of the spans. What a gap touches may be missing, or be there in part.
func touched(spans, gaps []gap) bool {
	for _, s := range spans {
		for _, g := range gaps {
			if s.from <= g.to && s.to >= g.from {
				return true
			}
		}
	}
	return false
}

// unsealed is how long before the next kill an end was, if it was captured and lost; 0 where the exporter was not there to capture it.
func unsealed(at int64, kills []time.Time, gaps []gap) time.Duration {
	var killed, began, next int64
	for _, k := range kills {
		switch t := k.UnixNano(); {
		case t <= at:
			killed = max(killed, t)
		case next == 0 || t < next:
			next = t
		}
	}
	for _, g := range gaps {
		if g.to <= at {
			began = max(began, g.to)
		}
	}
	if next == 0 || began < killed {
		return 0
	}
	return time.Duration(next - at)
}

// names wants every name that was given to be right. A name that was not given is no mistake.
func (r *round) names(want map[end]wanted, got map[end]recorded) {
	unnamed := 0
	for e, g := range got {
		w, ok := want[e]
		if !ok {
			continue
		}
		if g.local != "" && g.local != w.local || g.named != "" && g.named != w.named {
			r.failf("%s is named %s and %s, not %s and %s", e, g.local, g.named, w.local, w.named)
		}
		if g.local == "" || g.named == "" {
			unnamed++
		}
	}
	r.note("live: ends without a name", float64(unnamed))
}

// liveEdges wants the edges to be what the records add up to: each connection once, as its client's record says, or its server's where that is missing.
func (r *round) liveEdges(got map[end]recorded, port uint16) error {
	var want sums
	for e, g := range got {
		if e.role == "client" {
			want = sums{want.rows + int(g.opened), want.tx + g.tx, want.rx + g.rx}
		} else if _, mirrored := got[end{"client", e.remote, e.local}]; !mirrored {
			want = sums{want.rows + int(g.opened), want.tx + g.rx, want.rx + g.tx}
		}
	}
	rows, err := r.rows(fmt.Sprintf(`SELECT sum(e.connections), sum(e.bytes_to_server), sum(e.bytes_to_client) FROM edges_1m AS e WHERE network = '%s' AND server_port = %d`,
		r.captured.world.Network(), port))
	if err != nil {
		return err
	}
	if is := (sums{int(number(rows[0][0])), number(rows[0][1]), number(rows[0][2])}); is != want {
		r.failf("edges of what was captured are %+v, the records add up to %+v", is, want)
	}
	return nil
}
