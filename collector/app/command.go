package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"tributary/collector/config"
	"tributary/collector/embedded"
	"tributary/collector/query"
	"tributary/service/build"
	programconfig "tributary/service/config"
	"tributary/service/log"
)

// Command returns the whole command line of tributary-collector.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:           "tributary-collector",
		Short:         "Names both ends of every TCP connection and makes them queryable in ClickHouse SQL",
		Version:       build.Current().String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), reattributeCommand(), doctorCommand(), embeddedChildCommand())
	root.AddCommand(askCommands()...)
	root.AddCommand(settingsCommand())
	return root
}

func serveCommand() *cobra.Command {
	cfg := config.Default()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Take flows from exporters, name both ends, and write them to ClickHouse and Kafka",
		Example: `  tributary-collector serve --data /var/lib/tributary
  tributary-collector serve --clickhouse http://writer:secret@clickhouse:8123/tributary --kafka kafka-1:9092,kafka-2:9092`,
		Args: cobra.NoArgs,
	}
	loader := programconfig.NewLoader(config.EnvPrefix, cmd.Flags())
	loader.Bind(&cfg)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loader.Load(); err != nil {
			return err
		}
		if done, err := loader.Answer(cmd.OutOrStdout()); done || err != nil {
			return err
		}
		logger, err := log.New(os.Stderr, cfg.LogLevel, cfg.LogFormat)
		if err != nil {
			return err
		}
		for _, w := range loader.Warnings() {
			logger.Warn(w)
		}
		return Serve(untilSignal(cmd.Context()), &cfg, logger)
	}
	return cmd
}

// embeddedChildCommand is what the embedded store starts; people have no use for it.
func embeddedChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "embedded-child",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := log.New(os.Stderr, "info", log.JSON) // the parent reads it
			if err != nil {
				return err
			}
			return embedded.RunChild(untilSignal(cmd.Context()), logger)
		},
	}
}

// untilSignal ends at the first SIGINT or SIGTERM; the second one ends the process.
func untilSignal(parent context.Context) context.Context {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx
}

// Main runs the command line and returns the exit code.
func Main() int {
	if err := Command().ExecuteContext(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "tributary-collector:", err)
		var found *query.Found // an answer for scripts, not a failure
		if errors.As(err, &found) {
			return found.ExitCode()
		}
		return 1
	}
	return 0
}
