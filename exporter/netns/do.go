package netns

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread inside the namespace. The thread ends with it, so that
// no other goroutine can find itself there; the own namespace needs no entering and no privilege.
func Do(space Namespace, f func() error) error {
	if space.Path == Own {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end with its goroutine, and /proc/self shows its namespace: it waits here, and another goes.
			done <- Do(space, f)
			runtime.UnlockOSThread()
			return
		}
		done <- enter(space, f)
	}()
	return <-done
}

func enter(space Namespace, f func() error) error {
	file, err := Open(space.Path, space.Inum)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // nothing was written to it
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %d: %w", space.Inum, err)
	}
	return f()
}
