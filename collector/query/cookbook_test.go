package query

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/rollup"
	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

const leastQuestions = 25

// TestCookbook asks every question of docs/sql.md, as a reader without credentials, of a store where something has been computed and
// something has not. Those that the world has an answer for must have one.
func TestCookbook(t *testing.T) {
	text, err := os.ReadFile("../../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	s := migrated(t)
	load(t, s, world())
	r := rollup.New(rollup.Config{}, s, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err := r.Step(t.Context(), t0.Add(3*time.Minute+time.Second)); err != nil {
		t.Fatal(err)
	}
	records.Load(t, s, time.Now().UTC().Truncate(time.Second), []records.Record{
		{Exporter: "now", Flow: 1, Kind: flow.KindActive, State: 1, Role: flow.RoleClient, Local: "10.0.0.1:50000", Remote: "10.0.0.2:80", Names: [2]string{"shop/web", "shop/api"}, Start: -100000, End: -1, Tx: 1, Rx: 1},
		{Exporter: "now", Flow: 2, Kind: flow.KindActive, State: 2, Role: flow.RoleClient, Local: "10.0.0.1:50001", Remote: "10.0.0.3:5432", Names: [2]string{"shop/web", "shop/db"}, Start: -9, End: 200, Observed: true}, // and waits as long as this test takes
	})
	schematest.Query(t, s, "INSERT INTO tributary.listeners_1m (minute, host, local_addr, local_port, local_workload, accept_overflows, read_time_ns, since_ns) SELECT now('UTC'), 'h', '::', 82, 'shop/api', 3, now('UTC'), '2020-01-01 00:00:00'")
	schematest.Query(t, s, "INSERT INTO tributary.regressions_raw (id, version, client_workload, server_workload, server_port, verdict, broke_at, opened_at) "+
		"SELECT '1', 1, 'shop/web', 'shop/db', 5432, 'no_listener', now() - 60, now() - 40")
	empty := map[string]bool{ // the world has nothing of it
		"What does this release talk to that the one before did not?": true, "Which dependencies have gone quiet for a day?": true,
		"Who depends on me through others (two steps)?": true, "Who resets connections that were established?": true,
		"Which connections wait for the other end to read?": true, "How many bytes cross zones, and whose are they?": true,
		"What did this instance do?": true, "Where was an address rewritten on the way (NAT, virtual addresses)?": true,
		"Whose records are incomplete, and when?": true, "Which exporters have fallen silent?": true,
		"Who calls out of the fleet, and how much leaves?": true,
	}
	c := client(t, schema.Server{URL: s.URL, Database: s.Database})
	questions := strings.Split(string(text), "```sql\n")
	if len(questions)-1 < leastQuestions {
		t.Fatalf("%d questions, want %d", len(questions)-1, leastQuestions)
	}
	for i, part := range questions[1:] {
		statement, _, ok := strings.Cut(part, "```")
		before := strings.Split(strings.TrimSpace(questions[i]), "\n")
		title := before[len(before)-1]
		if !ok || !strings.HasSuffix(title, "?") && !strings.HasSuffix(title, ".") {
			t.Errorf("question %d has no title: %q", i+1, title)
		}
		var out bytes.Buffer
		if err := SQL(t.Context(), c, statement, FormatJSON, &out); err != nil {
			t.Errorf("%s: %v", title, err)
		}
		if (out.Len() == 0) != empty[title] {
			t.Errorf("%s: the answer is %q", title, out.String())
		}
	}
}
