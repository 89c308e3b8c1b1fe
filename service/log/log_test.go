package log

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFormatsAndLevels(t *testing.T) {
	cases := []struct{ level, format, want string }{
		{"info", "text", `level=INFO msg="it works" component=sink`},
		{"WARN", "", ""},
		{"debug", "json", `"level":"INFO","msg":"it works","component":"sink"}`},
	}
	for _, c := range cases {
		var out strings.Builder
		logger, err := New(&out, c.level, c.format)
		if err != nil {
			t.Fatal(err)
		}
		logger.With(Component, "sink").Info("it works")
		if !strings.Contains(out.String(), c.want) || c.want == "" && out.Len() > 0 {
			t.Errorf("%s %s: %q, want %q", c.level, c.format, out.String(), c.want)
		}
	}
	for _, c := range [][3]string{{"loud", "text", `log level "loud" is not debug`}, {"info", "xml", `log format "xml" is not text or json`}} {
		if _, err := New(&strings.Builder{}, c[0], c[1]); err == nil || !strings.HasPrefix(err.Error(), c[2]) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestLimitedPassesOneOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		base, err := New(&out, "info", "text")
		if err != nil {
			t.Fatal(err)
		}
		logger := Limited(base, 10*time.Second).With(Component, "sink")
		lines := func() []string {
			text := strings.TrimSpace(out.String())
			out.Reset()
			if text == "" {
				return nil
			}
			return strings.Split(text, "\n")
		}
		for i := range 100 {
			logger.Error("insert refused", "attempt", i)
		}
		logger.Error("another message")
		logger.With("x", 1).Warn("insert refused")                       // another level
		logger.With(Component, "kafka").Error("insert refused")          // another component
		logger.WithGroup("g").Error("insert refused", Component, "late") // component in the record
		logger.Debug("insert refused")                                   // below the level
		if got := lines(); len(got) != 5 {
			t.Errorf("%d lines: %q", len(got), got)
		}
		time.Sleep(9 * time.Second)
		logger.Error("insert refused")
		if got := lines(); got != nil {
			t.Errorf("after 9 s: %q", got)
		}
		time.Sleep(time.Second)
		logger.Error("insert refused", "attempt", 7)
		if got := lines(); len(got) != 1 || !strings.HasSuffix(got[0], `msg="insert refused" component=sink attempt=7 suppressed=100`) {
			t.Errorf("after 10 s: %q", got)
		}
	})
}

func TestLimitedMemoryIsBounded(t *testing.T) {
	state := &limits{every: time.Hour, seen: map[key]*entry{}}
	now := time.Now()
	for i := range 10 * maxKeys {
		if _, ok := state.pass(key{slog.LevelError, "c", fmt.Sprint(i)}, now); !ok {
			t.Fatalf("message %d was not passed at its first time", i)
		}
	}
	if len(state.seen) > maxKeys {
		t.Errorf("%d keys", len(state.seen))
	}
}
