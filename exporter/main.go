// Command tributary-exporter records the TCP connections of a host and streams them to a tributary-collector.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tributary/exporter/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := app.NewCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tributary-exporter:", err)
		os.Exit(1)
	}
}
