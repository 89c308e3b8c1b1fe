// Package reload reads a file again when it has changed, whole or not at all, for tables that people edit while a program runs.
//
// A state of the file is read when it has been the same at two looks in a row, and once. One that does not end with a newline looks half written and is
// left for 10 s. Nothing here keeps what was read: after an error the caller stays with the last good version.
package reload

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"tributary/service/config"
	"tributary/service/files"
)

// Every is how often to look.
const Every = 500 * time.Millisecond

// patience is how long a file that does not end with a newline must stay as it is: it looks half written.
const patience = 10 * time.Second

// File is a file as it was seen last. Make it with New; it belongs to one goroutine.
type File struct {
	what, path string
	limit      int64

	seen   stamp
	since  time.Time
	read   bool // this state
	failed string
}

// New watches a file of at most limit bytes; what names it in errors.
func New(what, path string, limit int64) *File { return &File{what: what, path: path, limit: limit} }

// stamp tells one state of a file from the next.
type stamp struct {
	dev, ino             uint64
	size, written, moved int64
}

func stampOf(path string) (stamp, error) {
	info, err := files.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, errors.ErrUnsupported
	}
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil
}

var errHalfWritten = errors.New("the file does not end with a newline and looks half written: it is taken when it has not changed for 10 s")

// Look returns the file's content if there is a new state of it. news says that there is something to tell, content or an error, once a state.
func (f *File) Look(now time.Time) (data []byte, news bool, err error) {
	state, err := stampOf(f.path)
	if err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok {
			err = pathErr.Err // the sentence has the path
		}
		return f.fail(fmt.Errorf("%s %s: %w", f.what, f.path, err))
	}
	if state != f.seen {
		f.seen, f.since, f.read = state, now, false
		return nil, false, nil
	}
	if f.read {
		return nil, false, nil
	}
	data, err = config.ReadFile(f.what, f.path, f.limit)
	if after, statErr := stampOf(f.path); statErr != nil || after != state {
		return nil, false, nil // it changed meanwhile
	}
	if err != nil {
		f.read = true
		return f.fail(err)
	}
	if !bytes.HasSuffix(data, []byte("\n")) && now.Sub(f.since) < patience {
		return f.fail(errHalfWritten)
	}
	f.read, f.failed = true, ""
	return data, true, nil
}

// fail tells each error once.
func (f *File) fail(err error) (data []byte, news bool, told error) {
	if f.failed == err.Error() {
		return nil, false, nil
	}
	f.failed = err.Error()
	return nil, true, err
}
