package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The part of a page that is ours: between these two lines.
const (
	beginMark = "<!-- written by benchmarks/overhead -->\n"
	endMark   = "<!-- end of what benchmarks/overhead wrote -->\n"
)

// printf writes to standard output and keeps a copy for the page.
func (b *bench) printf(format string, args ...any) {
	fmt.Printf(format, args...)
	fmt.Fprintf(&b.text, format, args...)
}

// machine says what was measured on.
func machine() string {
	var name unix.Utsname
	kernel := "an unknown kernel"
	if unix.Uname(&name) == nil {
		kernel = "Linux " + unix.ByteSliceToString(name.Release[:])
	}
	model := "unknown"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if found := regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`).FindSubmatch(info); found != nil {
			model = string(found[1])
		}
	}
	return fmt.Sprintf("%s, %d × %s, %s, %s", time.Now().UTC().Format("2 January 2006, 15:04 UTC"), runtime.NumCPU(), model, kernel, runtime.Version())
}

// writeInto replaces our part of a page by what was printed.
func (b *bench) writeInto(page string) error {
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	replaced, err := between(old, b.text.Bytes())
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, replaced, 0o644)
}

// between returns the page with text between the marks.
func between(page, text []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(beginMark))
	_, after, ended := bytes.Cut(rest, []byte(endMark))
	if !ok || !ended {
		return nil, errors.New("it has no part for these figures")
	}
	return bytes.Join([][]byte{before, []byte(beginMark), text, []byte(endMark), after}, nil), nil
}
