package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/deploy/dev/kafkatest"
	"tributary/deploy/dev/ports"
	"tributary/deploy/world"
	"tributary/service/testenv"
)

// soon is far more than anything takes here, on a busy machine too: it guards against waiting for ever.
const soon = 3 * time.Minute

// rig is a world under observation: one collector, one exporter, and a process on every host.
type rig struct {
	t     *testing.T
	ctx   context.Context
	world *world.World
	procs map[string]*world.Process

	dir, kafka                                          string
	ingest, collectorMetrics, exporterMetrics, sql, api string
	collector, exporter                                 *program
	fussy                                               net.Listener // of paths_test.go
	collectorArgs                                       []string     // beside those of every test
}

// newRig builds a world of the hosts, starts everything and waits until it is ready. kafka asks for a real broker.
func newRig(t *testing.T, hosts []world.Host, kafka bool) *rig {
	t.Helper()
	r := bareRig(t, kafka)
	r.observe(hosts)
	return r
}

// observe builds a world of the hosts and starts everything.
func (r *rig) observe(hosts []world.Host) {
	r.t.Helper()
	r.build(hosts)
	r.startCollector()
	r.startExporter("--identity", r.identity())
}

// build builds a world of the hosts, with a process on each.
func (r *rig) build(hosts []world.Host) {
	t := r.t
	t.Helper()
	r.world = world.New(hosts, t.Output())
	t.Cleanup(func() {
		r.stop()
		if err := r.world.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.world.Start(); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		p, err := r.world.Spawn(h.Name, h.Name)
		if err != nil {
			t.Fatal(err)
		}
		r.procs[h.Name] = p
	}
}

func (r *rig) identity() string {
	r.t.Helper()
	path, err := r.world.WriteIdentity()
	if err != nil {
		r.t.Fatal(err)
	}
	return path
}

// newPlainRig watches the host itself.
func newPlainRig(t *testing.T) *rig {
	t.Helper()
	r := bareRig(t, false)
	r.startCollector()
	r.startExporter()
	return r
}

func bareRig(t *testing.T, kafka bool) *rig {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFile(t, engine(t), "run make engine")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx, procs: map[string]*world.Process{}, dir: t.TempDir(), kafka: "none"}
	if kafka {
		r.kafka = kafkatest.Start(t)
	}
	t.Cleanup(r.stop)
	for _, a := range []*string{&r.ingest, &r.collectorMetrics, &r.exporterMetrics, &r.sql, &r.api} {
		*a = ports.Address(t)
	}
	return r
}

func engine(t *testing.T) string {
	if path := os.Getenv("TRIBUTARY_COLLECTOR_EMBEDDED_LIBRARY"); path != "" {
		return path
	}
	path, err := filepath.Abs("../../../bin/libchdb.so")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (r *rig) startCollector() {
	r.t.Helper()
	r.collector = r.start("tributary-collector", append([]string{
		"serve", "--data", filepath.Join(r.dir, "data"), "--clickhouse", "embedded",
		"--kafka", r.kafka, "--kafka-ownership-topic", r.ownershipTopic(), "--listen", r.ingest, "--metrics-listen", r.collectorMetrics, "--embedded-listen", r.sql,
		"--embedded-library", engine(r.t), "--api-listen", r.api,
	}, r.collectorArgs...)...)
	r.ready(r.collector, r.collectorMetrics)
}

// ownershipTopic is the rig's own: the tests of a process share a broker.
func (r *rig) ownershipTopic() string {
	_, port, _ := net.SplitHostPort(r.ingest)
	return "ownership." + port
}

func (r *rig) startExporter(args ...string) {
	r.t.Helper()
	r.launchExporter(args...)
	r.ready(r.exporter, r.exporterMetrics)
}

// launchExporter does not wait for the exporter to meet a collector.
func (r *rig) launchExporter(args ...string) {
	r.t.Helper()
	args = append([]string{
		"run", "--scope", "host", "--collector", r.ingest, "--metrics-listen", r.exporterMetrics,
		"--spool-dir", r.spool(), "--socket", filepath.Join(r.dir, "exporter.sock"),
	}, args...)
	r.exporter = r.start("tributary-exporter", args...)
}

func (r *rig) spool() string { return filepath.Join(r.dir, "spool") }

// start runs a program; its log is shown when the test fails. Restarted programs go on in the same log.
func (r *rig) start(name string, args ...string) *program {
	r.t.Helper()
	return r.startAs(nil, nil, name, args...)
}

// startAs starts a program as another user with some capabilities.
func (r *rig) startAs(user *syscall.Credential, capabilities []uintptr, name string, args ...string) *program {
	r.t.Helper()
	p := &program{name: name, log: filepath.Join(r.dir, name+".log"), gone: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(filepath.Join(programs, name), args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM, Credential: user, AmbientCaps: capabilities}
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.gone)
	}()
	return p
}

