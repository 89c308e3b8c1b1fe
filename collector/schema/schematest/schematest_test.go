package schematest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) { Main(m) }

// TestMigrated: a database made again has what the migrations made, to the letter.
func TestMigrated(t *testing.T) {
	s := Migrated(t)
	for _, describe := range []string{
		"SELECT name, engine, create_table_query, engine_full, as_select FROM system.tables WHERE database = '%s' ORDER BY name",
		"SELECT table, name, type, default_expression, compression_codec, comment FROM system.columns WHERE database = '%s' ORDER BY table, position",
		"SELECT table, name, type_full, expr, granularity FROM system.data_skipping_indices WHERE database = '%s' ORDER BY table, name",
		"SELECT version, name FROM %s.schema_migrations ORDER BY version",
	} {
		want, got := Query(t, s, fmt.Sprintf(describe, template)), Query(t, s, fmt.Sprintf(describe, s.Database))
		if want == "" {
			t.Errorf("%s: nothing", describe)
		}
		if diff := cmp.Diff(strings.ReplaceAll(want, template, s.Database), got); diff != "" {
			t.Errorf("%s (-template +copy):\n%s", describe, diff)
		}
	}
}

func BenchmarkMigrated(b *testing.B) {
	for b.Loop() {
		Migrated(b)
	}
}
