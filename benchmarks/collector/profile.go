package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/pprof"

	"tributary/collector/app" //nolint:depguard // the profiled collector is the whole program, wired as it ships
)

// profiledCollector runs the collector in this process and profiles it between the lines "start" and "stop" on its standard input. It
// writes PREFIX.cpu.pprof and PREFIX.allocs.pprof.
func profiledCollector(prefix string, args []string, orders io.Reader) error {
	go func() {
		if err := profileOnOrder(prefix, orders); err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
		}
	}()
	command := app.Command()
	command.SetArgs(args)
	return command.Execute()
}

func profileOnOrder(prefix string, orders io.Reader) error {
	for lines := bufio.NewScanner(orders); lines.Scan(); {
		switch lines.Text() {
		case "start":
			f, err := os.Create(prefix + ".cpu.pprof")
			if err != nil {
				return err
			}
			defer f.Close()
			if err := pprof.StartCPUProfile(f); err != nil {
				return err
			}
		case "stop":
			pprof.StopCPUProfile()
			f, err := os.Create(prefix + ".allocs.pprof")
			if err != nil {
				return err
			}
			defer f.Close()
			if err := pprof.Lookup("allocs").WriteTo(f, 0); err != nil {
				return err
			}
		}
	}
	return nil
}
