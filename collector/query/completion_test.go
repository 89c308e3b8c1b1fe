package query

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// TestCompletion: what the shells' scripts get to offer, workloads out of the store among them.
func TestCompletion(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	down := false
	connect := func(context.Context) (Connection, error) {
		if down {
			return Connection{}, errors.New("no store")
		}
		return Connection{Client: NewClient(s)}, nil
	}
	complete := func(args ...string) string {
		root := &cobra.Command{Use: "tributary-collector"}
		root.AddCommand(Commands(connect)...)
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&bytes.Buffer{})
		root.SetArgs(append([]string{cobra.ShellCompNoDescRequestCmd}, args...))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		offers, _, _ := strings.Cut(out.String(), ":4\n") // no files
		return strings.Join(strings.Fields(offers), " ")
	}
	for line, want := range map[string]string{
		"map -o ": "table json jsonl dot mermaid", "top --by ": strings.Join(measureNames, " "), "diff -2h..-1h -1h..now --fail-on ": "new gone degraded", "impact --fail-on ": "open used",
		"observe --kind ": "active closed failed rollup", "map --workload shop/a": "shop/api", "impact shop/": "shop/api shop/db shop/web", "observe --not --to-workload shop/d": "shop/db",
		"reachability --workload '": "", "impact shop/api ": "", "impact shop/api --fail-on ": "open used",
	} {
		if got := complete(strings.Split(line, " ")...); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	down = true
	if got := complete("map", "--workload", "s"); got != "" {
		t.Errorf("without a store: %s", got)
	}
}

// TestProgress: a person is told for how long the store has been asked, in one line that is gone before the answer; programs are told nothing.
func TestProgress(t *testing.T) {
	var terminal bytes.Buffer
	p := &progress{out: &terminal, timer: time.NewTimer(time.Hour)}
	p.tick(time.Second)
	p.tick(2 * time.Second)
	out := &interrupting{&terminal, p}
	for _, text := range []string{"CLIENT\n", "shop/web\n"} {
		if _, err := out.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	p.tick(3 * time.Second)
	p.end()
	if got, want := terminal.String(), "\rasking the store … 1 s\rasking the store … 2 s\r\x1b[KCLIENT\nshop/web\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := &cobra.Command{}
	cmd.SetErr(file)
	showProgress(cmd)()
	if cmd.ErrOrStderr() != file || isTerminal(&interrupting{file, p}) {
		t.Error("a file is taken for a terminal")
	}
}
