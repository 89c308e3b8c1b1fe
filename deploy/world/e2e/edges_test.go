package e2e

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/embedded"
	"tributary/collector/rollup"
	"tributary/collector/schema"
	"tributary/deploy/world"
)

// rolledKey is an edge of edges_1m.
type rolledKey struct {
	client, server string
	port           uint16
	class          string
}

// checkRollups wants computed edges that add up to what the programs sent, each connection once: those that both ends have recorded in the class
// both, and those that failed in client_only. It computes the minutes itself, as a second collector would: that of the rig does so 40 s later.
func (r *rig) checkRollups(truth world.Truth) {
	r.t.Helper()
	credential, err := embedded.ReadCredential(filepath.Join(r.dir, "data"))
	r.must(err)
	server := schema.Server{URL: "http://" + r.sql, Database: schema.DefaultDatabase, User: credential.User, Password: credential.Password}
	second := rollup.New(rollup.Config{Collector: "test"}, server, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	want := wantRolled(truth)
	opt := cmp.AllowUnexported(sums{}, rolledKey{})
	var got map[rolledKey]sums
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(time.Second) { // a minute that was computed before waits for 15 s
		r.must(second.Step(r.ctx, time.Now().Add(2*time.Minute)))
		if got = r.gotRolled(); cmp.Equal(want, got, opt) {
			return
		}
	}
	r.t.Errorf("edges by minute (-truth +edges_1m):\n%s", cmp.Diff(want, got, opt))
}

func wantRolled(truth world.Truth) map[rolledKey]sums {
	want := map[rolledKey]sums{}
	for _, c := range truth.Connections {
		k := rolledKey{c.ClientWorkload, c.ServerWorkload, c.Client.Remote.Port(), "client_only"}
		if c.Server != nil {
			k.class = "both"
		}
		s := want[k]
		s.connections++
		if !c.Client.Connected {
			s.failures++
		}
		s.tx, s.rx = s.tx+c.Client.Tx, s.rx+c.Client.Rx
		want[k] = s
	}
	return want
}

// gotRolled reads what has been computed, and nothing from single records.
func (r *rig) gotRolled() map[rolledKey]sums {
	r.t.Helper()
	got := map[rolledKey]sums{}
	for _, row := range r.rows(`
		SELECT client_workload, server_workload, server_port, toString(class), sum(connections), sum(failures), sum(bytes_to_server), sum(bytes_to_client)
		FROM edges_1m_gens WHERE (minute, gen) IN (SELECT start, gen FROM closed_latest WHERE step = 'minute') AND client_workload LIKE 'e2e/%' AND server_workload LIKE 'e2e/%'
		GROUP BY client_workload, server_workload, server_port, class`) {
		got[rolledKey{row[0], row[1], uint16(parse(r.t, row[2])), row[3]}] = sums{parse(r.t, row[4]), parse(r.t, row[5]), parse(r.t, row[6]), parse(r.t, row[7])}
	}
	return got
}
