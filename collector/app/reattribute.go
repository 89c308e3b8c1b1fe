package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"tributary/collector/config"
	"tributary/collector/embedded"
	"tributary/collector/history"
	"tributary/collector/query"
	"tributary/collector/schema"
	programconfig "tributary/service/config"
)

// reattributeCommand asks again for rows that have no name.
func reattributeCommand() *cobra.Command {
	cfg := config.Default()
	var since, until, output string
	var dry bool
	cmd := &cobra.Command{
		Use:   "reattribute --since TIME",
		Short: "Name rows whose evidence came late, as new versions",
		Long: `Name rows whose evidence came late: everything that exporters said of addresses is in the table ownership; it is said again, and every row without a
name is looked up once more. Rows that can be named now are written again under a higher version; edges are computed again by the collector within a
minute. To run it twice changes nothing. It takes the configuration of serve, for the store, its credential, and how names are looked up.`,
		Example: `  tributary-collector reattribute --since -2h
  tributary-collector reattribute --since 2026-11-20T14:00:00Z --until 2026-11-20T15:00:00Z --dry-run`,
		Args: cobra.NoArgs,
	}
	loader := programconfig.NewLoader(config.EnvPrefix, cmd.Flags())
	loader.Bind(&cfg)
	cmd.Flags().StringVar(&since, "since", "", "the first time asked for, by the end of the record: RFC 3339, or -2h")
	cmd.Flags().StringVar(&until, "until", "", "the time before which to stop; default: now")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "count, and write nothing")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table; json: one object")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loader.Load(); err != nil {
			return err
		}
		if done, err := loader.Answer(cmd.OutOrStdout()); done || err != nil {
			return err
		}
		if output != "table" && output != "json" {
			return fmt.Errorf("--output %s: table or json", output)
		}
		o, err := reattributeOptions(&cfg, since, until, time.Now())
		if err != nil {
			return err
		}
		o.DryRun = dry
		if cfg.Regions != "" {
			regions, err := newRegions(&cfg, func() {}, prometheus.NewRegistry(), nil, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer regions.Stop()
			o.Regions = regions
		}
		server, err := writerOf(&cfg)
		if err != nil {
			return err
		}
		cmd.SilenceUsage = true
		result, err := history.Reattribute(untilSignal(cmd.Context()), server, o)
		if err != nil {
			return err
		}
		if output == "json" {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(result)
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), sentence(result, dry))
		return err
	}
	return cmd
}

func reattributeOptions(cfg *config.Config, since, until string, now time.Time) (o history.Options, err error) {
	o = history.Options{Tolerance: cfg.Hold.Tolerance, Internal: cfg.Internal, MaxClock: cfg.Hold.MaxClockError, Until: now}
	if since == "" {
		return o, errors.New("--since is missing: RFC 3339, or -2h")
	}
	if o.Since, err = query.ParseTime(since, now); err != nil {
		return o, fmt.Errorf("--since: %w", err)
	}
	if until != "" {
		if o.Until, err = query.ParseTime(until, now); err != nil {
			return o, fmt.Errorf("--until: %w", err)
		}
	}
	if !o.Since.Before(o.Until) {
		return o, fmt.Errorf("--since %s is not before --until %s", o.Since.Format(time.RFC3339), o.Until.Format(time.RFC3339))
	}
	return o, nil
}

// writerOf is the store as serve writes to it.
func writerOf(cfg *config.Config) (schema.Server, error) {
	server, err := asked(cfg)
	if err != nil || cfg.ClickHouse != "embedded" {
		return server, err
	}
	credential, err := embedded.ReadCredential(cfg.Data)
	if err != nil {
		return server, fmt.Errorf("the embedded store's credential: %w; is --data the collector's?", err)
	}
	server.User, server.Password = credential.User, credential.Password
	return server, nil
}

func sentence(r history.Result, dry bool) string {
	verb := "named"
	if dry {
		verb = "could be named"
	}
	out := fmt.Sprintf("%d rows had no name; %d %s by %d events of the history; %d are not pending any more\n", r.Asked, r.Named, verb, r.Events, r.Settled)
	var why []string
	for _, name := range slices.Sorted(maps.Keys(r.Why)) {
		why = append(why, fmt.Sprintf("%s %d", name, r.Why[name]))
	}
	if len(why) > 0 {
		out += "without a name: " + strings.Join(why, ", ") + "\n"
	}
	return out
}
