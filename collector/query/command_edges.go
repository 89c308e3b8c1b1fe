package query

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// The verbs that ask edges for something else than a map.

func topCommand(connect Connect) *cobra.Command {
	var output, by string
	var n int
	var o MapOptions
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the edges with the most bytes, connections, failures, …",
		Example: `  tributary-collector top --since -1h
  tributary-collector top --since -1d --by failures -n 5
  tributary-collector top --since -1h --by rtt --workload shop/web`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				o.Format = f
				return answer(ctx, cmd, c, o.Since, o.Until, func() error { return Top(ctx, c.Client, o, by, n, time.Now, cmd.OutOrStdout()) })
			})
		},
	}
	outputFlag(cmd, &output)
	windowFlags(cmd, &o.Since, &o.Until)
	cmd.Flags().StringVar(&by, "by", measureNames[0], strings.Join(measureNames, ", ")+"; times by their 95 % quantile")
	valuesOf(cmd, "by", measureNames...)
	cmd.Flags().IntVarP(&n, "number", "n", 10, "how many")
	workloadFlag(cmd, connect, &o.Workload, "only edges of this workload")
	return cmd
}

func diffCommand(connect Connect) *cobra.Command {
	var output string
	var o DiffOptions
	cmd := &cobra.Command{
		Use:   "diff A B",
		Short: "Show the edges that are new, gone or degraded, between two windows or two releases",
		Long: `Show the edges of B that A has not (new), those of A that B has not (gone), and those that got worse (degraded: failures or resets
are at least 3 and their share is 1 % larger, or a 95 % time is twice what it was and 1 ms more).

A and B are windows, FROM..TO, or releases, release:NAME. The exit code is 2 if --fail-on names a change that was found, and 1 on errors.`,
		Example: `  tributary-collector diff -2h..-1h -1h..now
  tributary-collector diff -1d..-23h -1h..now --workload shop/web -o json
  tributary-collector diff release:2026-11-20.3 release:2026-11-21.1 --workload shop/web --since -7d`,
		ValidArgsFunction:  valuesBehind(map[string][]string{"--fail-on": changes, "--output": {"table", "json", "jsonl"}, "-o": {"table", "json", "jsonl"}}),
		DisableFlagParsing: true, // -2h..-1h begins like a flag: windows() sorts it out
		RunE: func(cmd *cobra.Command, args []string) error {
			if help, err := windows(cmd, args, &o); help || err != nil {
				return err
			}
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				o.Format = f
				return Diff(ctx, c.Client, o, time.Now, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	outputFlag(cmd, &output)
	windowFlags(cmd, &o.Since, &o.Until)
	workloadFlag(cmd, connect, &o.Workload, "only edges of this workload")
	cmd.Flags().StringSliceVar(&o.FailOn, "fail-on", nil, "exit with 2 if there are such changes: new, gone, degraded")
	return cmd
}

// windows reads the arguments of diff: A and B, which may begin with a minus, among flags.
func windows(cmd *cobra.Command, args []string, o *DiffOptions) (help bool, err error) {
	var sides, rest []string
	for i, a := range args {
		past := len(a) > 1 && a[0] == '-' && a[1] >= '0' && a[1] <= '9'
		value := i > 0 && strings.HasPrefix(args[i-1], "--") && !strings.Contains(args[i-1], "=") // of --since -7d
		if past && !value {
			sides = append(sides, a)
			rest = append(rest, "..") // keeps its place between other arguments
		} else {
			rest = append(rest, a)
		}
	}
	cmd.DisableFlagParsing = false
	if err := cmd.ParseFlags(rest); err != nil {
		return false, cmd.FlagErrorFunc()(cmd, err)
	}
	if help, err := cmd.Flags().GetBool("help"); help && err == nil {
		return true, cmd.Help()
	}
	given := cmd.Flags().Args()
	for i := range given {
		if given[i] == ".." && len(sides) > 0 {
			given[i], sides = sides[0], sides[1:]
		}
	}
	if err := cobra.ExactArgs(2)(cmd, given); err != nil {
		return false, err
	}
	o.A, o.B = given[0], given[1]
	return false, nil
}

func impactCommand(connect Connect) *cobra.Command {
	var output string
	var o ImpactOptions
	cmd := &cobra.Command{
		Use:   "impact WORKLOAD|ADDRESS|PREFIX",
		Short: "Show who breaks if a workload or an address goes, and whether it is safe to drain",
		Example: `  tributary-collector impact shop/api --since -1d
  tributary-collector impact 10.0.0.0/24 --since -1h --fail-on open`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: onlyFirst(workloadsOf(connect)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Target = args[0]
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				o.Format = f
				return answer(ctx, cmd, c, o.Since, o.Until, func() error { return Impact(ctx, c.Client, o, time.Now, cmd.OutOrStdout()) })
			})
		},
	}
	outputFlag(cmd, &output)
	windowFlags(cmd, &o.Since, &o.Until)
	cmd.Flags().Var((*nonEmpty)(&o.FailOn), "fail-on", "exit with 2 if connections are open, or if it was used in this time")
	valuesOf(cmd, "fail-on", "open", "used")
	return cmd
}

func exposureCommand(connect Connect) *cobra.Command {
	var output string
	var o MapOptions
	cmd := &cobra.Command{
		Use:     "exposure",
		Short:   "Show the ports that were reached from outside, and the listeners that nobody used",
		Example: "  tributary-collector exposure --since -7d",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				o.Format = f
				return answer(ctx, cmd, c, o.Since, o.Until, func() error { return Exposure(ctx, c.Client, o, time.Now, cmd.OutOrStdout()) })
			})
		},
	}
	outputFlag(cmd, &output)
	windowFlags(cmd, &o.Since, &o.Until)
	return cmd
}
