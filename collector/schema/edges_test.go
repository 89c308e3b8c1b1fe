package schema_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

// ends returns the records that one or both ends make of a connection: of one that ended or failed, or lives, over several minutes or not.
func ends(r *rand.Rand, id uint64) (out []records.Record) {
	client := fmt.Sprintf("10.0.0.%d:%d", 1+r.IntN(3), 40000+id)
	server := fmt.Sprintf("10.0.1.%d:80", 1+r.IntN(3))
	names := [2]string{fmt.Sprint("shop/web", r.IntN(3)), []string{"shop/api", "shop/db", ""}[r.IntN(3)]}
	start := 300 * r.Float64()
	end := start + []float64{0.1, 4, 90}[r.IntN(3)]
	last := records.Record{Kind: flow.KindClosed, State: 4, Observed: r.IntN(4) > 0, Start: start, End: end, Tx: 100, Rx: 1000, Reason: flow.CloseFinLocal, Sampled: uint32(r.IntN(3))}
	if r.IntN(6) == 0 {
		last.Kind, last.Reason, last.Tx, last.Rx = flow.KindFailed, flow.CloseRefused, 0, 0
	}
	lives, waits := r.IntN(5) == 0, r.IntN(8) == 0
	for side := range 2 {
		if r.IntN(4) == 0 {
			continue // it has no exporter
		}
		seq := uint32(0)
		add := func(one records.Record) {
			one.Exporter, one.Flow, one.Seq, one.Role, one.Local, one.Remote, one.Names = fmt.Sprint("e", side), id, seq, flow.RoleClient, client, server, names
			if side == 1 {
				one.Role, one.Local, one.Remote, one.Names = flow.RoleServer, server, client, [2]string{names[1], names[0]}
			}
			out, seq = append(out, one), seq+1
		}
		for at := start + 5; at < end; at += 30 {
			active := last
			active.Kind, active.State, active.End, active.Reason = flow.KindActive, 1, at, 0
			if waits {
				active.State = 2
			}
			add(active)
		}
		if !lives || seq == 0 {
			add(last)
		}
	}
	return out
}

// TestMapOf: the edges of a map are those by EdgeKey, added up.
func TestMapOf(t *testing.T) {
	s := schematest.Migrated(t)
	t0 := time.Now().UTC().Truncate(time.Hour).Add(-2 * time.Hour)
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var rows []records.Record
	for id := range uint64(300) {
		rows = append(rows, ends(r, id)...)
	}
	records.Load(t, s, t0, rows)
	at := func(seconds int) string {
		return fmt.Sprintf("toDateTime64(%d, 9, 'UTC')", t0.Unix()+int64(seconds))
	}
	from, to, lively := at(60), at(290), at(225)
	for _, filter := range []string{"", "client_workload = 'shop/web1' OR server_workload = 'shop/web1'", "client_release = '' AND server_workload != ''"} {
		edges := schema.EdgesOf(s.Database, "toDateTime(end_time_ns >= "+lively+", 'UTC')", from, to, schema.Part{})
		key := strings.Join(schema.MapKey(), ", ")
		where := ""
		if filter != "" {
			where = " WHERE " + filter
		}
		added := "SELECT " + key + ", " + schema.ReadEdges(false) + ", sumIf(e.open, e.minute = toDateTime(1, 'UTC')) AS open, sumIf(e.unanswered, e.minute = toDateTime(1, 'UTC')) AS unanswered FROM (" + edges + ") AS e" + where + " GROUP BY " + key
		show := func(text string) string {
			return schematest.Query(t, s, "SELECT "+strings.Join(schema.MapColumns(), ", ")+" FROM ("+text+") ORDER BY ALL")
		}
		want, got := show(added), show(schema.MapOf(s.Database, from, to, lively, filter))
		if diff := cmp.Diff(want, got); diff != "" || strings.Count(got, "\n") < 3 {
			t.Errorf("%q (-added +of the map):\n%s", filter, diff)
		}
	}
	if open := schematest.Query(t, s, "SELECT sum(open) > 0, sum(unanswered) > 0 FROM ("+schema.MapOf(s.Database, from, to, lively, "")+")"); open != "true\ttrue\n" && open != "1\t1\n" {
		t.Errorf("the world has no open or no unanswered connection: %s", open)
	}
}
