// Command faults is the campaign: real exporters, collectors, a store and a broker are killed, stopped, cut off, filled up and robbed of their power for as long as
// one likes, and after each round everything that is stored is compared with what was made.
//
// What runs is a region: a Kafka broker, collector-a with the embedded store in a small file system of its own, collector-b that uses this store over a link, an exporter that
// captures the connections of two programs in a network namespace, and replaying exporters. Those are processes of this program: the real spool, in small file systems
// of their own, and the real transport, but rows that are made up, so that what must be stored is known to the byte from a journal that no fault reaches. The
// exporter that captures is judged by what those two programs wrote down. Every exporter reaches both collectors through a link, a proxy that fails as networks do.
//
// All faults of a run are drawn from a seed and written to a plan before the first one; -plan does them again. Processes decide for themselves
// what happens between them, so a plan repeats the faults, and not each byte.
//
// A round ends with silence: all rows must have been acknowledged, and then are checked (check.go, truth.go). What is wrong is printed with the plan's path, the directory is
// kept, and the program ends with 1. Each round is one line of the ledger, whose sums -sum prints by commit.
//
// It needs root, for namespaces, mounts and capture. What it starts dies with it; the file systems of one that was killed stay mounted below its directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"tributary/deploy/world"
	"tributary/service/build"
)

type options struct {
	programs, engine  string
	script            string
	plan, ledger, dir string
	seed              uint64
	rounds, only      int
	replayers         int
	lasts             time.Duration
	moving, sync      time.Duration // bars
	unsealed          time.Duration
	sum               bool
}

