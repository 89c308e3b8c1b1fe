package spool

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestRecall: what was acknowledged in the last minute waits again, from segments that are sealed, kept and written to; what is older is gone, and
// neither a kill nor a stop brings any of it back.
func TestRecall(t *testing.T) {
	dir := t.TempDir()
	var now atomic.Int64
	now.Store(int64(time.Hour))
	c := config(Dir(dir), "a")
	c.KeepAcked, c.SyncEvery = time.Minute, 5*time.Millisecond
	c.Clock = Clock{Wall: time.Now, Boot: func() time.Duration { return time.Duration(now.Load()) }}
	a := start(t, c).scanned()
	until := func(what string, f func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %v; %+v", what, files(t, dir), a.Stats())
			}
		}
	}
	acked := func() int {
		n := 0
		for _, name := range files(t, dir) {
			if strings.HasSuffix(name, kindAcked) {
				n++
			}
		}
		return n
	}

	a.append(20, 1000) // three sealed segments, and one that is written to
	a.all()
	a.Ack("a", 1, 10)
	now.Add(int64(40 * time.Second))
	a.Ack("a", 11, 18)
	until("a segment is kept under another name", func() bool { return acked() == 3 })
	same(t, "recalled", a.Recall(), Count{18, 180})
	got := a.all()
	slices.Sort(got)
	want := names("a", 1, 18)
	slices.Sort(want)
	same(t, "they come again", got, want)
	a.balanced()
	until("it has its own name again", func() bool { return acked() == 0 })

	a.Ack("a", 1, 5)
	now.Add(int64(61 * time.Second))
	a.Ack("a", 6, 20)
	same(t, "only the last minute", a.Recall(), Count{15, 150})
	a.all()
	a.Ack("a", 6, 20)
	until("the sealed segments are kept", func() bool { return acked() >= 3 })
	now.Add(int64(61 * time.Second))
	until("and go", func() bool { return acked() == 0 })
	same(t, "nothing is left to recall", a.Recall(), Count{})

	a.append(9, 1000)
	a.all()
	a.Ack("a", 21, 28)
	a.balanced()
	a.stop()
	b := config(Dir(dir), "b")
	again := start(t, b).scanned()
	if got := again.all(); !slices.Contains(got, "a/29") {
		t.Errorf("left for the next run: %v", got)
	}
	if acked() != 0 {
		t.Errorf("kept over a stop: %v", files(t, dir))
	}
}
