package schema_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
)

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	s := schematest.Server(t)
	var group sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		group.Go(func() { errs[i] = schema.Migrate(t.Context(), s, schema.Options{}, quiet) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), s, schema.Options{}, quiet); err != nil {
		t.Fatal(err)
	}
	if got := schematest.Query(t, s, "SELECT version, name FROM "+s.Database+".schema_migrations FINAL ORDER BY version"); got != steps(t) {
		t.Errorf("schema_migrations: %q", got)
	}
	tables := schematest.Query(t, s, "SELECT name FROM system.tables WHERE database = '"+s.Database+"' ORDER BY name")
	want := slices.Sorted(slices.Values(schema.Tables()))
	if tables != strings.Join(want, "\n")+"\n" {
		t.Errorf("tables: %q", tables)
	}
	var columns strings.Builder
	for _, f := range schema.Fields() {
		fmt.Fprintf(&columns, "%s\t%s\t%s\n", f.Name, f.Type, f.Doc)
	}
	if got := schematest.Query(t, s, "SELECT name, type, comment FROM system.columns WHERE table = 'flows_raw' AND database = '"+s.Database+"' ORDER BY position"); got != columns.String() {
		t.Errorf("columns of flows_raw:\n%s", got)
	}
	names := strings.Join(schema.Names(), "\n") + "\n"
	if got := schematest.Query(t, s, "SELECT name FROM system.columns WHERE table = 'flows' AND database = '"+s.Database+"' ORDER BY position"); got != names {
		t.Errorf("columns of flows:\n%s", got)
	}
}

func TestMigrateAfterAFailureInItsMiddle(t *testing.T) {
	s := schematest.Migrated(t)
	schematest.Query(t, s, "DROP VIEW "+s.Database+".edges")
	schematest.Query(t, s, "TRUNCATE TABLE "+s.Database+".schema_migrations")
	if err := schema.Migrate(t.Context(), s, schema.Options{}, quiet); err != nil {
		t.Fatal(err)
	}
	schematest.Query(t, s, "SELECT * FROM "+s.Database+".edges")
}

