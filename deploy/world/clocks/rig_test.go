package clocks

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tributary/deploy/dev/ports"
	"tributary/deploy/world"
	"tributary/service/testenv"
)

// machineDir is where deploy/dev/clocks.sh has put kernel and guest; programsDir has the collector and its engine.
const (
	machineDir  = "TRIBUTARY_CLOCKS_MACHINE"
	programsDir = "../../../bin"
)

// rig is a collector with its store here, and a machine whose clock may be set.
type rig struct {
	t         *testing.T
	dir       string
	ingest    string // of the collector
	metrics   string
	sql       string
	collector *exec.Cmd
	guest     *rpc.Client
}

func newRig(t *testing.T) *rig {
	t.Helper()
	machine := os.Getenv(machineDir)
	if machine == "" {
		t.Skip("run make test-clocks: it makes the machine that this test boots")
	}
	testenv.NeedFile(t, filepath.Join(programsDir, "libchdb.so"), "run make engine")
	r := &rig{t: t, dir: t.TempDir(), ingest: ports.Address(t), metrics: ports.Address(t), sql: ports.Address(t)}
	r.startCollector()
	t.Cleanup(r.stopCollector)
	r.boot(machine)
	return r
}

func (r *rig) startCollector() {
	r.t.Helper()
	log := r.log("collector.log")
	defer log.Close()
	r.collector = exec.Command(filepath.Join(programsDir, "tributary-collector"), "serve", "--data", filepath.Join(r.dir, "data"), "--kafka", "none", "--listen", r.ingest,
		"--metrics-listen", r.metrics, "--embedded-listen", r.sql, "--embedded-library", filepath.Join(programsDir, "libchdb.so"), "--api-listen", ports.Address(r.t))
	r.run(r.collector, log)
	r.until(40*time.Second, "the collector is ready", func() bool {
		answer, err := http.Get("http://" + r.metrics + "/readyz")
		if err == nil {
			_ = answer.Body.Close()
		}
		return err == nil && answer.StatusCode == http.StatusOK
	})
}

func (r *rig) stopCollector() {
	if r.collector == nil {
		return
	}
	_ = r.collector.Process.Signal(syscall.SIGTERM)
	_ = r.collector.Wait()
	r.collector = nil
	r.show("collector.log")
}

func (r *rig) show(name string) {
	if r.t.Failed() {
		text, _ := os.ReadFile(filepath.Join(r.dir, name))
		r.t.Logf("%s:\n%s", name, text[max(0, len(text)-8000):])
	}
}

func (r *rig) log(name string) *os.File {
	f, err := os.OpenFile(filepath.Join(r.dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

func (r *rig) run(cmd *exec.Cmd, log io.Writer) {
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
}

// boot starts the machine and waits until it reports. It is emulated for the reason that deploy/dev/kernels.sh gives.
func (r *rig) boot(machine string) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	console := r.log("console.log")
	defer console.Close()
	cmd := exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-machine", "q35", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot", "-nodefaults",
		"-serial", "stdio", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n", "-kernel", filepath.Join(machine, "vmlinuz"), "-initrd", filepath.Join(machine, "initrd"),
		"-append", fmt.Sprintf("console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable GODEBUG=asyncpreemptoff=1 control=%d", l.Addr().(*net.TCPAddr).Port))
	r.run(cmd, console)
	r.t.Cleanup(func() {
		if r.guest != nil {
			_ = r.guest.Close() // the guest ends then
		}
		over := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		over.Stop()
		r.show("console.log")
	})
	if err := l.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		_ = cmd.Process.Kill()
		r.t.Fatalf("the guest does not report: %v", err)
	}
	r.guest = rpc.NewClient(c)
	ask[Moment](r, "Set", time.Now().UnixNano())
}

// ask calls a method of the guest.
func ask[Answer any](r *rig, method string, arg any) (answer Answer) {
	r.t.Helper()
	if err := r.guest.Call("Guest."+method, arg, &answer); err != nil {
		r.t.Fatalf("the guest's %s: %v", method, err)
	}
	return answer
}

func (r *rig) startExporter() Moment {
	r.t.Helper()
	_, port, err := net.SplitHostPort(r.ingest)
	if err != nil {
		r.t.Fatal(err)
	}
	return ask[Moment](r, "Start", []string{
		"run", "--collector", net.JoinHostPort(hostAddress, port), "--insecure", "--workload", workload, "--instance", "guest-1", "--spool-dir", "/tmp/spool", "--socket", "/run/exporter.sock",
	})
}

func (r *rig) until(within time.Duration, what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(within); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// exporter is the sum of all series of a metric.
func (r *rig) exporter(name string) float64 {
	r.t.Helper()
	m, err := world.ParseMetrics(ask[string](r, "Get", "http://127.0.0.1:9748/metrics"))
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Sum(name)
}

func (r *rig) rows(query string) (rows [][]string) {
	r.t.Helper()
	answer, err := http.Post("http://"+r.sql+"/?database=tributary", "text/plain", strings.NewReader(query+" FORMAT TabSeparated"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		r.t.Fatalf("%s: %s: %s", query, answer.Status, text)
	}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		rows = append(rows, strings.Split(lines.Text(), "\t"))
	}
	return rows
}

func (r *rig) number(text string) int64 {
	r.t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}
