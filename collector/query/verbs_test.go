package query

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"tributary/collector/ledger"
	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/proto/flow"
)

// words splits a line as a shell does that knows only quotes.
func words(line string) (out []string) {
	var word strings.Builder
	quote := rune(0)
	for _, r := range line + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		case quote == 0 && r == ' ':
			if word.Len() > 0 {
				out = append(out, word.String())
				word.Reset()
			}
		default:
			word.WriteRune(r)
		}
	}
	return out
}

// verb runs a command line without the program's name.
func verb(ctx context.Context, t *testing.T, s schema.Server, args ...string) (out, told string, err error) {
	t.Helper()
	connect := func(context.Context) (Connection, error) { return Connection{Client: NewClient(s)}, nil }
	for _, cmd := range Commands(connect) {
		if cmd.Name() == args[0] {
			var stdout, stderr bytes.Buffer
			cmd.SetOut(&stdout)
			cmd.SetErr(&stderr)
			cmd.SetArgs(args[1:])
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			err := cmd.ExecuteContext(ctx)
			return stdout.String(), stderr.String(), err
		}
	}
	t.Fatalf("no verb %s", args[0])
	return "", "", nil
}

// TestExamples runs the examples of every verb's help.
func TestExamples(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	for _, cmd := range Commands(nil) {
		if cmd.Example == "" && !cmd.HasSubCommands() {
			t.Errorf("%s has no example", cmd.Name())
		}
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if line == "" {
				continue
			}
			line, _, _ = strings.Cut(strings.TrimSpace(line), " | ")
			args := words(line)
			if len(args) < 2 || args[0] != "tributary-collector" {
				t.Errorf("%q is no example", line)
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			follows := strings.Contains(line, "--follow")
			if follows {
				ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			}
			_, _, err := verb(ctx, t, s, args[1:]...)
			ended := follows && errors.Is(err, context.DeadlineExceeded) // in the middle of a question, on a busy machine
			if err != nil && !ended && !errors.As(err, new(*Found)) {
				t.Errorf("%s: %v", line, err)
			}
			cancel()
		}
	}
}

