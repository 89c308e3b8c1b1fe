package query

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// patience is how long nothing is said, and then every how long.
const patience = time.Second

// progress tells a person at a terminal every second for how long the store has been asked, in one line that is gone when anything else is written.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	timer *time.Timer
	shown bool
	done  bool
}

// showProgress begins it for a verb, whose writers end it. The caller ends it too.
func showProgress(cmd *cobra.Command) (end func()) {
	errOut := cmd.ErrOrStderr()
	if !isTerminal(errOut) {
		return func() {}
	}
	p := &progress{out: errOut}
	began := time.Now()
	p.mu.Lock()
	p.timer = time.AfterFunc(patience, func() { p.tick(time.Since(began)) })
	p.mu.Unlock()
	cmd.SetErr(&interrupting{errOut, p})
	cmd.SetOut(&interrupting{cmd.OutOrStdout(), p})
	return p.end
}

func (p *progress) tick(passed time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return
	}
	p.shown = true
	fmt.Fprintf(p.out, "\rasking the store … %.0f s", passed.Seconds())
	began := time.Now().Add(-passed)
	p.timer = time.AfterFunc(patience, func() { p.tick(time.Since(began)) })
}

func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return
	}
	p.done = true
	p.timer.Stop()
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// interrupting is a writer before whose first byte progress ends.
type interrupting struct {
	io.Writer
	progress *progress
}

// Write implements io.Writer.
func (w *interrupting) Write(text []byte) (int, error) {
	w.progress.end()
	return w.Writer.Write(text)
}

// isTerminal reports whether a person looks at the writer; NO_COLOR (https://no-color.org) turns colours and progress off.
func isTerminal(w io.Writer) bool {
	if behind, ok := w.(*interrupting); ok {
		w = behind.Writer
	}
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
