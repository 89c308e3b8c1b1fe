package schema

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"tributary/proto/flow"
)

// DefaultRawTTL is how long single rows are kept.
const DefaultRawTTL = 7 * 24 * time.Hour

// Options are what the templates of the migrations depend on.
type Options struct {
	Database string
	RawTTL   time.Duration // of flows_raw; whole hours
}

func (o Options) withDefaults() Options {
	if o.Database == "" {
		o.Database = DefaultDatabase
	}
	if o.RawTTL == 0 {
		o.RawTTL = DefaultRawTTL
	}
	return o
}

func (o Options) check() error {
	if !identifier.MatchString(o.Database) {
		return fmt.Errorf("%q cannot be the name of a database: letters, digits and _ are allowed", o.Database)
	}
	if o.RawTTL < time.Hour || o.RawTTL%time.Hour != 0 {
		return fmt.Errorf("the time to live of raw flows is %s; it must be whole hours", o.RawTTL)
	}
	return nil
}

// Migration is one step forward of the schema: statements that may be run again without harm.
type Migration struct {
	Version    int
	Name       string
	Statements []string
}

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations returns all steps, oldest first, filled in for the options.
func Migrations(o Options) ([]Migration, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	entries, err := migrationFiles.ReadDir("migrations")
	if err != nil {
		return nil, fmt.Errorf("read the migrations: %w", err)
	}
	var steps []Migration
	for _, e := range entries {
		m, err := readMigration(e.Name(), o)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", e.Name(), err)
		}
		steps = append(steps, m)
	}
	slices.SortFunc(steps, func(a, b Migration) int { return a.Version - b.Version })
	for i, m := range steps {
		if m.Version != i+1 {
			return nil, fmt.Errorf("migration %d is missing", i+1)
		}
	}
	return steps, nil
}

func readMigration(file string, o Options) (Migration, error) {
	number, name, _ := strings.Cut(strings.TrimSuffix(file, ".sql"), "_")
	version, err := strconv.Atoi(number)
	if err != nil {
		return Migration{}, err
	}
	text, err := migrationFiles.ReadFile(path.Join("migrations", file))
	if err != nil {
		return Migration{}, err
	}
	t, err := template.New(file).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return Migration{}, err
	}
	var out strings.Builder
	if err := t.Execute(&out, values(o)); err != nil {
		return Migration{}, err
	}
	m := Migration{Version: version, Name: name}
	for s := range strings.SplitSeq(out.String(), ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			m.Statements = append(m.Statements, s)
		}
	}
	return m, nil
}

func values(o Options) map[string]string {
	newest := "(SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM " + o.Database + ".closed WHERE step = 'minute')"
	return map[string]string{
		"Database": o.Database,
		"Columns":  columnDefinitions(),
		"Names":    "    " + strings.Join(Names(), ",\n    "),
		"TTL":      ttlExpression(o.RawTTL),

		"NatColumns": addedColumn("nat_local_addr", "orig_remote_addr") + ", " + addedColumn("nat_local_port", "orig_remote_port"),

		"EvidenceType":   enum8(flow.EvidenceNames),
		"WhyType":        enum8(flow.WhyNames),
		"Completeness":   CompletenessOf(o.Database, "1"),
		"ReadRows":       readRows,
		"LostRows":       "mapFilter((name, n) -> n > 0 AND " + LossCondition + ", counters)",
		"EdgeColumns":    edgeDefinitions(),
		"EdgeKey":        strings.Join(EdgeKey(), ", "),
		"EdgeNames":      strings.Join(EdgeColumns(), ", "),
		"MapColumns":     mapDefinitions(),
		"MapKey":         strings.Join(MapKey(), ", "),
		"FoldEdges":      FoldEdges("e.minute = toStartOfHour(e.minute) + toIntervalMinute(59)"),
		"ShowEdges":      ShowEdges(),
		"NewestEdges":    EdgesOf(o.Database, Minute, newest, endOfTime, Part{}),
		"NewestRecorded": RecordedOf(o.Database, Minute, newest, endOfTime),

		"RTTHistogram":     histogramColumn(rttDoc),
		"ConnectHistogram": histogramColumn(connectDoc),
		"State":            stateType,
		"OfRTT":            histogramOf("rtt_us"),
		"OfConnect":        histogramOf("connect_us"),

		"ReachabilityColumns": ReachabilityColumns(),
		"NewestReachability":  ReachabilityOf(o.Database, Minute, newest, endOfTime),
	}
}

// endOfTime is later than any record, and not so late that adding to it overflows.
const endOfTime = "toDateTime64('2200-01-01 00:00:00', 9, 'UTC')"

func columnDefinitions() string {
	var lines []string
	for _, f := range Fields() {
		lines = append(lines, "    "+columnDefinition(f))
	}
	return strings.Join(lines, ",\n")
}

func columnDefinition(f Field) string {
	line := f.Name + " " + f.Type
	if f.Default != "" {
		line += " DEFAULT " + f.Default
	}
	return fmt.Sprintf("%s COMMENT '%s' CODEC(%s)", line, strings.ReplaceAll(f.Doc, "'", `\'`), f.Codec)
}

// addedColumn adds a field to a flows_raw that is older than it.
func addedColumn(name, after string) string {
	i := slices.IndexFunc(Fields(), func(f Field) bool { return f.Name == name })
	return "ADD COLUMN IF NOT EXISTS " + columnDefinition(Fields()[i]) + " AFTER " + after
}

// ttlExpression is written as ClickHouse prints it, so that a difference can be seen.
func ttlExpression(d time.Duration) string {
	return fmt.Sprintf("toDateTime(end_time_ns) + toIntervalHour(%d)", d/time.Hour)
}

// Tables returns the names of the tables and views of the newest migration.
func Tables() []string {
	return []string{
		"flows", "flows_raw", "edges", "edges_1m", "edges_1m_gens", "edges_1h", "edges_1h_gens", "map_1h_gens", "recorded_1m", "recorded_1m_gens", "closed",
		"closed_latest", "touched", "touch", "workloads", "exporter_health",
		"exporter_completeness", "completeness", "listeners", "listeners_1m", "schema_migrations", "reachability", "reachability_gens", "regressions",
		"regressions_raw", "reachability_silences", "reachability_judges", "alerts_told",
		"ownership", "renames", "renames_told", "disagreements",
	}
}

// DDL returns the whole schema as one script.
func DDL(o Options) (string, error) {
	steps, err := Migrations(o)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, m := range steps {
		fmt.Fprintf(&b, "-- migration %d: %s\n\n", m.Version, m.Name)
		for _, s := range m.Statements {
			b.WriteString(s + ";\n\n")
		}
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}
