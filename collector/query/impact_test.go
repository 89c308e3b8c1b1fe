package query

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/rollup"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

func TestImpact(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	c := client(t, s)
	ask := func(target, failOn, until string) (string, error) {
		var out bytes.Buffer
		err := Impact(t.Context(), c, ImpactOptions{Target: target, Until: until, FailOn: failOn, Format: FormatTable}, clock, &out)
		return out.String(), err
	}
	mid := t0.Add(6500 * time.Millisecond).Format(time.RFC3339Nano)
	for _, target := range []string{"shop/api", "10.0.0.2", "10.0.0.0/30"} {
		out, err := ask(target, "open", "")
		if err != nil || !strings.Contains(out, target+": 2 clients, 0 open connections") && target != "10.0.0.0/30" || !strings.Contains(out, "shop/web") {
			t.Errorf("%s: %v\n%s", target, err, out)
		}
		out, err = ask(target, "open", mid)
		if !errors.As(err, new(*Found)) || !strings.Contains(out, "1 clients, 2 open connections") {
			t.Errorf("%s at %s: %v\n%s", target, mid, err, out)
		}
		if _, err = ask(target, "used", ""); !errors.As(err, new(*Found)) {
			t.Errorf("%s: %v", target, err)
		}
	}
	if _, err := ask("10.0.0.0/33", "", ""); err == nil || !strings.Contains(err.Error(), "neither an IP address nor a prefix") {
		t.Error(err)
	}
	if out, err := ask("192.0.2.0/24", "used", ""); err != nil || !strings.Contains(out, "nobody used") {
		t.Errorf("%v %s", err, out)
	}
}

// TestTiers: the same map comes from hours, minutes and single records, whatever has been computed.
func TestTiers(t *testing.T) {
	s := migrated(t)
	hour := time.Now().UTC().Truncate(time.Hour).Add(-4 * time.Hour)
	var rows []records.Record
	const step = 2600 // seconds between connections: few minutes are computed
	for i := range 5 {
		at := float64(i) * step
		rows = append(rows, records.Record{
			Exporter: "a", Flow: uint64(i), Kind: flow.KindClosed, Role: flow.RoleClient, Local: "10.0.0.1:40000", Remote: "10.0.0.2:80",
			Names: [2]string{"shop/web", "shop/api"}, Start: at, End: at + 1, Tx: 10, Rx: 20, Observed: true,
		})
	}
	records.Load(t, s, hour, rows)
	c := client(t, s)
	ask := func(from, to float64) uint64 {
		at := func(sec float64) time.Time { return hour.Add(time.Duration(sec * 1e9)) }
		edges, err := c.edges(t.Context(), window{at(from), at(to)}, time.Now(), edgeFilter{})
		if err != nil {
			t.Fatal(err)
		}
		return total(edges, func(e *Edge) uint64 { return e.Connections })
	}
	check := func(when string) {
		t.Helper()
		for _, w := range [][2]float64{{2601, 10401}, {1500, 10402}} {
			want := uint64(0)
			for i := range 5 {
				if end := float64(i)*step + 1; end >= w[0] && end < w[1] {
					want++
				}
			}
			if got := ask(w[0], w[1]); got != want {
				t.Errorf("%s, from %g to %g s: %d connections, want %d", when, w[0], w[1], got, want)
			}
		}
	}
	r := rollup.New(rollup.Config{}, s, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err := r.Step(t.Context(), hour.Add(2*time.Hour+5*time.Minute)); err != nil {
		t.Fatal(err)
	}
	check("two hours computed")
	if err := r.Step(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	check("everything computed")
}
