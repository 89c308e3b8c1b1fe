package query

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tributary/collector/schema"
	"tributary/proto/flow"
)

// Connection is what the verbs ask.
type Connection struct {
	Client *Client
	API    string // base URL of the collector's API, for whois; "" if there is none
	// Writer finds the server as one who may write sees it, for silences; nil: as Client does.
	Writer func() (schema.Server, error)
}

// Connect returns the connection that the program's settings name. It is called once a verb has been read, and must not block for
// longer than its context.
type Connect func(ctx context.Context) (Connection, error)

// Commands returns the verbs that ask, and schema.
func Commands(connect Connect) []*cobra.Command {
	return []*cobra.Command{
		sqlCommand(connect), mapCommand(connect), observeCommand(connect), topCommand(connect), diffCommand(connect), impactCommand(connect),
		exposureCommand(connect), whoisCommand(connect), reachabilityCommand(connect), schemaCommand(connect),
	}
}

// run connects, asks and closes. The format, which may be one of those named too, is read before anything is asked.
func run(cmd *cobra.Command, connect Connect, output string, ask func(ctx context.Context, c Connection, f Format) error, also ...Format) error {
	f, err := parseFormat(output, also...)
	if err != nil {
		return err
	}
	cmd.SilenceUsage = true // from here on an error is not about how the verb was written
	c, err := connect(cmd.Context())
	if err != nil {
		return err
	}
	defer c.Client.Close()
	defer showProgress(cmd)()
	return ask(cmd.Context(), c, f)
}

// answer writes an answer about a window, and behind it, to stderr, how complete it is, which is asked at the same time. Found is an answer too.
func answer(ctx context.Context, cmd *cobra.Command, c Connection, since, until string, write func() error) error {
	tell := Telling(ctx, c.Client, since, until, time.Now)
	err := write()
	if err == nil || errors.As(err, new(*Found)) {
		tell(cmd.ErrOrStderr())
	}
	return err
}

func outputFlag(cmd *cobra.Command, output *string, also ...string) {
	formats := append([]string{"table", "json or jsonl: one object a line"}, also...)
	cmd.Flags().StringVarP(output, "output", "o", string(FormatTable), strings.Join(formats, "; "))
	values := []string{"table", "json", "jsonl"}
	for _, format := range also {
		name, _, _ := strings.Cut(format, ":")
		values = append(values, name)
	}
	valuesOf(cmd, "output", values...)
}

func sqlCommand(connect Connect) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     `sql "SELECT …"`,
		Short:   "Run a read-only ClickHouse statement",
		Example: `  tributary-collector sql "SELECT remote_workload, count() FROM flows WHERE role = 'client' GROUP BY 1"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				return SQL(ctx, c.Client, args[0], f, cmd.OutOrStdout())
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func mapCommand(connect Connect) *cobra.Command {
	var output string
	var o MapOptions
	cmd := &cobra.Command{
		Use:   "map",
		Short: "Show which workload talks to which, and how well",
		Example: `  tributary-collector map --since -15m
  tributary-collector map --since -1d --workload shop/web --depth 2
  tributary-collector map --since -1h -o dot | dot -Tsvg > map.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				o.Format = f
				return answer(ctx, cmd, c, o.Since, o.Until, func() error { return Map(ctx, c.Client, o, time.Now, cmd.OutOrStdout()) })
			}, FormatDot, FormatMermaid)
		},
	}
	outputFlag(cmd, &output, "dot: for Graphviz", "mermaid: a flowchart for Markdown")
	windowFlags(cmd, &o.Since, &o.Until)
	workloadFlag(cmd, connect, &o.Workload, "only around this workload")
	cmd.Flags().IntVar(&o.Depth, "depth", 0, "with --workload: within so many steps of it (default 1)")
	return cmd
}

func windowFlags(cmd *cobra.Command, since, until *string) {
	cmd.Flags().StringVar(since, "since", "", "records that ended at this time or later: RFC 3339 or -5m; edges of more than an hour ago begin with the whole minute")
	cmd.Flags().StringVar(until, "until", "", "records that ended before this time")
}

// defaultLast is what observe shows where nothing says how much.
const defaultLast = 20

