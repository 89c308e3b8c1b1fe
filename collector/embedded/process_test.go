package embedded

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The child's log lines become the parent's, with their level; anything else is passed on as it is and remembered.
func TestWhatTheChildSays(t *testing.T) {
	var out bytes.Buffer
	l := &lastLine{logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))}
	for _, part := range []string{
		`{"time":"2026-11-20T14:03:00Z","level":"WARN","msg":"slow query","ms":12,"id":"q"}` + "\n" + `{"level":"INF`,
		`O","msg":"opened"}` + "\n\n" + `{"level":"LOUD","msg":"x"}` + "\nterminate called", " without an active exception\n",
	} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	want := `level=WARN msg="slow query" id=q ms=12
level=INFO msg=opened
level=INFO msg="engine says" line="{\"level\":\"LOUD\",\"msg\":\"x\"}"
level=INFO msg="engine says" line="terminate called without an active exception"
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if got := l.String(); got != "terminate called without an active exception" {
		t.Errorf("remembered %q", got)
	}
}
