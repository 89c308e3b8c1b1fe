package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	role, data    string
	collector     string
	collectorArgs string
	engine        string
	kafkaScript   string
	kafka         string
	senders       string
	batches       string
	codecs        string
	unacked, rate int
	warmUp        time.Duration
	duration      time.Duration
	profile       string
	json          bool
}

func parse() *options {
	o := &options{}
	flag.StringVar(&o.role, "role", "", "what this process is to be; set by the benchmark itself")
	flag.StringVar(&o.data, "data", "", "directory of the role; set by the benchmark itself")
	flag.StringVar(&o.collector, "collector", "bin/tributary-collector", "the collector to measure")
	flag.StringVar(&o.collectorArgs, "collector-args", "", "more arguments for its serve verb")
	flag.StringVar(&o.engine, "engine", "bin/libchdb.so", "the ClickHouse engine that answers the migrations")
	flag.StringVar(&o.kafkaScript, "kafka-script", "deploy/dev/kafka.sh", "starts the broker")
	flag.StringVar(&o.kafka, "kafka", "", "host:port of a broker to use instead; topics bench.* are made and deleted there")
	flag.StringVar(&o.senders, "senders", "1,50", "numbers of exporters that send (1 to 50)")
	flag.StringVar(&o.batches, "batches", "200,1000", "rows of a batch")
	flag.StringVar(&o.codecs, "codecs", "zstd,none", "compression of batches: zstd is the exporter's default")
	flag.IntVar(&o.unacked, "unacked", 250_000, "rows that all exporters may have under way without an acknowledgement")
	flag.IntVar(&o.rate, "rate", 0, "flows a second over all exporters; 0: as fast as acknowledgements come")
	flag.DurationVar(&o.warmUp, "warm-up", 6*time.Second, "time before the measured time")
	flag.DurationVar(&o.duration, "duration", 12*time.Second, "measured time of each configuration")
	flag.StringVar(&o.profile, "profile", "", "run the collector under pprof and write PREFIX.CONFIGURATION.{cpu,allocs}.pprof; slower by some per cent")
	flag.BoolVar(&o.json, "json", false, "print one object a configuration instead of the table")
	flag.Parse()
	return o
}

func main() {
	o := parse()
	var err error
	switch o.role {
	case "fleet":
		err = fleetMain()
	case "store":
		err = storeMain(o.data, o.collector, o.engine)
	case "collector":
		err = profiledCollector(o.profile, flag.Args(), os.Stdin)
	case "":
		err = o.measureAll()
	default:
		err = fmt.Errorf("there is no role %q", o.role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-collector:", err)
		os.Exit(1)
	}
}

// measureAll measures every configuration, prints the table, and leaves nothing behind.
func (o *options) measureAll() error {
	configurations, err := o.configurations()
	if err != nil {
		return err
	}
	for _, file := range []string{o.collector, o.engine} {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("%s is missing: run make build engine, in the repository's root", file)
		}
	}
	dir, err := os.MkdirTemp("", "tributary-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	files, err := makeCertificates(dir)
	if err != nil {
		return err
	}
	broker := o.kafka
	if broker == "" {
		process, address, err := startBroker(o.kafkaScript, filepath.Join(dir, "kafka"))
		if err != nil {
			return err
		}
		defer process.stop(syscall.SIGTERM, 15*time.Second)
		broker = address
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	measured := make(chan error, 1)
	go func() { measured <- o.measureEach(configurations, dir, broker, files) }()
	select {
	case err := <-measured:
		return err
	case <-interrupted: // the children die with this process
		return errors.New("interrupted")
	}
}

func (o *options) measureEach(configurations []configuration, dir, broker string, files certificates) error {
	var results []*result
	var wrong error
	for i, c := range configurations {
		fmt.Fprintf(os.Stderr, "%d of %d: %s\n", i+1, len(configurations), c)
		r, err := o.run(c, filepath.Join(dir, strconv.Itoa(i)), broker, files)
		if err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("%s: %w", c, err))
		}
		if r != nil {
			results = append(results, r)
		}
	}
	if o.json {
		return errors.Join(wrong, printJSON(os.Stdout, results))
	}
	printTable(os.Stdout, results)
	return wrong
}

func (o *options) configurations() ([]configuration, error) {
	var out []configuration
	for senders := range strings.SplitSeq(o.senders, ",") {
		s, err := strconv.Atoi(senders)
		if err != nil || s < 1 || s > hosts {
			return nil, fmt.Errorf("-senders %q: each must be 1 to %d", o.senders, hosts)
		}
		for batch := range strings.SplitSeq(o.batches, ",") {
			b, err := strconv.Atoi(batch)
			if err != nil || b < 1 || b > 10_000 {
				return nil, fmt.Errorf("-batches %q: each must be 1 to 10000", o.batches)
			}
			for codec := range strings.SplitSeq(o.codecs, ",") {
				if codec != "zstd" && codec != "none" {
					return nil, fmt.Errorf("-codecs %q: each must be zstd or none", o.codecs)
				}
				out = append(out, configuration{s, b, codec})
			}
		}
	}
	return out, nil
}

// collectorCommand is the program under test, or with -profile this one in its place.
func (o *options) collectorCommand(c configuration) []string {
	if o.profile == "" {
		return []string{o.collector}
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	prefix := fmt.Sprintf("%s.%d-%d-%s", o.profile, c.Senders, c.BatchRows, c.Codec)
	return []string{self, "-role", "collector", "-profile", prefix, "--"}
}
