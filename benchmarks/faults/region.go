package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tributary/collector/embedded"
	"tributary/deploy/dev/ports"
)

// region is everything that runs: a broker, two collectors and a store, exporters, and the links between them.
type region struct {
	dir, programs, engine              string
	movingMost, syncMost, unsealedMost time.Duration // bars

	programsOf map[string]*program
	links      map[string]*link
	disks      map[string]*disk // by the program that writes to them
	replayers  []*observed
	captured   *captured
	topic      *topic

	ingest  map[string]string // of each collector
	metrics map[string]string
	sql     string
	brokers string   // the broker itself
	release []func() // of reserved addresses

	outside, inside *http.Client // of this host, and of the one whose connections are captured

	watcher   *watcher
	liveKills []time.Time     // of the exporter that captures, in all rounds
	consumed  map[string]sums // what Kafka has of each run that captured

	mu   sync.Mutex
	cuts map[string][]time.Time // power cuts, by program
}

// observed is a replaying exporter from outside.
type observed struct {
	name    string
	quiet   string // the file that makes it quiet
	journal *journal
	stored  sums // what the store has of it, of all rounds

	mu   sync.Mutex
	last status
}

const (
	spoolDisk = 48 << 20
	storeDisk = 2 << 30
	// storeMemory is what the engine is told that it may use.
	storeMemory = 1 << 30
	readyMost   = 3 * time.Minute
	fetchMost   = 5 * time.Minute // the first broker on a machine fetches 43 MB of jars
)

// newRegion starts everything in dir and waits until it is ready. After an error nothing runs.
func newRegion(ctx context.Context, o options, dir string, replayers int) (*region, error) {
	r := &region{
		movingMost: o.moving, syncMost: o.sync, unsealedMost: o.unsealed,
		dir: dir, programs: o.programs, engine: cmp.Or(o.engine, filepath.Join(o.programs, "libchdb.so")),
		programsOf: map[string]*program{}, links: map[string]*link{}, disks: map[string]*disk{},
		ingest: map[string]string{}, metrics: map[string]string{}, cuts: map[string][]time.Time{}, outside: &http.Client{Timeout: 10 * time.Second}, consumed: map[string]sums{},
	}
	if err := r.build(ctx, o, replayers); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *region) build(ctx context.Context, o options, replayers int) error {
	steps := []func(context.Context) error{
		func(ctx context.Context) error { return r.startBroker(ctx, o.script) },
		r.startCollectors,
		func(ctx context.Context) error { return r.startReplayers(replayers) },
		r.startLive,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	r.watcher = r.watch()
	return nil
}

// reserve reserves n addresses until the region is closed.
func (r *region) reserve(n int) ([]string, error) {
	addresses, release, err := ports.Reserve(n)
	if err != nil {
		return nil, err
	}
	r.release = append(r.release, release)
	return addresses, nil
}

func (r *region) start(name string, command func() *exec.Cmd) *program {
	p := &program{name: name, log: filepath.Join(r.dir, name+".log"), make: command}
	r.programsOf[name] = p
	p.start()
	return p
}

func (r *region) link(name string, targets ...string) (string, error) {
	k, err := newLink(name, "127.0.0.1:0", targets...)
	if err != nil {
		return "", err
	}
	r.links[name] = k
	return k.address(), nil
}

// startBroker starts Kafka, which tells everybody to come through the link.
func (r *region) startBroker(ctx context.Context, script string) error {
	addresses, err := r.reserve(1)
	if err != nil {
		return err
	}
	address := addresses[0]
	r.brokers = address
	through, err := r.link(kafkaLink, address)
	if err != nil {
		return err
	}
	dir := filepath.Join(r.dir, broker)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	properties := filepath.Join(r.dir, "kafka.properties")
	if err := os.WriteFile(properties, []byte("advertised.listeners=PLAINTEXT://"+through+"\n"), 0o600); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(address) // it is one
	r.start(broker, func() *exec.Cmd {
		cmd := exec.Command(script, "run", dir, port)
		cmd.Env = append(os.Environ(), "KAFKA_PROPERTIES="+properties)
		return cmd
	})
	return r.within(ctx, fetchMost, func() error {
		text, err := os.ReadFile(filepath.Join(dir, "kafka.log"))
		if err == nil && !strings.Contains(string(text), "Kafka Server started") {
			err = errors.New("the broker has not started yet")
		}
		return err
	})
}

// until waits until a program is as it should be.
func (r *region) until(ctx context.Context, name string, so func() error) error {
	if err := r.within(ctx, readyMost, so); err != nil {
		return fmt.Errorf("%s is not ready: %w", name, err)
	}
	return nil
}

// within waits until something is so; else it returns why it is not.
func (r *region) within(ctx context.Context, most time.Duration, so func() error) error {
	var err error
	for end := time.Now().Add(most); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(100 * ms) {
		if err = so(); err == nil {
			return nil
		}
	}
	return errors.Join(err, ctx.Err())
}

func (r *region) ready(ctx context.Context, name string) error {
	return r.until(ctx, name, func() error {
		_, err := r.get(name, "/readyz")
		return err
	})
}

// startCollectors starts a, which has the embedded store on a disk of its own, and b, which uses that store over a link.
func (r *region) startCollectors(ctx context.Context) error {
	data := filepath.Join(r.dir, "data-a")
	d, err := newDisk(data, storeDisk)
	if err != nil {
		return err
	}
	r.disks[collectorA] = d
	addresses, err := r.reserve(1)
	if err != nil {
		return err
	}
	r.sql = addresses[0]
	library, err := filepath.Abs(r.engine)
	if err != nil {
		return err
	}
	if err := r.collector(collectorA, nil, "--data", data, "--clickhouse", "embedded", "--embedded-listen", r.sql, "--embedded-library", library,
		"--embedded-memory-bytes", fmt.Sprint(storeMemory)); err != nil {
		return err
	}
	if err := r.ready(ctx, collectorA); err != nil {
		return err
	}
	credential, err := embedded.ReadCredential(data)
	if err != nil {
		return err
	}
	through, err := r.link(storeLink, r.sql)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("http://%s:%s@%s/tributary", credential.User, credential.Password, through)
	if err := r.collector(collectorB, []string{"TRIBUTARY_COLLECTOR_CLICKHOUSE=" + url}, "--data", filepath.Join(r.dir, "data-b")); err != nil {
		return err
	}
	if err := r.ready(ctx, collectorB); err != nil {
		return err
	}
	r.topic, err = newTopic(ctx, r.brokers)
	return err
}

func (r *region) collector(name string, env []string, args ...string) error {
	addresses, err := r.reserve(3)
	if err != nil {
		return err
	}
	r.ingest[name], r.metrics[name] = addresses[0], addresses[1]
	args = append([]string{
		"serve", "--kafka", r.links[kafkaLink].address(), "--listen", addresses[0], "--metrics-listen", addresses[1], "--api-listen", addresses[2],
		"--stream-life", "20s",
	}, args...)
	r.start(name, func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(r.programs, "tributary-collector"), args...)
		cmd.Env = append(os.Environ(), env...)
		return cmd
	})
	return nil
}