func observeCommand(connect Connect) *cobra.Command {
	var output string
	var o ObserveOptions
	cmd := &cobra.Command{
		Use:   "observe",
		Short: "Show flow records, and go on with those that arrive",
		Long: `Show flow records, the newest 20 or those of a time, and go on with those that arrive.

Filters may be repeated: values of the same flag are alternatives (so are --port 80,443), different flags all hold, and --not turns the
next one around. Each of --workload, --ip and --port has a --from-… for the client's side and a --to-… for the server's.`,
		Example: `  tributary-collector observe --follow --kind failed
  tributary-collector observe --since -5m --from-workload shop/web --not --to-port 443 --last 100
  tributary-collector observe --since -1h --ip 10.0.0.0/8 --reason refused,timeout -o jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Last == 0 && o.Since == "" {
				o.Last = defaultLast
			}
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				o.Format = f
				if o.Since != "" {
					Telling(ctx, c.Client, o.Since, o.Until, time.Now)(cmd.ErrOrStderr())
				}
				return Observe(ctx, c.Client, o, time.Now, cmd.OutOrStdout())
			})
		},
	}
	outputFlag(cmd, &output)
	windowFlags(cmd, &o.Since, &o.Until)
	cmd.Flags().IntVar(&o.Last, "last", 0, fmt.Sprintf("only the newest so many (without --since: %d)", defaultLast))
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on with what arrives, until Ctrl-C")
	o.Filters.flags(cmd.Flags())
	for _, name := range []string{"workload", "from-workload", "to-workload"} {
		offer(cmd, name, workloadsOf(connect))
	}
	valuesOf(cmd, "kind", flow.KindNames[1:]...)
	valuesOf(cmd, "reason", flow.CloseReasonNames...)
	valuesOf(cmd, "evidence", flow.EvidenceNames...)
	valuesOf(cmd, "why", flow.WhyNames...)
	return cmd
}

func whoisCommand(connect Connect) *cobra.Command {
	var output string
	var o WhoisOptions
	cmd := &cobra.Command{
		Use:     "whois ADDRESS",
		Short:   "Show which workload owned an address at a time",
		Example: "  tributary-collector whois 10.77.0.12 --at 2026-11-20T14:03:00Z",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Address = args[0]
			return run(cmd, connect, output, func(ctx context.Context, c Connection, f Format) error {
				o.Format, o.API = f, c.API
				return Whois(ctx, c.Client, o, time.Now, cmd.OutOrStdout())
			})
		},
	}
	outputFlag(cmd, &output)
	cmd.Flags().StringVar(&o.At, "at", "", "the time: RFC 3339 or -5m; without it, 5 s ago")
	cmd.Flags().Uint16Var(&o.Port, "port", 0, "the port, for an address that workloads share by port")
	cmd.Flags().StringVar(&o.Network, "network", "", "only in this network; without it, in all")
	return cmd
}

func schemaCommand(connect Connect) *cobra.Command {
	cmd := &cobra.Command{
		Use: "schema", Short: "Show and make the tables and views",
		Example: `  tributary-collector schema print
  tributary-collector schema migrate`,
	}
	cmd.AddCommand(schemaPrintCommand(), schemaMigrateCommand(connect))
	return cmd
}

func schemaPrintCommand() *cobra.Command {
	var database, cluster string
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the statements that make the database",
		Example: `  tributary-collector schema print
  tributary-collector schema print --cluster main --database tributary`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := schema.Options{Database: database}
			ddl, err := schema.DDL(o)
			if cmd.Flags().Changed("cluster") {
				ddl, err = schema.ClusterDDL(o, cluster)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), ddl)
			return err
		},
	}
	cmd.Flags().StringVar(&database, "database", schema.DefaultDatabase, "name of the database")
	cmd.Flags().StringVar(&cluster, "cluster", "", "for this cluster of servers: replicated and distributed tables (untested)")
	return cmd
}

func schemaMigrateCommand(connect Connect) *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database up to this program's schema, as serve does at its start",
		Long: `Bring the database up to this program's schema, as serve does at its start. It may run at any time, and beside running collectors of the version
before. The embedded store has to be running; then the credential is that of --data.`,
		Example: "  tributary-collector schema migrate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd, connect, string(FormatTable), func(ctx context.Context, c Connection, _ Format) error {
				store, err := c.writer()
				if err != nil {
					return err
				}
				log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
				if err := schema.Migrate(ctx, store.Server(), schema.Options{RawTTL: ttl}, log); err != nil {
					return err
				}
				return write(cmd.OutOrStdout(), "database "+store.Server().Database+" at "+store.Server().URL+" is up to date\n")
			})
		},
	}
	cmd.Flags().DurationVar(&ttl, "clickhouse-raw-ttl", schema.DefaultRawTTL, "how long raw flows are kept, whole hours")
	return cmd
}