func main() {
	world.RunChild()
	if config := os.Getenv(replayerEnv); config != "" {
		if err := replay(config); err != nil {
			fmt.Fprintln(os.Stderr, "replaying exporter:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.programs, "programs", "bin", "where the two programs are")
	flag.StringVar(&o.engine, "engine", "", "path of libchdb.so; empty: beside the programs")
	flag.StringVar(&o.script, "kafka", "deploy/dev/kafka.sh", "script that runs a broker")
	flag.StringVar(&o.plan, "plan", "", "file of a plan to do again; empty: a new one")
	flag.IntVar(&o.only, "round", -1, "do this round of the plan alone, from 0")
	flag.StringVar(&o.ledger, "ledger", "", "file to which each finished round is appended")
	flag.StringVar(&o.dir, "dir", "", "where everything is kept, on a real disk; empty: a new directory, removed when nothing is wrong")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64(), "of a new plan")
	flag.IntVar(&o.rounds, "rounds", 2, "rounds of a new plan")
	flag.DurationVar(&o.lasts, "lasts", time.Minute, "how long the faults of a round last, in a new plan")
	flag.IntVar(&o.replayers, "replayers", 3, "replaying exporters of a new plan")
	flag.DurationVar(&o.moving, "moving", 30*time.Second, "how soon after the last fault acknowledgements must move again")
	flag.DurationVar(&o.sync, "sync", 300*ms, "how long a spool's sync may take: what was sealed a second and that before a power cut must be there")
	flag.DurationVar(&o.unsealed, "unsealed", 2*time.Second, "what a kill may cost that was captured")
	flag.BoolVar(&o.sum, "sum", false, "print what -ledger adds up to, and do nothing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.sum {
		all, err := readLedger(o.ledger)
		if err != nil {
			return err
		}
		sum(os.Stdout, all)
		return nil
	}
	dir, err := directory(o.dir)
	if err != nil {
		return err
	}
	p := newPlan(o.seed, o.rounds, o.replayers, o.lasts)
	if o.plan != "" {
		if p, err = readPlan(o.plan); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, "plan.json")
	if err := p.write(path); err != nil {
		return err
	}
	fmt.Printf("plan: %s, seed %d, %d rounds\n", path, p.Seed, len(p.Rounds))
	if err := campaign(ctx, o, dir, p); err != nil {
		return fmt.Errorf("%w\nthe plan is %s, and beside it is everything that was there", err, path)
	}
	if o.dir == "" {
		return os.RemoveAll(dir)
	}
	return nil
}

func directory(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("/var/tmp", "tributary-faults-") // not memory: disks are to be disks
	}
	return dir, os.MkdirAll(dir, 0o700)
}

// campaign does a plan in a region of its own.
func campaign(ctx context.Context, o options, dir string, p Plan) (err error) {
	began := time.Now()
	r, err := newRegion(ctx, o, dir, p.Replayers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	fmt.Printf("everything runs after %.1f s\n", time.Since(began).Seconds())
	for i, faults := range p.Rounds {
		if o.only >= 0 && i != o.only || ctx.Err() != nil {
			continue
		}
		result := r.round(ctx, i, faults)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted in round %d", i)
		}
		result.Commit, result.Seed = build.Current().Version, p.Seed
		result.print()
		if o.ledger != "" {
			if err := result.record(o.ledger); err != nil {
				return err
			}
		}
		if len(result.Wrong) > 0 {
			return fmt.Errorf("round %d found %d things wrong", i, len(result.Wrong))
		}
	}
	return nil
}

// round does one round and judges it.
func (r *region) round(ctx context.Context, number int, faults []Fault) Result {
	x := &round{region: r, number: number, began: time.Now(), faults: faults, notes: map[string]float64{}}
	moving, err := x.run(ctx)
	if err != nil {
		x.failf("%v", err)
	}
	x.tally()
	return Result{
		Round: number, Ended: time.Now().UTC().Truncate(time.Second), Seconds: time.Since(x.began).Round(100 * ms).Seconds(), Counts: x.counts,
		Moving: moving.Round(100 * ms).Seconds(), Notes: x.notes, Wrong: x.wrong,
	}
}

func (r *round) run(ctx context.Context) (moving time.Duration, err error) {
	phase := time.Now()
	said := func(what string) {
		r.note(what+", seconds", time.Since(phase).Round(10*ms).Seconds())
		phase = time.Now()
	}
	if err := r.speak(); err != nil {
		return 0, err
	}
	if err := r.captured.begin(ctx, r.number); err != nil {
		return 0, err
	}
	for _, k := range r.links {
		k.cuts.Store(0)
	}
	r.disturb(ctx)
	said("faults")
	if moving, err = r.recover(ctx); err != nil {
		return moving, err
	}
	said("moving again")
	truth, err := r.captured.quiet(ctx, r.number)
	if err != nil {
		return moving, err
	}
	if err := r.settle(ctx); err != nil {
		return moving, err
	}
	said("settling")
	for _, o := range r.replayers {
		o.journal.batches = map[batchKey]entry{}
		if err := o.journal.read(); err != nil {
			return moving, err
		}
	}
	r.liveKills = append(r.liveKills, r.programsOf[live].killTimes()...)
	if err := r.checkLive(ctx, truth); err != nil {
		return moving, err
	}
	r.check(ctx)
	said("checks")
	return moving, ctx.Err()
}

// tally adds up what the programs and links did, and what they should not have done.
func (r *round) tally() {
	for _, k := range r.links {
		r.counts.CutsBefore += int(k.cuts.Load())
	}
	for name, p := range r.programsOf {
		kills, deaths := p.tally()
		for _, d := range deaths {
			r.failf("%s", d)
		}
		switch name {
		case collectorA, collectorB:
			r.counts.CollectorKills += len(kills)
		case live:
			r.counts.LiveKills += len(kills)
			r.counts.ExporterKills += len(kills)
		default:
			r.counts.ExporterKills += len(kills)
		}
	}
}

func (r Result) print() {
	c := r.Counts
	fmt.Printf("round %d, %.0f s: %d exporters killed (%d live), %d collectors, %d stores; %d cuts before the answer, %d full disks, %d power cuts, %d stops, %d faults of links; moving after %.1f s\n",
		r.Round, r.Seconds, c.ExporterKills, c.LiveKills, c.CollectorKills, c.StoreKills, c.CutsBefore, c.FullDisks, c.PowerCuts, c.Stops, c.LinkFaults, r.Moving)
	for _, text := range r.Wrong {
		fmt.Println("  WRONG:", text)
	}
}
