package query

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"tributary/collector/schema"
)

func reachabilityCommand(connect Connect) *cobra.Command {
	var output string
	var o ReachabilityOptions
	cmd := &cobra.Command{
		Use:   "reachability",
		Short: "Show which paths fail, which of them worked before, and why",
		Long: `Show the paths (client workload, server workload, port) that fail, and those that worked and failed in this time.

A path that worked and fails is a regression: it has a verdict, and people are told (serve --alertmanager, --alert-webhook). It is told apart from
never_worked, nobody_tries, client_gone, released (the server was taken out of service on purpose) and lost_sight (the client's exporters are silent).`,
		Example: `  tributary-collector reachability
  tributary-collector reachability --since -7d --workload shop/web --all
  tributary-collector reachability -o json
  tributary-collector reachability silence shop/web "shop/db:5432" --for 2h --comment "moving the database"
  tributary-collector reachability silences`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				o.Format = f
				return answer(ctx, cmd, c, o.Since, o.Until, func() error { return Reachability(ctx, c.Client, o, time.Now, cmd.OutOrStdout()) })
			})
		},
	}
	outputFlag(cmd, &output)
	windowFlags(cmd, &o.Since, &o.Until)
	cmd.Flags().Lookup("since").DefValue, o.Since = "-1d", "-1d"
	workloadFlag(cmd, connect, &o.Workload, "only paths of this workload")
	cmd.Flags().BoolVar(&o.All, "all", false, "also paths that work, and those that nobody tries")
	cmd.AddCommand(silenceCommand(connect), silencesCommand(connect), unsilenceCommand(connect))
	return cmd
}

// writer returns a client that may write.
func (c Connection) writer() (*schema.Client, error) {
	if c.Writer == nil {
		return c.Client.store, nil
	}
	s, err := c.Writer()
	if err != nil {
		return nil, err
	}
	return schema.NewClient(s, 1), nil
}

func silenceCommand(connect Connect) *cobra.Command {
	var o SilenceOptions
	cmd := &cobra.Command{
		Use:     "silence CLIENT SERVER[:PORT]",
		Short:   "Tell nobody of a path for some time; * in a name stands for anything",
		Example: `  tributary-collector reachability silence "shop/*" shop/db:5432 --for 7d --comment "TICKET-12"`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Client, o.Server = args[0], args[1]
			return run(cmd, connect, string(FormatTable), func(ctx context.Context, c Connection, _ Format) error {
				store, err := c.writer()
				if err != nil {
					return err
				}
				return AddSilence(ctx, store, o, time.Now, cmd.OutOrStdout())
			})
		},
	}
	cmd.Flags().StringVar(&o.For, "for", "1h", "how long: 30m, 2h, 7d")
	cmd.Flags().StringVar(&o.Comment, "comment", "", "why")
	return cmd
}

func silencesCommand(connect Connect) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "silences",
		Short:   "List the silences in force",
		Example: "  tributary-collector reachability silences -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				return Silences(ctx, c.Client, f, cmd.OutOrStdout())
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func unsilenceCommand(connect Connect) *cobra.Command {
	return &cobra.Command{
		Use:     "unsilence ID",
		Short:   "End a silence",
		Example: "  tributary-collector reachability unsilence 5b1c9a02",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return run(cmd, connect, string(FormatTable), func(ctx context.Context, c Connection, _ Format) error {
				store, err := c.writer()
				if err != nil {
					return err
				}
				return EndSilence(ctx, c.Client, store, args[0], time.Now, cmd.OutOrStdout())
			})
		},
	}
}
