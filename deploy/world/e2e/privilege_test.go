package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const nobody = 65534

// TestOrdinaryUser runs the exporter as an ordinary user with CAP_BPF and CAP_PERFMON: once capture is attached it has neither, and it
// goes on recording ends and, by its walks, connections that live on.
func TestOrdinaryUser(t *testing.T) {
	r := bareRig(t, false)
	r.startCollector()
	if err := os.Chmod(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	user := &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{}}
	r.exporter = r.startAs(user, []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}, "tributary-exporter",
		"run", "--collector", r.ingest, "--metrics-listen", r.exporterMetrics, "--spool-dir", "")
	r.ready(r.exporter, r.exporterMetrics)
	r.powerless()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go echo(l)
	port := l.Addr().(*net.TCPAddr).Port
	long, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	const n = 50
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	r.waitFor(2*n, soon, fmt.Sprintf(`SELECT count() FROM flows WHERE kind = 'closed' AND %d IN (local_port, remote_port)`, port))
	r.waitFor(2, soon, fmt.Sprintf(`SELECT uniqExact(flow_id) FROM flows WHERE kind = 'active' AND %d IN (local_port, remote_port)`, port))
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			io.Copy(c, c)
			c.Close()
		}()
	}
}

// powerless checks every thread of the exporter.
func (r *rig) powerless() {
	r.t.Helper()
	dir := fmt.Sprintf("/proc/%d/task", r.exporter.cmd.Process.Pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(dir + "/" + thread.Name() + "/status")
		if err != nil {
			continue // it ended
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch name {
			case "CapInh", "CapPrm", "CapEff", "CapAmb":
				if strings.Trim(value, "0") != "" {
					r.t.Errorf("thread %s: %s", thread.Name(), line)
				}
			case "NoNewPrivs":
				if value != "1" {
					r.t.Errorf("thread %s: %s", thread.Name(), line)
				}
			case "Uid":
				if value != fmt.Sprintf("%[1]d\t%[1]d\t%[1]d\t%[1]d", nobody) {
					r.t.Errorf("thread %s: %s", thread.Name(), line)
				}
			}
		}
	}
}
