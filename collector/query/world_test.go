package query

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

// unmigrated returns the engine with an empty database tributary: the embedded store shows readers no other, so tests take turns with it.
func unmigrated(t *testing.T) schema.Server {
	t.Helper()
	s := schematest.Server(t)
	s.Database = schema.DefaultDatabase
	for _, name := range schema.Tables() {
		schematest.Query(t, s, "DROP TABLE IF EXISTS tributary."+name)
	}
	return s
}

// migrated returns it with all tables, empty. They are emptied afterwards and not dropped, which takes longer than most tests.
func migrated(t *testing.T) schema.Server {
	t.Helper()
	s := schematest.Server(t)
	s.Database = schema.DefaultDatabase
	if err := schema.Migrate(t.Context(), s, schema.Options{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for name := range strings.FieldsSeq(schematest.Query(t, s, "SELECT name FROM system.tables WHERE database = 'tributary' AND total_rows > 0 AND name != 'schema_migrations'")) {
			schematest.Query(t, s, "TRUNCATE TABLE tributary."+name)
		}
	})
	return s
}

var t0 = time.Now().UTC().Truncate(time.Second).Add(-10 * time.Minute)

func clock() time.Time { return t0.Add(10 * time.Minute) }

// world is a client and a server that both have an exporter, a client without a server's exporter, a caller from outside that only the
// server saw, a path that refuses and one that does not answer.
func world() []records.Record {
	both := func(i uint64, port string, start float64) []records.Record {
		return []records.Record{
			{Exporter: "a", Flow: i, Kind: flow.KindActive, Role: flow.RoleClient, Local: "10.0.0.1:" + port, Remote: "10.0.0.2:80", Names: [2]string{"shop/web", "shop/api"}, Start: start, End: start + 5, Tx: 100, Rx: 1000, State: 1, Observed: true},
			{Exporter: "a", Flow: i, Seq: 1, Kind: flow.KindClosed, Role: flow.RoleClient, Local: "10.0.0.1:" + port, Remote: "10.0.0.2:80", Names: [2]string{"shop/web", "shop/api"}, Start: start, End: start + 9, Tx: 10, Rx: 100, Reason: flow.CloseFinLocal, Observed: true},
			{Exporter: "b", Flow: i, Kind: flow.KindClosed, Role: flow.RoleServer, Local: "10.0.0.2:80", Remote: "10.0.0.1:" + port, Names: [2]string{"shop/api", "shop/web"}, Start: start + 0.001, End: start + 9, Tx: 1100, Rx: 110, Reason: flow.CloseFinRemote, Observed: true},
		}
	}
	rows := append(both(1, "40000", 0), both(2, "40001", 1)...)
	return append(rows, append(both(3, "40000", 60), // the port again, later
		records.Record{Exporter: "b", Flow: 10, Kind: flow.KindClosed, Role: flow.RoleServer, Local: "10.0.0.2:80", Remote: "10.0.0.1:40000", Names: [2]string{"shop/api", "shop/web"}, Start: 200, End: 201, Tx: 7, Rx: 3, Observed: true}, // its client's record is lost
		records.Record{Exporter: "b", Flow: 11, Kind: flow.KindClosed, Role: flow.RoleServer, Local: "10.0.0.2:80", Remote: "203.0.113.9:5555", Names: [2]string{"shop/api", ""}, Why: flow.WhyExternal, Start: 20, End: 21, Tx: 50, Rx: 5, Observed: true},
		records.Record{Exporter: "a", Flow: 20, Kind: flow.KindFailed, Role: flow.RoleClient, Local: "10.0.0.1:41000", Remote: "10.0.0.3:5432", Names: [2]string{"shop/web", "shop/db"}, Start: 30, End: 30.001, Reason: flow.CloseRefused, Observed: true},
		records.Record{Exporter: "a", Flow: 21, Kind: flow.KindActive, Role: flow.RoleClient, Local: "[fd00::1]:41001", Remote: "[fd00::9]:9", Names: [2]string{"shop/web", ""}, Why: flow.WhyNoEvidence, Start: 40, End: 43, State: 2, Observed: true},
		records.Record{Exporter: "a", Flow: 30, Kind: flow.KindActive, Role: flow.RoleUnknown, Local: "10.0.0.1:1", Remote: "10.0.0.2:2", Names: [2]string{"shop/web", "shop/api"}, Start: 50, End: 51},
	)...)
}

func load(t *testing.T, s schema.Server, rows []records.Record) {
	t.Helper()
	records.Load(t, s, t0, rows)
}
