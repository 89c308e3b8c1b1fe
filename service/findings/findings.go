// Package findings writes what a doctor verb finds, one line each, for both programs: ok, warn for what is lacking, and FAIL for what the
// program cannot do without. Lines are written at once; an error of writing comes with the verdict.
package findings

import (
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Report is one examination. It is for one goroutine.
type Report struct {
	out    io.Writer
	write  error
	failed bool
}

// New returns a report without findings.
func New(out io.Writer) *Report { return &Report{out: out} }

// Line writes one finding; mark is ok or warn. Control characters, such as those of a proxy's page in an error, become spaces: it stays one line.
func (r *Report) Line(mark, text string) {
	if strings.ContainsFunc(text, unicode.IsControl) {
		text = strings.Join(strings.FieldsFunc(text, func(c rune) bool { return unicode.IsControl(c) || c == ' ' }), " ")
	}
	if _, err := fmt.Fprintf(r.out, "%-4s  %s\n", mark, text); r.write == nil {
		r.write = err
	}
}

// Must reports what the program cannot do without: err, or fine if there is none.
func (r *Report) Must(err error, fine string) {
	if err != nil {
		r.failed = true
		r.Line("FAIL", err.Error())
		return
	}
	r.Line("ok", fine)
}

// Should reports what the program can do without: err, or fine if there is none.
func (r *Report) Should(err error, fine string) {
	if err != nil {
		r.Line("warn", err.Error())
		return
	}
	r.Line("ok", fine)
}

// Failed says whether anything was found that the program cannot do without.
func (r *Report) Failed() bool { return r.failed }

// Verdict is the error of writing, or failed if Failed, or nil.
func (r *Report) Verdict(failed error) error {
	switch {
	case r.write != nil:
		return fmt.Errorf("write the findings: %w", r.write)
	case r.failed:
		return failed
	}
	return nil
}
