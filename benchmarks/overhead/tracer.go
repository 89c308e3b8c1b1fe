package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// running is a tracer at work.
type running interface{ stop() }

// tracer is something that watches connections.
type tracer struct {
	name  string
	each  int // how many of it start at once; 0 is 1
	start func() (running, error)
}

// tcplife is bcc's tool of that name as a bpftrace program on the same tracepoint: a line a connection.
const tcplife = `tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {
  if (args->newstate < 4) { @birth[args->skaddr] = nsecs; }
  if (args->newstate == 2 || args->newstate == 9) { @pid[args->skaddr] = pid; @comm[args->skaddr] = comm; }
  if (args->newstate == 7) {
    $tp = (struct tcp_sock *)args->skaddr;
    printf("%d %s %d %d %d %d %d\n", @pid[args->skaddr], @comm[args->skaddr], args->sport, args->dport,
      $tp->bytes_received, $tp->bytes_acked, (nsecs - @birth[args->skaddr]) / 1000);
    delete(@birth[args->skaddr]); delete(@pid[args->skaddr]); delete(@comm[args->skaddr]);
  }
}`

// tracers are those that this machine can run; why says what is left out.
func (b *bench) tracers() (list []tracer, why []string) {
	list = []tracer{{name: "empty tp_btf program", start: startEmpty}}
	exporter := func(name string, args ...string) tracer {
		return tracer{name: name, start: func() (running, error) { return b.startExporter(args...) }}
	}
	list = append(list, exporter(tributary), exporter(withoutFailedConnects, "--failed-connects=false"),
		exporter("Tributary, sidecar of a neighbour", "--scope", "netns"))
	if path, err := exec.LookPath("tcplife"); err == nil {
		list = append(list, tracer{name: "bcc libbpf-tools tcplife", start: func() (running, error) { return b.startTool(path) }})
	} else {
		why = append(why, "tcplife is not installed (apt-get install libbpf-tools)")
	}
	if path, err := exec.LookPath("bpftrace"); err == nil {
		list = append(list, tracer{name: "bpftrace, tcplife", start: func() (running, error) { return b.startTool(path, "-e", tcplife) }})
	} else {
		why = append(why, "bpftrace is not installed (apt-get install bpftrace)")
	}
	return list, why
}

// emptyProgram does nothing at every state change.
type emptyProgram struct {
	prog *ebpf.Program
	link link.Link
}

func startEmpty() (running, error) {
	target, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, err
	}
	prog, err := ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "inet_sock_set_state", License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}, ebpf.ProgramOptions{ExtraRelocationTargets: nil, KernelTypes: target})
	if err != nil {
		return nil, fmt.Errorf("load the empty program: %w", err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		return nil, fmt.Errorf("attach the empty program: %w", err)
	}
	return &emptyProgram{prog, l}, nil
}

func (e *emptyProgram) stop() {
	_ = e.link.Close()
	_ = e.prog.Close()
}

// startTool starts a tool that writes a line a connection, and waits for the first one. It gets a tracefs of its own.
func (b *bench) startTool(program string, args ...string) (running, error) {
	shell := []string{"--mount", "--propagation", "private", "sh", "-c", `{ [ -e /sys/kernel/tracing/events ] || mount -t tracefs none /sys/kernel/tracing; } && exec "$@" 2>/dev/null`, "sh", program}
	c, err := startChild("unshare", append(shell, args...)...)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("tcp", b.collector.address); err == nil {
			_ = conn.Close()
		}
		if c.lines.Load() > 4 { // a heading, and connections
			return c, nil
		}
		select {
		case <-c.ended:
			return nil, fmt.Errorf("%s has ended", program)
		default:
		}
	}
	c.stop()
	return nil, fmt.Errorf("%s shows no connection", program)
}

// exporter is tributary-exporter, with the settings it has by default.
type exporter struct {
	*child
	metrics string
	dir     string
}

func (b *bench) startExporter(more ...string) (*exporter, error) {
	dir, err := os.MkdirTemp("", "overhead")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	e := &exporter{metrics: port, dir: dir}
	args := append([]string{"--collector", b.collector.address, "--metrics-listen", port, "--spool-dir", filepath.Join(dir, "spool"), "--socket", "", "--log-level", "error"}, b.exporterArgs...)
	args = append(args, more...)
	if e.child, err = startChild(b.exporter, args...); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if ready(port) {
			time.Sleep(500 * time.Millisecond) // the inventory
			return e, nil
		}
		if time.Now().After(deadline) {
			e.stop()
			return nil, fmt.Errorf("the exporter does not get ready")
		}
	}
}

func (e *exporter) stop() {
	e.child.stop()
	_ = os.RemoveAll(e.dir)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}
