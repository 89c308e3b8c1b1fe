package world

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	stateDir = "/run/tributary-world"
	netnsDir = "/run/netns"
	maxRuns  = 100
)

// run is the right to one run number, held as a lock on a file: the kernel gives it back when its owner dies, so
// whoever gets the lock knows that anything still there under this number is a leftover.
type run struct {
	number int
	lock   *os.File
}

func lockPath(number int) string { return filepath.Join(stateDir, strconv.Itoa(number)+".lock") }
func (r *run) dir() string       { return filepath.Join(stateDir, strconv.Itoa(r.number)) }
func (r *run) prefix() string    { return fmt.Sprintf("trb%d-", r.number) }

// acquireRun takes the first free number and sweeps the leftovers of every number nobody holds.
func acquireRun() (*run, error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, fmt.Errorf("world state directory: %w", err)
	}
	var mine *run
	for n := range maxRuns {
		if mine != nil && !leftBehind(n) {
			continue
		}
		r, err := lockRun(n, unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := r.sweep(); err != nil {
			r.release()
			return nil, err
		}
		if mine == nil {
			mine = r
			continue
		}
		r.release()
	}
	if mine == nil {
		return nil, fmt.Errorf("all %d world numbers are in use (see %s)", maxRuns, stateDir)
	}
	return mine, nil
}

func leftBehind(number int) bool {
	_, err := os.Stat(lockPath(number))
	return err == nil
}

// lockRun locks a number. The file may be unlinked by its last owner between open and lock, hence the comparison.
func lockRun(number, flags int) (*run, error) {
	for {
		f, err := os.OpenFile(lockPath(number), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return nil, fmt.Errorf("world lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|flags); err != nil {
			f.Close()
			return nil, fmt.Errorf("world lock %d: %w", number, err)
		}
		held, err1 := f.Stat()
		named, err2 := os.Stat(lockPath(number))
		if err1 == nil && err2 == nil && os.SameFile(held, named) {
			return &run{number: number, lock: f}, nil
		}
		f.Close()
	}
}

// sweep removes the namespaces and the directory of this number, and ends what its processes left in the kernel.
func (r *run) sweep() error {
	names, err := filepath.Glob(filepath.Join(netnsDir, r.prefix()+"*"))
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	var errs []error
	for _, path := range names {
		errs = append(errs, endSockets(path), removeNamespace(filepath.Base(path)))
	}
	errs = append(errs, os.RemoveAll(r.dir()))
	return errors.Join(errs...)
}

// release gives the number back. The lock file goes with it, the directories when they are empty.
func (r *run) release() {
	os.Remove(lockPath(r.number))
	r.lock.Close()
	os.Remove(stateDir)
}

// removeNamespace unmounts and unlinks one named namespace; one that is only half made is no error.
func removeNamespace(name string) error {
	err := netns.DeleteNamed(name)
	switch {
	case err == nil, errors.Is(err, os.ErrNotExist):
		return nil
	case errors.Is(err, unix.EINVAL): // a file that never became a mount
		err = os.Remove(filepath.Join(netnsDir, name))
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	return fmt.Errorf("remove network namespace %s: %w", name, err)
}
