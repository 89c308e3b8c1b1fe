// Tributary-demo shows Tributary at work on this host: it builds a small world (or, with --host, takes the host as it is),
// starts one collector with the embedded store and one exporter, prints the dependency map, and keeps it current until
// Ctrl-C. What it started it ends, what it made it removes, whatever happens; if one of its children dies it says which,
// shows the child's last words and leaves.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"tributary/deploy/world"
)

type options struct {
	host, once bool
	bin, data  string
	refresh    time.Duration
	patience   time.Duration
}

func main() {
	world.RunChild()
	os.Exit(mainWithExitCode())
}

func mainWithExitCode() int {
	opt, err := parse(os.Args[1:])
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	d := &demo{options: opt, out: os.Stdout}
	err = d.run(ctx)
	if err := d.close(); err != nil {
		fmt.Fprintln(os.Stderr, "tributary-demo: clean up:", err)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tributary-demo:", err)
		return 1
	}
	return 0
}

func parse(args []string) (options, error) {
	var opt options
	fs := flag.NewFlagSet("tributary-demo", flag.ContinueOnError)
	fs.BoolVar(&opt.host, "host", false, "watch this host's own connections instead of a built world")
	fs.BoolVar(&opt.once, "once", false, "print the map once and leave; with a world: exit code 0 only if every expected edge is there")
	fs.StringVar(&opt.bin, "bin", "", "directory of the programs and the engine (default: where this program is)")
	fs.StringVar(&opt.data, "data", "", "directory to keep data and logs in (default: a temporary one, removed at the end)")
	fs.DurationVar(&opt.refresh, "refresh", 3*time.Second, "time between two looks at the map")
	fs.DurationVar(&opt.patience, "patience", 25*time.Second, "how long the first map may wait until it is complete")
	if err := fs.Parse(args); err != nil {
		return opt, err
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "tributary-demo: unknown argument %q\n", fs.Arg(0))
		return opt, flag.ErrHelp
	}
	if opt.bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return opt, err
		}
		opt.bin = filepath.Dir(exe)
	}
	if opt.refresh < time.Second {
		opt.refresh = time.Second
	}
	return opt, nil
}
