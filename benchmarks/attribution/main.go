package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

// config is what a run consists of.
type config struct {
	regions, hosts, instances, workloads int
	nodes                                int   // of each region
	length                               int64 // of the traffic
	rowsPerTick                          float64
	pairs                                bool // both ends' records come to the collector: mirrors
	faults                               faults
}

func main() {
	var cfg config
	seed := flag.Uint64("seed", 1, "first seed")
	seeds := flag.Int("seeds", 1, "how many seeds")
	lookups := flag.Int("lookups", 2_500_000, "look-ups a seed, about")
	list := flag.String("faults", "all", "all, none, or a list: delay,loss,repeat,clock,badclock,freeze,exporter,restart,kafka,region,forge,crowd")
	flag.BoolVar(&cfg.pairs, "pairs", true, "both ends of a connection are reported, as in a whole fleet: mirror records name most rows, and check the ranges; false: the ranges alone")
	flag.IntVar(&cfg.regions, "regions", 3, "regions")
	flag.IntVar(&cfg.nodes, "nodes", 2, "collectors of a region, which share ownership over a topic; 1: alone")
	flag.IntVar(&cfg.hosts, "hosts", 501, "hosts")
	flag.IntVar(&cfg.instances, "instances", 20_001, "instances")
	flag.IntVar(&cfg.workloads, "workloads", 600, "workloads")
	length := flag.Duration("length", 2*time.Minute, "virtual time with traffic")
	parallel := flag.Int("parallel", runtime.GOMAXPROCS(0), "seeds at a time; each takes about 1 GiB")
	verbose := flag.Bool("v", false, "show examples of wrong and unnamed rows")
	bars := flag.Bool("bars", false, "end with 1 if a bar of issue 5 is missed")
	flag.Parse()
	var err error
	if cfg.faults, err = parseFaults(*list); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	cfg.length = int64(*length)
	cfg.setLookups(*lookups)
	total := runSeeds(cfg, *seed, *seeds, *parallel, *verbose)
	total.print(*list, cfg)
	if *bars && !total.passes(cfg.faults) {
		os.Exit(1)
	}
}

// runSeeds runs several worlds, some at a time. What comes out of a seed does not depend on the others.
func runSeeds(cfg config, first uint64, seeds, parallel int, verbose bool) *report {
	total := newReport()
	next := make(chan uint64)
	go func() {
		defer close(next)
		for n := range seeds {
			next <- first + uint64(n)
		}
	}()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range max(1, parallel) {
		wg.Go(func() {
			for seed := range next {
				began := time.Now()
				s := newSim(cfg, seed)
				s.run()
				mu.Lock()
				total.add(s)
				fmt.Printf("seed %d: %d look-ups, %d wrong, %d unnamed, %s\n", seed, s.score.rows, s.score.wrong, s.score.unnamedTotal(), time.Since(began).Round(time.Millisecond))
				if verbose || s.score.wrong+s.score.rangesWrong > 0 {
					s.score.show()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return total
}

// setLookups spreads the look-ups over hosts and time. Some of what is drawn is no connection: idle instances, ends that are not there.
func (c *config) setLookups(n int) {
	c.rowsPerTick = float64(n) / float64(c.hosts) / (float64(c.length) / float64(sealEvery)) * 1.3
	if c.pairs {
		c.rowsPerTick /= 2
	}
}

// run is one run: traffic and trouble, then quiet until everything is decided.
func (s *sim) run() {
	for _, r := range s.regions {
		s.disturb(r)
	}
	s.time.run(s.cfg.length)
	s.ending = true
	s.time.run(s.cfg.length + 75*sec)
	for _, r := range s.regions {
		for _, n := range r.nodes {
			s.score.lostWaiting(n)
			s.score.met(n.metrics)
		}
		if s.cfg.pairs {
			s.score.joinAll(r)
		}
	}
	s.rivals.finish()
}

// disturb plans what happens in a region.
func (s *sim) disturb(r *region) {
	f := s.cfg.faults
	s.every(500*ms, r.deploy)
	some := func(gap int64, share float64, do func(*host)) {
		n := max(1, int64(float64(len(r.hosts))*share))
		s.every(gap/n, func() { do(r.hosts[s.rng.IntN(len(r.hosts))]) })
	}
	if f.loss {
		some(60*sec, 0.5, (*host).cut)
	}
	if f.freeze {
		some(60*sec, 0.01, (*host).freeze)
	}
	if f.exporter {
		some(60*sec, 0.02, (*host).crash)
	}
	if f.restart {
		for _, n := range r.nodes {
			s.time.at(s.between(s.cfg.length/4, s.cfg.length*3/4), n.restart)
		}
	}
	if f.kafka && s.cfg.nodes > 1 {
		s.time.at(s.between(s.cfg.length/8, s.cfg.length*7/8), r.cutTopic)
		s.every(30*sec, r.lag)
	}
	if f.region && r == s.regions[0] {
		for range 2 {
			s.time.at(s.between(s.cfg.length/8, s.cfg.length*7/8), s.regions[s.rng.IntN(len(s.regions))].sever)
		}
	}
}

// every repeats something at irregular times, on average every gap, while there is traffic.
func (s *sim) every(gap int64, do func()) {
	s.time.after(s.between(0, 2*gap), func() {
		if s.ending {
			return
		}
		do()
		s.every(gap, do)
	})
}