// TestMigrateFromEachRelease: testdata/states holds what a release left behind, statements and rows; from there everything becomes what
// a new database has, though several collectors begin at once, and the rows are still there.
func TestMigrateFromEachRelease(t *testing.T) {
	want := describe(t, schematest.Migrated(t))
	states, err := filepath.Glob("testdata/states/*.sql")
	if err != nil || len(states) == 0 {
		t.Fatalf("no states: %v", err)
	}
	for _, file := range states {
		s := schematest.Server(t)
		loadState(t, s, filepath.Base(file))
		var group sync.WaitGroup
		errs := make([]error, 3)
		for i := range errs {
			group.Go(func() { errs[i] = schema.Migrate(t.Context(), s, schema.Options{}, quiet) })
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if got := describe(t, s); got != want {
			t.Errorf("%s: columns after the migration:\n%s", file, got)
		}
		if got := schematest.Query(t, s, "SELECT sum(connections) FROM "+s.Database+".edges"); got != "3\n" {
			t.Errorf("%s: %s of 3 connections are left", file, got)
		}
		if got := schematest.Query(t, s, "SELECT uniq(minute) FROM "+s.Database+".touched"); got == "0\n" {
			t.Errorf("%s: no minute is going to be computed", file)
		}
		if filepath.Base(file) == "0014.sql" {
			checkTakenOver(t, s)
		}
	}
}

// checkTakenOver: histograms have what the states of migration 14 had, 1 to 1000 µs and 1 to 100, once in a minute and once in an hour.
func checkTakenOver(t *testing.T, s schema.Server) {
	t.Helper()
	if got := schematest.Query(t, s, "SELECT rtt_us_p50, rtt_us_p95, rtt_us_p99, connect_us_p50, connect_us_p95 FROM "+s.Database+".edges WHERE rtt_us_p50 > 0"); got != "512\t891\t1024\t49\t97\n" {
		t.Errorf("quantiles: %s", got)
	}
	for _, table := range []string{"edges_1m_gens", "edges_1h_gens"} {
		got := schematest.Query(t, s, "SELECT arraySum(mapValues(rtt_us_histogram)), rtt_us_histogram[45], arraySum(mapValues(connect_us_histogram)) FROM "+s.Database+"."+table)
		if want := "1000\t71\t100\n"; got != want {
			t.Errorf("%s: %q, want %q", table, got, want)
		}
	}
}

func TestMigrateFollowsTheTTL(t *testing.T) {
	s := schematest.Migrated(t)
	for range 2 {
		if err := schema.Migrate(t.Context(), s, schema.Options{RawTTL: 48 * time.Hour}, quiet); err != nil {
			t.Fatal(err)
		}
	}
	got := schematest.Query(t, s, "SELECT engine_full FROM system.tables WHERE name = 'flows_raw' AND database = '"+s.Database+"'")
	if !strings.Contains(got, "toIntervalHour(48)") || !strings.Contains(got, "fsync_after_insert = 1") {
		t.Errorf("engine: %s", got)
	}
}

// steps are all migrations as schema_migrations lists them.
func steps(t *testing.T) string {
	t.Helper()
	all, err := schema.Migrations(schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, m := range all {
		fmt.Fprintf(&b, "%d\t%s\n", m.Version, m.Name)
	}
	return b.String()
}

func TestMigrateRefuses(t *testing.T) {
	t.Run("a newer database", func(t *testing.T) {
		s := schematest.Migrated(t)
		schematest.Query(t, s, "INSERT INTO "+s.Database+".schema_migrations (version, name) SELECT 99, 'future'")
		err := schema.Migrate(t.Context(), s, schema.Options{}, quiet)
		if !errors.Is(err, schema.ErrNewer) || !strings.Contains(err.Error(), fmt.Sprintf("version 99 and this program knows %d", strings.Count(steps(t), "\n"))) {
			t.Error(err)
		}
	})
	t.Run("a table changed by hand", func(t *testing.T) {
		s := schematest.Migrated(t)
		schematest.Query(t, s, "ALTER TABLE "+s.Database+".flows_raw DROP COLUMN comm")
		err := schema.Migrate(t.Context(), s, schema.Options{}, quiet)
		if err == nil || !strings.Contains(err.Error(), "column comm should be LowCardinality(String)") {
			t.Error(err)
		}
	})
	t.Run("a wrong password", func(t *testing.T) {
		s := schematest.Server(t)
		s.Password = "wrong"
		err := schema.Migrate(t.Context(), s, schema.Options{}, quiet)
		if err == nil || !strings.Contains(err.Error(), "516") && !strings.Contains(err.Error(), "AUTHENTICATION_FAILED") || strings.Contains(err.Error(), "wrong") {
			t.Error(err)
		}
	})
	t.Run("an old server", func(t *testing.T) {
		old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "18.16.1") }))
		defer old.Close()
		err := schema.Migrate(t.Context(), schema.Server{URL: old.URL, Database: "tributary"}, schema.Options{}, quiet)
		if err == nil || !strings.Contains(err.Error(), "has version 18.16.1; Tributary needs 23.9 or later") {
			t.Error(err)
		}
	})
	t.Run("another kind of server", func(t *testing.T) {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html>") }))
		defer web.Close()
		err := schema.Migrate(t.Context(), schema.Server{URL: web.URL, Database: "tributary"}, schema.Options{}, quiet)
		if err == nil || !strings.Contains(err.Error(), "is not ClickHouse") {
			t.Error(err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		err := schema.Migrate(context.Background(), schema.Server{URL: "http://127.0.0.1:1", Database: "tributary"}, schema.Options{}, quiet)
		want := "the ClickHouse server at http://127.0.0.1:1 does not answer (dial tcp 127.0.0.1:1: connect: connection refused): is it running, and is the URL right?"
		if err == nil || err.Error() != want {
			t.Error(err)
		}
	})
}
