package schema_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tributary/collector/embedded"
	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
)

// describe shows all columns of a database, in order.
func describe(t *testing.T, s schema.Server) string {
	t.Helper()
	return schematest.Query(t, s, "SELECT table, name, type FROM system.columns WHERE database = '"+s.Database+"' ORDER BY table, position")
}

// loadState makes what a release left behind.
func loadState(t *testing.T, s schema.Server, file string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "states", file))
	if err != nil {
		t.Fatal(err)
	}
	for statement := range strings.SplitSeq(strings.ReplaceAll(string(text), "$database", s.Database), ";\n") {
		if strings.TrimSpace(statement) != "" {
			schematest.Query(t, s, statement)
		}
	}
}

// TestMigrateCutAnywhere: a collector that is killed behind any statement of any migration leaves what the next one can go on with.
func TestMigrateCutAnywhere(t *testing.T) {
	fresh := schematest.Migrated(t)
	s := schematest.Server(t)
	loadState(t, s, "0001.sql")
	all, err := schema.Migrations(schema.Options{Database: s.Database})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all[1:] {
		for cut := range m.Statements {
			for _, statement := range m.Statements[:cut+1] {
				schematest.Query(t, s, statement)
			}
		}
		schematest.Query(t, s, fmt.Sprintf("INSERT INTO %s.schema_migrations (version, name) SELECT %d, '%s'", s.Database, m.Version, m.Name))
	}
	if err := schema.Migrate(t.Context(), s, schema.Options{}, quiet); err != nil {
		t.Fatal(err)
	}
	if got, want := describe(t, s), describe(t, fresh); got != want {
		t.Errorf("columns:\n%s", got)
	}
	if got := schematest.Query(t, s, "SELECT sum(connections), (SELECT count() FROM "+s.Database+".touched FINAL) > 0 FROM "+s.Database+".edges"); got != "3\ttrue\n" && got != "3\t1\n" {
		t.Errorf("of 3 connections, and the minutes to be computed, there are %s", got)
	}
}

// TestMigrateKilled: the store is killed while it rewrites the edges. Whoever migrates next comes to the end of it, and every row is rewritten once.
func TestMigrateKilled(t *testing.T) {
	schematest.Store(t) // or skip
	dir := t.TempDir()
	config := schematest.Config(dir)
	store, err := embedded.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Stop)
	if err := store.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := store.Credential()
	s := schema.Server{URL: store.URL(), Database: "killed", User: c.User, Password: c.Password}
	loadState(t, s, "0014.sql")
	const copies = 5000
	table := s.Database + ".edges_1m_gens"
	schematest.Query(t, s, fmt.Sprintf("INSERT INTO %s SELECT e.* REPLACE (toString(n.number) AS client_workload, 8 AS gen) FROM %s AS e CROSS JOIN numbers(%d) AS n", table, table, copies))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- schema.Migrate(ctx, s, schema.Options{}, quiet) }()
	for deadline := time.Now().Add(30 * time.Second); schematest.Query(t, s, "SELECT count() FROM system.mutations WHERE database = 'killed'") == "0\n"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no mutation has begun")
		}
	}
	killChild(t, dir)
	cancel()
	t.Log("the one whose store was killed says:", <-ended)
	if err := schema.Migrate(t.Context(), s, schema.Options{}, quiet); err != nil {
		t.Fatal(err)
	}
	got := schematest.Query(t, s, "SELECT count(), uniqExact(arraySum(mapValues(rtt_us_histogram))), any(arraySum(mapValues(rtt_us_histogram))) FROM "+table)
	if want := fmt.Sprintf("%d\t1\t1000\n", copies+1); got != want {
		t.Errorf("rows, and samples in each: %s, want %s", got, want)
	}
}

// killChild kills the engine's process that works in a directory.
func killChild(t *testing.T, dir string) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if cwd, err := os.Readlink(link); err == nil && cwd == dir && pid != os.Getpid() {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no child to kill")
}
