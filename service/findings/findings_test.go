package findings

import (
	"errors"
	"strings"
	"testing"
)

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestReport(t *testing.T) {
	bad, verdict := errors.New("it is broken"), errors.New("not here")
	var out strings.Builder
	r := New(&out)
	r.Line("ok", "a")
	r.Should(nil, "b")
	r.Should(bad, "unused")
	r.Must(nil, "c")
	if r.Failed() || r.Verdict(verdict) != nil {
		t.Error("a warning is no failure")
	}
	r.Must(bad, "unused")
	if !r.Failed() || !errors.Is(r.Verdict(verdict), verdict) {
		t.Errorf("failed %v, %v", r.Failed(), r.Verdict(verdict))
	}
	if want := "ok    a\nok    b\nwarn  it is broken\nok    c\nFAIL  it is broken\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	out.Reset()
	r.Line("warn", "a proxy answered 502:\n<html>\r\n  <b>\x1b[31m\u009b no\x00</b>\n")
	if want := "warn  a proxy answered 502: <html> <b> [31m no </b>\n"; out.String() != want {
		t.Errorf("%q, want one line: %q", out.String(), want)
	}
	w := New(full{})
	w.Line("ok", "a")
	if err := w.Verdict(verdict); err == nil || errors.Is(err, verdict) || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("unwritten: %v", err)
	}
}
