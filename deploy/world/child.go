package world

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// Hidden first arguments with which a program that uses this package is started again.
const (
	workloadArg = "tributary-world-workload"
	janitorArg  = "tributary-world-janitor"
)

// RunChild must be the first thing that main (or TestMain) of a program with a world does: in a process that a world
// started it does that process's work and exits, everywhere else it returns at once.
func RunChild() {
	if len(os.Args) != 3 {
		return
	}
	switch os.Args[1] {
	case workloadArg:
		newWorkload(os.Args[2], os.Stdin, os.Stdout).serve()
	case janitorArg:
		if err := clean(os.Args[2], os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "world janitor:", err)
			os.Exit(1)
		}
	default:
		return
	}
	os.Exit(0)
}

// clean waits for the death of the world's owner, then removes what it left.
func clean(number string, owner io.Reader) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n >= maxRuns {
		return fmt.Errorf("bad world number %q", number)
	}
	io.Copy(io.Discard, owner) //nolint:errcheck // any end of the pipe is the owner's end
	r, err := lockRun(n, 0)
	if err != nil {
		return err
	}
	defer r.release()
	return r.sweep()
}
