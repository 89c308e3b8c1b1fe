package poller

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const long = time.Minute

func eventFD(t *testing.T) (fd int, signal func()) {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd, func() {
		if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Error(err)
		}
	}
}

func newPoller(t *testing.T, fd int) *Poller {
	t.Helper()
	p, err := New(fd, "an event")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func never() bool { return false }

// within fails the test if f takes as long as the waits in it would.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: the wait does not end", what)
	}
}

func TestWaitEnds(t *testing.T) {
	fd, signal := eventFD(t)
	p := newPoller(t, fd)
	wait := func(timeout time.Duration, ready func() bool) {
		if err := p.Wait(timeout, ready); err != nil {
			t.Error(err)
		}
	}
	began := time.Now()
	wait(30*time.Millisecond, never)
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Errorf("nothing happened and the wait of 30 ms took %s", took)
	}
	within(t, "it was ready before", func() { wait(long, func() bool { return true }) })
	within(t, "it becomes ready", func() {
		wait(long, func() bool { signal(); return false })
	})
	within(t, "woken before", func() {
		p.Wake()
		wait(long, never)
	})
	within(t, "woken while it waits", func() {
		wait(long, func() bool { p.Wake(); return false })
	})
	began = time.Now()
	wait(30*time.Millisecond, never)
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Errorf("an old waking ended a wait after %s", took)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(long, never); err == nil {
		t.Error("a closed poller waits")
	}
	signal() // the descriptor itself is still open
}

func TestWakingIsNeverLost(t *testing.T) {
	fd, _ := eventFD(t)
	p := newPoller(t, fd)
	within(t, "a thousand wakings", func() {
		turn := make(chan struct{})
		var waker sync.WaitGroup
		waker.Go(func() {
			for range turn {
				p.Wake()
			}
		})
		for range 1000 {
			turn <- struct{}{}
			if err := p.Wait(long, never); err != nil {
				t.Error(err)
			}
		}
		close(turn)
		waker.Wait()
	})
}

func TestEachMissesNothing(t *testing.T) {
	fd, signal := eventFD(t)
	p := newPoller(t, fd)
	seen := make(chan struct{})
	var each sync.WaitGroup
	each.Go(func() { p.Each(func() { seen <- struct{}{} }) })
	within(t, "signals while nobody waits", func() {
		<-seen // at once
		for range 100 {
			signal()
			<-seen
		}
	})
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "closing", each.Wait)
}

func TestWhatCannotBePolledIsRefused(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if p, err := New(int(file.Fd()), "a file"); err == nil {
		t.Errorf("a regular file is polled: %v", p)
	}
	if p, err := New(-1, "nothing"); err == nil {
		t.Errorf("no descriptor is polled: %v", p)
	}
}
