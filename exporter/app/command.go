package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"tributary/exporter/config"
	"tributary/service/build"
	serviceconfig "tributary/service/config"
	"tributary/service/log"
	"tributary/service/spool"
)

// NewCommand returns tributary-exporter's command line; run is the verb where none is given.
func NewCommand() *cobra.Command {
	root := runCommand("tributary-exporter")
	root.Long = "Records the TCP connections of this host and sends them to a tributary-collector."
	root.Version = build.Current().String()
	root.SetVersionTemplate("tributary-exporter {{.Version}}\n")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(runCommand("run"), doctorCommand(), filterCommand(), spoolCommand(), recordCommand(), replayCommand())
	return root
}

// configured returns a command whose flags are the configuration, and calls do with it, unless --dump or --check was all.
func configured(use, short string, do func(ctx context.Context, cmd *cobra.Command, c config.Config, logger *slog.Logger) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	c := config.Default()
	loader := serviceconfig.NewLoader("TRIBUTARY_EXPORTER", cmd.Flags())
	loader.Bind(&c)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loader.Load(); err != nil {
			return err
		}
		logger, err := log.New(os.Stderr, c.LogLevel, c.LogFormat)
		if err != nil {
			return err
		}
		if loader.Checking() {
			if _, err := New(c, logger); err != nil {
				return err
			}
		}
		if done, err := loader.Answer(cmd.OutOrStdout()); done || err != nil {
			return err
		}
		for _, warning := range loader.Warnings() {
			logger.Warn(warning, log.Component, "config")
		}
		return do(cmd.Context(), cmd, c, logger)
	}
	return cmd
}

func runCommand(use string) *cobra.Command {
	return configured(use, "Capture connections and send them (the default)", func(ctx context.Context, _ *cobra.Command, c config.Config, logger *slog.Logger) error {
		a, err := New(c, logger)
		if err != nil {
			return err
		}
		a.reduces = true
		beGuest(limitsHere(c.Budget).Cores)
		return a.Run(ctx)
	})
}

func doctorCommand() *cobra.Command {
	return configured("doctor", "Say what this host allows, one line a finding", func(ctx context.Context, cmd *cobra.Command, c config.Config, _ *slog.Logger) error {
		if err := Doctor(ctx, c, cmd.OutOrStdout()); err != nil {
			return fmt.Errorf("doctor: %w", err)
		}
		return nil
	})
}

// spoolCommand looks into the spool directory, whether an exporter uses it or not.
func spoolCommand() *cobra.Command {
	var output string
	cmd := configured("spool", "Show what is in the spool directory, and why", func(_ context.Context, cmd *cobra.Command, c config.Config, _ *slog.Logger) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("-o %q is not table or json", output)
		}
		if c.Spool.Dir == "" {
			return errors.New("no spool directory is configured: give --spool-dir")
		}
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read the host's name: %w", err)
		}
		report, err := spool.Inspect(c.Spool.Dir, host)
		if err != nil {
			return err
		}
		if output == "json" {
			return report.WriteJSON(cmd.OutOrStdout())
		}
		return report.Write(cmd.OutOrStdout(), time.Now())
	})
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, or json: one object a line")
	return cmd
}

// recordCommand keeps the kernel's records in a file instead of sending them.
func recordCommand() *cobra.Command {
	limit := int64(1 << 30)
	cmd := configured("record FILE", "Keep the kernel's records in a file, for a replay anywhere", func(ctx context.Context, cmd *cobra.Command, c config.Config, logger *slog.Logger) error {
		return Record(ctx, c, cmd.Flags().Arg(0), limit, logger)
	})
	cmd.Args = cobra.ExactArgs(1)
	cmd.Flags().Int64Var(&limit, "limit", limit, "size in bytes at which the recording ends; a signal ends it earlier")
	return cmd
}

// replayCommand needs neither root nor the kernel's help.
func replayCommand() *cobra.Command {
	cmd := configured("replay FILE", "Send what a recording has, marked as replay, under an exporter_id of its own", func(ctx context.Context, cmd *cobra.Command, c config.Config, logger *slog.Logger) error {
		return Replay(ctx, c, cmd.Flags().Arg(0), logger)
	})
	cmd.Args = cobra.ExactArgs(1)
	return cmd
}
