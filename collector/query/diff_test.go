package query

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestDiff(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	c := client(t, s)
	at := func(sec float64) string { return t0.Add(time.Duration(sec * 1e9)).Format(time.RFC3339) }
	var out bytes.Buffer
	o := DiffOptions{A: at(0) + ".." + at(35), B: at(35) + "..now", Format: FormatTable, FailOn: []string{"new", "gone"}}
	err := Diff(t.Context(), c, o, clock, &out, &bytes.Buffer{})
	want := `CHANGE  CLIENT      SERVER                          PORT  CONNECTIONS A  CONNECTIONS B  IN WHAT
new     shop/web    (unattributed: not known)          9              -              1  
gone    (external)  shop/api                          80              1              -  
gone    shop/web    shop/db                         5432              1              -  
`
	want = strings.ReplaceAll(want, "                          PORT", "                     PORT")
	var found *Found
	if !errors.As(err, &found) || found.ExitCode() != 2 || !strings.Contains(err.Error(), "gone 2, new 1") {
		t.Errorf("%v", err)
	}
	if strings.Join(strings.Fields(out.String()), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("%s", out.String())
	}
	o.FailOn = []string{"degraded"}
	if err := Diff(t.Context(), c, o, clock, &out, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
	for _, bad := range []DiffOptions{{A: "x", B: "y"}, {A: "-1h..now", B: "now..-1h"}, {A: "-1h..now", B: "-1h..now", FailOn: []string{"better"}}, {A: "-1h..now", B: "-1h..now", Since: "-1h"}} {
		if err := Diff(t.Context(), c, bad, clock, &out, &bytes.Buffer{}); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	for _, test := range []struct {
		o    DiffOptions
		want string
	}{
		{DiffOptions{A: "-1h..-2h", B: "-1h..now"}, "the window -1h..-2h ends before it begins"},
		{DiffOptions{A: "-1h..now", B: "2999-01-01T00:00:00Z..now"}, "the window 2999-01-01T00:00:00Z..now begins in the future"},
		{DiffOptions{A: "release:1", B: "release:2", FailOn: []string{"new"}}, `no release is called "1"`},
		{DiffOptions{A: "release:", B: "release:2"}, "release: has no name"},
		{DiffOptions{A: "-1h..-1h", B: "-1h..now"}, "the window -1h..-1h is empty"},
	} {
		if err := Diff(t.Context(), c, test.o, clock, &out, &bytes.Buffer{}); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %s", test.o, err, test.want)
		}
	}
	out.Reset()
	same := DiffOptions{A: "-1h..now", B: "-1h..now", FailOn: changes}
	var about bytes.Buffer
	if err := Diff(t.Context(), c, same, clock, &out, &about); err != nil || out.String() != "no edge is new, gone or degraded\n" || !strings.Contains(about.String(), "\nB: how complete") {
		t.Errorf("a window and itself: %v %s %s", err, out.String(), about.String())
	}
	var told bytes.Buffer
	if err := Diff(t.Context(), c, DiffOptions{A: "release:1", B: "release:2"}, clock, &out, &told); err != nil || !strings.Contains(told.String(), `no release is called "2"`) {
		t.Errorf("%v %s", err, told.String())
	}
}

func TestWorse(t *testing.T) {
	for _, c := range []struct {
		a, b Edge
		want string
	}{
		{Edge{Connections: 100}, Edge{Connections: 100, Failures: 2}, ""},
		{Edge{Connections: 100, Failures: 1}, Edge{Connections: 100, Failures: 5}, "failures 1.0 % → 5.0 %"},
		{Edge{Connections: 1000, Failures: 10}, Edge{Connections: 2000, Failures: 20}, ""},
		{Edge{Connections: 10, Closed: 10}, Edge{Connections: 10, Closed: 10, Resets: 3}, "resets 0.0 % → 30.0 %"},
		{Edge{RttUsP95: 100}, Edge{RttUsP95: 900}, ""},
		{Edge{RttUsP95: 1000}, Edge{RttUsP95: 2000}, "rtt p95 1.0 ms → 2.0 ms"},
		{Edge{ConnectUsP95: 0}, Edge{ConnectUsP95: 5000}, ""},
	} {
		if got := strings.Join(worse(&c.a, &c.b), ", "); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