// Each replaying exporter makes a batch of 25 rows eight times a second.
const (
	replayRows  = 25
	replayEvery = 125 * ms
)

func (r *region) startReplayers(n int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for i := range n {
		name := replayer(i)
		dir := filepath.Join(r.dir, name)
		d, err := newDisk(dir, spoolDisk)
		if err != nil {
			return err
		}
		r.disks[name] = d
		through, err := r.link(linkOf(name), r.ingest[collectorA], r.ingest[collectorB])
		if err != nil {
			return err
		}
		o := &observed{name: name, quiet: dir + ".quiet", journal: &journal{path: dir + ".journal", batches: map[batchKey]entry{}}}
		config, err := json.Marshal(replayerConfig{
			Name: name, Number: byte(i), Address: through, Spool: filepath.Join(dir, "spool"), Journal: o.journal.path, Quiet: o.quiet, Rows: replayRows, Every: replayEvery,
		})
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.quiet, nil, 0o600); err != nil { // until the first round
			return err
		}
		r.replayers = append(r.replayers, o)
		r.start(name, func() *exec.Cmd {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), replayerEnv+"="+string(config))
			cmd.Stdout = &statuses{of: o}
			return cmd
		})
	}
	return nil
}

// close ends everything: those who send first, so that they can hand over what they have. The directory stays.
func (r *region) close() error {
	var errs []error
	if r.watcher != nil {
		r.watcher.close()
	}
	if r.captured != nil {
		errs = append(errs, r.captured.close())
	}
	for _, name := range append(r.exporters(), collectorB, collectorA, broker) {
		if p := r.programsOf[name]; p != nil {
			errs = append(errs, p.end())
		}
	}
	for _, k := range r.links {
		k.close()
	}
	for _, d := range r.disks {
		errs = append(errs, d.close())
	}
	for _, release := range r.release {
		release()
	}
	return errors.Join(errs...)
}

func (r *region) exporters() []string {
	names := []string{live}
	for _, o := range r.replayers {
		names = append(names, o.name)
	}
	return names
}