func TestFilters(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	for args, want := range map[string]int{
		"":                              14,
		"--workload shop/db":            1,
		"--from-workload shop/web":      13, // with the record of unknown role, whose local end it is
		"--to-workload shop/api":        12, // likewise
		"--kind failed":                 1,
		"--kind failed,active":          6,
		"--kind failed --kind active":   6,
		"--not --kind closed":           6,
		"--reason refused":              1,
		"--port 5432":                   1,
		"--from-port 5432":              0,
		"--to-port 5432":                1,
		"--ip 203.0.113.0/24":           1,
		"--from-ip 203.0.113.9":         1,
		"--to-ip 203.0.113.9":           0,
		"--ip fd00::/16":                1,
		"--ip 10.0.0.0/8":               13,
		"--not --ip 10.0.0.0/8":         1,
		"--why external":                1,
		"--evidence claim":              0,
		"--kind closed --to-port 80":    8,
		"--kind closed --not --port 80": 0,
	} {
		out, told, err := verb(t.Context(), t, s, append([]string{"observe", "--since", "-1h", "-o", "json"}, strings.Fields(args)...)...)
		if n := strings.Count(out, "\n"); err != nil || n != want {
			t.Errorf("%s: %d records, want %d, %v", args, n, want, err)
		}
		if !strings.Contains(told, "cannot be said") {
			t.Errorf("%s: stderr says %q", args, told)
		}
	}
	for args, say := range map[string]string{
		"--ip 10.0.0.0/99": "neither an IP address nor a prefix", "--port 70000": "no port", "--kind open": "is none of", "--kind closed --not": "none follows",
		"--since 2999-01-01T00:00:00Z": "in the future", "--workload ';DROP": "no workload is called", `--workload a\nb`: "no workload is called",
	} {
		out, _, err := verb(t.Context(), t, s, append([]string{"observe"}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(err.Error(), say) || strings.Contains(out, "KIND") {
			t.Errorf("%s: %v, after %q", args, err, out)
		}
	}
}

// TestEmptyFlags: a flag whose value is empty, as a script's variable may be, is no question about everything, and no check that always passes.
func TestEmptyFlags(t *testing.T) {
	for _, args := range [][]string{
		{"map", "--workload"},
		{"top", "--workload"},
		{"diff", "-2h..-1h", "-1h..now", "--workload"},
		{"reachability", "--workload"},
		{"impact", "shop/api", "--fail-on"},
		{"diff", "-2h..-1h", "-1h..now", "--fail-on"},
	} {
		spaced := append(slices.Clone(args), "")
		args[len(args)-1] += "="
		for _, args := range [][]string{spaced, args} {
			if _, _, err := verb(t.Context(), t, schema.Server{URL: "http://127.0.0.1:1"}, args...); err == nil || !strings.Contains(err.Error(), "is empty") {
				t.Errorf("%q: %v", args, err)
			}
		}
	}
}

// TestExposure: a listener is used where its exporter or a client saw a connection.
func TestExposure(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	now := clock().Format("2006-01-02 15:04:05")
	for _, l := range []string{
		"80, 'shop/api', '1970-01-01 00:00:00'",  // clients were seen
		"81, 'shop/api', '" + now + "'",          // its exporter saw one
		"82, 'shop/api', '1970-01-01 00:00:00'",  // nobody
		"5432, 'shop/db', '2020-01-01 00:00:00'", // nobody lately: attempts that failed are no use
		"83, '', '1970-01-01 00:00:00'",          // nobody's
	} {
		schematest.Query(t, s, "INSERT INTO tributary.listeners_1m (minute, host, local_addr, local_port, local_workload, last_accepted_ns, read_time_ns, since_ns) SELECT now('UTC'), 'h', '::', "+l+", now('UTC'), '2020-01-01 00:00:00'")
	}
	out, _, err := verb(t.Context(), t, s, "exposure", "--since", "-1h", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out) {
		var e Exposed
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %d", e.Exposure, e.Workload, e.Port))
	}
	if diff := cmp.Diff([]string{"outside shop/api 80", "unused shop/api 82", "unused shop/db 5432"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, out)
	}
	if out, _, err := verb(t.Context(), t, s, "exposure", "--since", "-1h"); err != nil || !strings.Contains(out, "used by nobody") {
		t.Errorf("%s %v", out, err)
	}
}

func TestHostileNames(t *testing.T) {
	s := migrated(t)
	rows := world()[:2]
	const name = `'; DROP TABLE flows --` + "\\n\\\t\"<b>"
	for i := range rows {
		rows[i].Names[0] = name
	}
	load(t, s, rows)
	for _, args := range [][]string{
		{"map", "--workload", name}, {"map", "-o", "dot"}, {"map", "-o", "mermaid"}, {"observe", "--workload", name}, {"impact", "shop/api"}, {"top"},
	} {
		out, _, err := verb(t.Context(), t, s, args...)
		if err != nil || !strings.Contains(out, "DROP TABLE") || strings.Contains(out, "\t") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	for _, args := range [][]string{{"impact", name}, {"diff", "-2h..-1h", "-1h..now", "--workload", name}, {"exposure"}, {"reachability", "--workload", name}} {
		if _, _, err := verb(t.Context(), t, s, args...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	if n := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".flows"); n != "2\n" {
		t.Errorf("%s records are left", n)
	}
}

func TestUnknownWorkload(t *testing.T) {
	s := migrated(t)
	if _, _, err := verb(t.Context(), t, s, "map", "--workload", "shop/web"); err == nil || !strings.Contains(err.Error(), "none has been seen yet") {
		t.Error(err)
	}
	load(t, s, world())
	for asked, want := range map[string]string{"shop/wep": "did you mean shop/web", "db": "did you mean shop/db"} {
		verbs := [][]string{{"map", "--workload", asked}}
		if asked == "db" {
			verbs = append(verbs, []string{"impact", asked}, []string{"diff", "-1h..-5m", "-5m..now", "--workload", asked},
				[]string{"observe", "--to-workload", asked}, []string{"observe", "--workload", "shop/web," + asked, "--port", "3"})
		}
		for _, args := range verbs {
			if _, _, err := verb(t.Context(), t, s, args...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
}

func TestMapAround(t *testing.T) {
	edges := []Edge{{ClientWorkload: "a", ServerWorkload: "b"}, {ClientWorkload: "b", ServerWorkload: "c"}, {ClientWorkload: "c", ServerWorkload: "d"}, {ClientWorkload: "", ServerWorkload: "b"}, {ClientWorkload: "", ServerWorkload: "z"}}
	for depth, want := range map[int]int{1: 1, 2: 3, 3: 4, 9: 4} {
		if got := around(edges, "a", depth); len(got) != want {
			t.Errorf("depth %d: %v", depth, got)
		}
	}
}

func TestPictures(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	out, _, err := verb(t.Context(), t, s, "map", "-o", "dot")
	want := `digraph tributary {
  rankdir=LR;
  node [shape=box];
  "(external)" -> "shop/api" [label=":80 1"];
  "shop/web" -> "(unattributed: no_evidence)" [label=":9 1"];
  "shop/web" -> "shop/api" [label=":80 4"];
  "shop/web" -> "shop/db" [label=":5432 1 (1 failed)", color=red];
}
`
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	out, _, err = verb(t.Context(), t, s, "map", "-o", "mermaid", "--workload", "shop/db")
	want = `flowchart LR
  n0["shop/web"]
  n1["shop/db"]
  n0 -->|":5432 1 (1 failed)"| n1
  linkStyle 0 stroke:red
`
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestTell: an answer over an incomplete window says so, with the figure and the reasons.
func TestTell(t *testing.T) {
	s := migrated(t)
	l := ledger.New(ledger.Config{Every: 10 * time.Millisecond}, s, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	note := func(host string, ago time.Duration, made, lost uint64) {
		l.Note("run-of-"+host, host, clock().Add(-ago).UnixNano(), []flow.Counter{{Name: "ring.read", Value: made}, {Name: "probe.ring_full", Value: lost}})
	}
	note("h1", 20*time.Minute, 1000, 500)
	note("h1", 5*time.Minute, 1900, 600)
	note("h1", 4*time.Minute, 2000, 600)
	note("h1", 2*time.Minute, 2500, 600)
	note("h1", time.Second, 3000, 600) // not now: at the first second of a minute its reading is after the window
	note("h2", 3*time.Minute, 100, 0)
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() { l.Run(ctx) })
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && schematest.Query(t, s, "SELECT count() FROM "+s.Database+".exporter_health FINAL") != "6\n"; {
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	writing.Wait()
	for _, c := range []struct{ since, until, want string }{
		{"-10m", "", "this answer is incomplete: 95.45 % of the records of this time are there; 100 of 2200 were lost (probe.ring_full 100)\nnothing is known of host h2 after " + clock().Add(-3*time.Minute).Format(time.RFC3339) + ": its exporter has not been heard since\n"},
		{"-4m", "-2m", ""},
		{"-3h", "-2h", "how complete this answer is cannot be said: no exporter has reported its counters in this time\n"},
	} {
		var out bytes.Buffer
		Telling(t.Context(), client(t, s), c.since, c.until, clock)(&out)
		if diff := cmp.Diff(c.want, out.String()); diff != "" {
			t.Errorf("%s to %s (-want +got):\n%s", c.since, c.until, diff)
		}
	}
}

func TestNearest(t *testing.T) {
	if got := nearest("shop/wbe", []string{"shop/api", "shop/web", "bank/web"}); got[0] != "shop/web" {
		t.Error(got)
	}
	if d := editDistance("kitten", "sitting"); d != 3 {
		t.Error(d)
	}
}

func FuzzFilters(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8", "fd00::/12", "::ffff:1.2.3.4/120", "80", "closed", "'; DROP", "1.2.3.4/33", "fe80::1%eth0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, k := range filterKinds() {
			var all Filters
			set := pflag.NewFlagSet("", pflag.ContinueOnError)
			all.flags(set)
			if set.Set(k.name, text) != nil {
				continue
			}
			condition, params, err := all.sql()
			if err != nil || len(params) == 0 {
				t.Fatalf("%s %q: %v", k.name, text, err)
			}
			if len(text) > 8 && k.name == "workload" && strings.Contains(condition, text) {
				t.Fatalf("the value is in the statement: %s", condition)
			}
		}
	})
}
