package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/embedded"
	"tributary/collector/rollup"
	"tributary/collector/schema"
	"tributary/collector/sink/clickhouse"
	"tributary/proto/flow"
)

const childArg = "embedded-child"

type options struct {
	rows    int
	hours   int
	seed    uint64
	runs    int
	data    string
	library string
	reuse   bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := embedded.RunChild(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return
	}
	var o options
	flag.IntVar(&o.rows, "rows", 10_000_000, "flows, about")
	flag.IntVar(&o.hours, "hours", 24, "over so many hours, up to now")
	flag.Uint64Var(&o.seed, "seed", 1, "of the world and its flows")
	flag.IntVar(&o.runs, "runs", 20, "of each question; the median is shown")
	flag.StringVar(&o.data, "data", "", "directory of the store; kept if given, else a temporary one that is removed")
	flag.StringVar(&o.library, "library", "bin/libchdb.so", "the engine")
	flag.BoolVar(&o.reuse, "reuse", false, "write nothing: go on with what an earlier run left in -data")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-store:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.reuse && o.data == "" {
		return errors.New("-reuse needs the -data of an earlier run")
	}
	if o.data == "" {
		dir, err := os.MkdirTemp("", "tributary-bench-store-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.data = dir
	}
	library, err := filepath.Abs(o.library)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	store, err := embedded.New(embedded.Config{
		DataDir: o.data, Listen: "127.0.0.1:0", LibraryPath: library, Command: []string{program, childArg}, MemoryBytes: 4 << 30,
	})
	if err != nil {
		return err
	}
	if err := store.Start(ctx); err != nil {
		return err
	}
	defer store.Stop()
	c := store.Credential()
	server := schema.Server{URL: store.URL(), Database: schema.DefaultDatabase, User: c.User, Password: c.Password}
	b := &bench{o: o, server: server, client: schema.NewClient(server, 2), log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	defer b.client.Close()
	if err := schema.Migrate(ctx, server, schema.Options{}, b.log); err != nil {
		return err
	}
	if !o.reuse {
		if err := b.fill(ctx); err != nil {
			return err
		}
	}
	if err := b.compute(ctx); err != nil {
		return err
	}
	return b.report(ctx)
}

// bench is one run.
type bench struct {
	o      options
	server schema.Server
	client *schema.Client
	log    *slog.Logger
}

// fill writes the flows.
func (b *bench) fill(ctx context.Context) error {
	began := time.Now()
	rows, err := b.write(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%d flows written in %.0f s\n", rows, time.Since(began).Seconds())
	return nil
}

// compute computes the roll-ups, as far as they are not, and merges.
func (b *bench) compute(ctx context.Context) error {
	began := time.Now()
	if err := rollup.New(rollup.Config{Collector: "bench"}, b.server, prometheus.NewRegistry(), b.log).Step(ctx, time.Now()); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "roll-ups computed in %.0f s\n", time.Since(began).Seconds())
	began = time.Now()
	for _, table := range []string{"flows_raw", "edges_1m_gens", "edges_1h_gens", "map_1h_gens", "recorded_1m_gens", "reachability_gens", "touched", "closed"} {
		if err := b.client.Exec(ctx, schema.Statement{Text: "OPTIMIZE TABLE " + b.server.Database + "." + table + " FINAL", Settings: map[string]string{"max_execution_time": "0", "optimize_skip_merged_partitions": "1"}}); err != nil {
			return fmt.Errorf("merge %s: %w", table, err)
		}
	}
	fmt.Fprintf(os.Stderr, "merged in %.0f s\n", time.Since(began).Seconds())
	return nil
}

// write makes the flows, chunk by chunk, and gives each exporter's to the sink as one batch.
func (b *bench) write(ctx context.Context) (int, error) {
	sink, err := clickhouse.New(clickhouse.Config{Server: b.server}, prometheus.NewRegistry(), b.log)
	if err != nil {
		return 0, err
	}
	if err := sink.Start(ctx); err != nil {
		return 0, err
	}
	m := &maker{w: newWorld(b.o.seed), later: map[int64][]record{}}
	const recordsOfOne = 1.88 // of a connection, by this world's ends and lives
	chunks := b.o.hours * int(time.Hour/chunk)
	each := int(float64(b.o.rows) / recordsOfOne / float64(chunks))
	first := time.Now().Truncate(chunk).Add(-time.Duration(chunks) * chunk).UnixNano()
	failed := make(chan error, 1)
	for i := range chunks {
		start := first + int64(i)*int64(chunk)
		byExporter := make([][]record, hosts)
		for _, r := range m.chunk(start, each) {
			e := r.c.ends[r.side].exporter
			byExporter[e] = append(byExporter[e], r)
		}
		for e, rows := range byExporter {
			for ; len(rows) > 0; rows = rows[min(len(rows), flow.MaxRows):] {
				sink.Write(m.batch(e, rows[:min(len(rows), flow.MaxRows)], start+int64(chunk)+1e9), func(err error) {
					if err != nil {
						select {
						case failed <- err:
						default:
						}
					}
				})
			}
		}
		if i%60 == 59 {
			fmt.Fprintf(os.Stderr, "%d flows …\n", m.rows)
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	if err := sink.Close(ctx); err != nil {
		return 0, err
	}
	select {
	case err := <-failed:
		return 0, err
	default:
		return m.rows, nil
	}
}