// stop ends the programs, the exporter first, so that it can hand over what it has.
func (r *rig) stop() {
	for _, p := range []*program{r.exporter, r.collector} {
		if p != nil {
			p.end(r.t)
		}
	}
	r.exporter, r.collector = nil, nil
}

func (r *rig) ready(p *program, address string) {
	r.t.Helper()
	deadline := time.Now().Add(soon)
	for {
		_, err := get("http://" + address + "/readyz")
		if err == nil {
			return
		}
		select {
		case <-p.gone:
			r.t.Fatalf("%s ended:\n%s", p.name, tail(p.log))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s is not ready: %v\n%s", p.name, err, tail(p.log))
		}
	}
}

func get(url string) (string, error) {
	client := http.Client{Timeout: 30 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	return string(body), err
}

// metrics are a program's samples by their name with labels.
func metrics(t *testing.T, address string) sample {
	t.Helper()
	body, err := get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	m, err := world.ParseMetrics(body)
	if err != nil {
		t.Fatal(err)
	}
	return sample(m)
}

// sqlRows asks the store; an error is returned because the store may be down on purpose.
func (r *rig) sqlRows(query string) ([][]string, error) {
	req, err := http.NewRequestWithContext(r.ctx, http.MethodPost, "http://"+r.sql+"/?database=tributary", strings.NewReader(query+" FORMAT TabSeparated"))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, body)
	}
	var rows [][]string
	for line := range strings.Lines(string(body)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows, nil
}

func (r *rig) rows(query string) [][]string {
	r.t.Helper()
	rows, err := r.sqlRows(query)
	if err != nil {
		r.t.Fatal(err)
	}
	return rows
}

func (r *rig) number(query string) uint64 {
	r.t.Helper()
	return parse(r.t, r.rows(query)[0][0])
}

func parse(t *testing.T, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// inWorld restricts a query to the records of the world's inside. The namespace of an earlier world lives on, without a name, until the kernel
// has given up the last connection that was cut in it; the ends of those are recorded too.
func (r *rig) inWorld() string {
	return fmt.Sprintf("network = '%s' AND netns IN ('%s')", r.world.Network(), strings.Join(r.spaces(), "', '"))
}

// spaces is what records call the network namespaces of the world: their names, or their numbers where a name is not known.
func (r *rig) spaces() []string {
	r.t.Helper()
	spaces := make([]string, 0, 2*len(r.procs))
	for host := range r.procs {
		path := r.world.NamespacePath(host)
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			r.t.Fatal(err)
		}
		spaces = append(spaces, filepath.Base(path), fmt.Sprint(st.Ino))
	}
	return spaces
}

// waitFor asks again and again until the query's one number is n, and fails the test after the given time.
func (r *rig) waitFor(n uint64, within time.Duration, query string) {
	r.t.Helper()
	deadline := time.Now().Add(within)
	var last string
	for {
		rows, err := r.sqlRows(query)
		if err == nil {
			if last = rows[0][0]; last == strconv.FormatUint(n, 10) {
				return
			}
		} else {
			last = err.Error()
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: got %s, want %d within %v", query, last, n, within)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
