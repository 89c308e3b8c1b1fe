package query

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/reachability"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

// TestReachability: each state, from a ledger and regressions.
func TestReachability(t *testing.T) {
	s := migrated(t)
	var rows []records.Record
	flows := uint64(0)
	try := func(client, server string, start float64, good bool) {
		flows++
		r := records.Record{
			Exporter: "e", Flow: flows, Kind: flow.KindClosed, Role: flow.RoleClient, Local: fmt.Sprintf("10.0.0.1:%d", 20000+flows), Remote: "10.0.0.2:80",
			Names: [2]string{client, server}, Start: start, End: start + 0.1, Tx: 10, Rx: 10, Observed: true, Reason: flow.CloseFinLocal, State: 4,
		}
		if !good {
			r.Kind, r.Reason, r.Tx, r.Rx, r.State = flow.KindFailed, flow.CloseRefused, 0, 0, 2
		}
		rows = append(rows, r)
	}
	for _, name := range []string{"a/works", "a/fails", "a/broken", "a/silenced", `'; DROP TABLE flows --`} {
		try("web", name, 100, true)
		if name != "a/works" {
			try("web", name, 200, false)
		}
	}
	try("web", "a/never", 100, false)
	try("web", "a/quiet", -4000, true)
	try("gone", "a/quiet", -4000, true)
	load(t, s, rows)
	schematest.Query(t, s, fmt.Sprintf("INSERT INTO tributary.exporter_health SELECT toDateTime(%d, 'UTC'), 'e', '', fromUnixTimestamp64Nano(%d), map('ring.read', 1)",
		clock().Truncate(time.Minute).Unix(), time.Now().Add(10*time.Minute).UnixNano())) // and is heard as long as this test takes
	for _, name := range []string{"broken", "silenced", "silenced_long_ago"} { // of the last there are no attempts in this time
		schematest.Query(t, s, fmt.Sprintf("INSERT INTO tributary.regressions_raw (id, version, client_workload, server_workload, server_port, verdict, explanation, opened_at, broke_at, evidence) "+
			"SELECT '%[1]s', 1, 'web', 'a/%[1]s', 80, 'no_listener', 'nothing listens', toDateTime64(%[2]d, 3), toDateTime64(%[2]d, 3), '[]'", name, t0.Unix()+200))
	}
	if out, _, err := verb(t.Context(), t, s, "reachability", "silence", "w*", "a/silenced*:80", "--for", "2h", "--comment", "it's moving"); err != nil || !strings.Contains(out, "nobody is told of w* → a/silenced*:80 until") {
		t.Fatal(out, err)
	}
	out, _, err := verb(t.Context(), t, s, "reachability", "--all", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(out) {
		var p PathReport
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatal(err)
		}
		state := string(p.State)
		if p.Silenced {
			state += " silenced"
		}
		got[p.ClientWorkload+" "+p.ServerWorkload] = state
	}
	want := map[string]string{
		"web a/works": "works", "web a/fails": "fails", "web a/broken": "regression", "web a/silenced": "regression silenced", "web a/silenced_long_ago": "regression silenced", "web a/never": "never_worked",
		"web a/quiet": "nobody_tries", "gone a/quiet": "client_gone", "web '; DROP TABLE flows --": "fails",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out, _, err = verb(t.Context(), t, s, "reachability", "--workload", "a/broken"); err != nil || !strings.Contains(out, "web → a/broken:80: nothing listens") || strings.Contains(out, "never") {
		t.Error(out, err)
	}
	out, _, err = verb(t.Context(), t, s, "reachability", "silences", "-o", "json")
	if err != nil || !strings.Contains(out, `"comment":"it's moving"`) {
		t.Error(out, err)
	}
	var first reachability.Silence
	if err := json.Unmarshal([]byte(out), &first); err != nil {
		t.Fatal(err)
	}
	if out, _, err = verb(t.Context(), t, s, "reachability", "unsilence", first.ID); err != nil {
		t.Error(out, err)
	}
	for _, args := range [][]string{
		{"--since", "-5m", "--until", "-10m"},
		{"--since", "2100-01-01T00:00:00Z"},
		{"--workload", "a/brokne"},
		{"silence", "a", "b:http"},
		{"silence", "a", "b", "--for", "-2h"},
		{"silence", "", "b"},
		{"unsilence", first.ID},
	} {
		if out, _, err := verb(t.Context(), t, s, append([]string{"reachability"}, args...)...); err == nil {
			t.Errorf("%q is no error: %s", args, out)
		}
	}
}
