package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tributary/deploy/world"
)

// edgeKey is an edge from the point of view of one of its roles.
type edgeKey struct {
	role, local, remote string
	port                uint16
}

// sums is what the records of an edge and role add up to.
type sums struct{ connections, failures, tx, rx uint64 }

// wantEdges is what the records must add up to: a connection is there once per end, a connect that failed once.
func wantEdges(truth world.Truth) map[edgeKey]sums {
	want := map[edgeKey]sums{}
	for _, c := range truth.Connections {
		port := c.Client.Remote.Port()
		k := edgeKey{"client", c.ClientWorkload, c.ServerWorkload, port}
		s := want[k]
		s.connections++
		if !c.Client.Connected {
			s.failures++
		}
		s.tx, s.rx = s.tx+c.Client.Tx, s.rx+c.Client.Rx
		want[k] = s
		if c.Server == nil {
			continue
		}
		k = edgeKey{"server", c.ServerWorkload, c.ClientWorkload, port}
		s = want[k]
		s.connections++
		s.tx, s.rx = s.tx+c.Server.Tx, s.rx+c.Server.Rx
		want[k] = s
	}
	return want
}

func (r *rig) gotEdges() map[edgeKey]sums {
	r.t.Helper()
	got := map[edgeKey]sums{}
	for _, row := range r.rows(`
		SELECT toString(role), local_workload, remote_workload, if(role = 'client', remote_port, local_port) AS port,
			sumIf(connections, record_seq = 0), sum(failures), sum(tx_bytes), sum(rx_bytes)
		FROM flows WHERE ` + r.inWorld() + ` GROUP BY role, local_workload, remote_workload, port`) {
		k := edgeKey{row[0], row[1], row[2], uint16(parse(r.t, row[3]))}
		got[k] = sums{parse(r.t, row[4]), parse(r.t, row[5]), parse(r.t, row[6]), parse(r.t, row[7])}
	}
	return got
}

// ends is how many connection ends the truth has.
func ends(truth world.Truth) (n uint64) {
	for _, c := range truth.Connections {
		n++
		if c.Server != nil {
			n++
		}
	}
	return n
}

// endKey finds a record among the truth.
type endKey struct {
	role          string
	local, remote netip.AddrPort
}

// names is who a record must name at its two ends.
type names struct{ local, remote string }

func wantNames(truth world.Truth) map[endKey]names {
	want := map[endKey]names{}
	for _, c := range truth.Connections {
		if !c.Client.Connected {
			continue // the program never learned its own port
		}
		want[endKey{"client", c.Client.Local, c.Client.Remote}] = names{c.ClientWorkload, c.ServerWorkload}
		if c.Server != nil {
			want[endKey{"server", c.Server.Local, c.Server.Remote}] = names{c.ServerWorkload, c.ClientWorkload}
		}
	}
	return want
}

// checkExact compares every edge, every name and every sum with the truth.
func (r *rig) checkExact(truth world.Truth) {
	r.t.Helper()
	opt := cmp.AllowUnexported(sums{}, edgeKey{}, names{})
	if d := cmp.Diff(wantEdges(truth), r.gotEdges(), opt); d != "" {
		r.t.Errorf("edges (-truth +flows):\n%s", d)
	}
	if n := r.number(`SELECT count() FROM flows WHERE (local_workload = '' OR remote_workload = '') AND ` + r.inWorld()); n != 0 {
		r.t.Errorf("%d unattributed: %v", n, r.rows(`SELECT role, kind, local_why, remote_why, count() FROM flows
			WHERE (local_workload = '' OR remote_workload = '') AND `+r.inWorld()+` GROUP BY ALL`))
	}
	if n := r.number(`SELECT count() - uniqExact(exporter_id, flow_id, record_seq) FROM flows`); n != 0 {
		r.t.Errorf("%d records are shown more than once", n)
	}
	want := wantNames(truth)
	wrong := 0
	for _, row := range r.rows(`SELECT toString(role), local_addr, local_port, remote_addr, remote_port, local_workload, remote_workload
		FROM flows WHERE kind = 'closed' AND ` + r.inWorld()) {
		k := endKey{row[0], address(r.t, row[1], row[2]), address(r.t, row[3], row[4])}
		if got := (names{row[5], row[6]}); got != want[k] {
			if wrong++; wrong < 10 {
				r.t.Errorf("%+v: named %+v, want %+v", k, got, want[k])
			}
		}
	}
	if wrong > 0 {
		r.t.Errorf("%d wrong names", wrong)
	}
}

func address(t *testing.T, addr, port string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(parse(t, port)))
}

// checkRefused wants exactly n refused connects, each with its errno and its role.
func (r *rig) checkRefused(n uint64) {
	r.t.Helper()
	got := r.rows(`SELECT toString(kind), toString(role), errno, toString(close_reason), count() FROM flows
		WHERE failures > 0 AND ` + r.inWorld() + ` GROUP BY ALL`)
	if want := fmt.Sprintf("failed client 111 refused %d", n); len(got) != 1 || strings.Join(got[0], " ") != want {
		r.t.Errorf("failures: got %v, want %s", got, want)
	}
}
