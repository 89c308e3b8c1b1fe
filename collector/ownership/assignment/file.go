package assignment

import (
	"bytes"
	"context"
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"tributary/service/config"
)

const (
	lookEvery = 500 * time.Millisecond
	// patience is how long a file that does not end with a newline must stay as it is: it looks half written.
	patience = 10 * time.Second
)

// stamp tells one state of a file from the next.
type stamp struct {
	dev, ino             uint64
	size, written, moved int64
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, errors.ErrUnsupported
	}
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil
}

// RunFile keeps a source up to date with a file until ctx ends. A file is read when it has been the same twice in a row. One that cannot be read leaves
// what the last good one said.
func (s *Source) RunFile(ctx context.Context, path string) {
	var good atomic.Bool // a version has been taken
	go s.Run(ctx, good.Load)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var f watched
	for {
		news, err := f.look(path, time.Now())
		if news && err == nil {
			s.Set("", f.entries, time.Now())
			good.Store(true)
			s.log.Info("assignments loaded", "file", path, "entries", len(f.entries))
		}
		if news {
			s.loaded(err)
		}
		if news && err != nil {
			s.log.Warn("assignments stay as they were", "reason", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// watched is a file as it was seen last.
type watched struct {
	seen    stamp
	since   time.Time
	read    bool // this state
	failed  string
	entries []Entry
}

// errHalfWritten says that a file looks so.
var errHalfWritten = errors.New("the file does not end with a newline and looks half written: it is taken when it has not changed for 10 s")

// look reads the file if there is a new state of it; news says that there is something to tell, once a state.
func (f *watched) look(path string, now time.Time) (news bool, err error) {
	state, err := stampOf(path)
	if err != nil {
		return f.fail(err)
	}
	if state != f.seen {
		f.seen, f.since, f.read = state, now, false
		return false, nil
	}
	if f.read {
		return false, nil
	}
	data, err := config.ReadFile("assignments", path, maxBytes)
	if after, statErr := stampOf(path); statErr != nil || after != state {
		return false, nil // it changed meanwhile
	}
	if err != nil {
		f.read = true
		return f.fail(err)
	}
	if !bytes.HasSuffix(data, []byte("\n")) && now.Sub(f.since) < patience {
		return f.fail(errHalfWritten)
	}
	f.read = true
	entries, err := Parse(path, data)
	if err != nil {
		return f.fail(err)
	}
	f.entries, f.failed = entries, ""
	return true, nil
}

// fail tells each error once.
func (f *watched) fail(err error) (news bool, told error) {
	if f.failed == err.Error() {
		return false, nil
	}
	f.failed = err.Error()
	return true, err
}
