package world

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a workload: a process of its own inside a host's namespace. It is killed with the world, and dies alone
// when the world's owner does.
type Process struct {
	host  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	// done is closed when the process's last report is read; err is then why it ended.
	done chan struct{}
	err  error

	mu      sync.Mutex // guards waiters and writes to stdin
	waiters map[string]chan error
}

// Spawn starts a process on a host. comm is the name the kernel will show for it, at most 15 characters.
func (w *World) Spawn(host, comm string) (*Process, error) {
	exe, err := w.named(comm)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, workloadArg, host)
	cmd.Stderr = w.logs
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
	p := &Process{host: host, cmd: cmd, done: make(chan struct{}), waiters: map[string]chan error{}}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("spawn %s: %w", comm, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("spawn %s: %w", comm, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	ns, err := w.space(host)
	if err != nil {
		return nil, err
	}
	if err := ns.in(cmd.Start); err != nil {
		return nil, fmt.Errorf("spawn %s on %s: %w", comm, host, err)
	}
	w.processes = append(w.processes, p)
	go p.read(stdout, &w.ledger)
	return p, nil
}

// named makes a link to our own program: the kernel takes a process's name from the file it was started as.
func (w *World) named(comm string) (string, error) {
	if comm == "" || len(comm) > 15 || comm != filepath.Base(comm) {
		return "", fmt.Errorf("process name %q: want 1 to 15 characters without a slash", comm)
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("own executable: %w", err)
	}
	link := filepath.Join(w.Dir(), comm)
	if err := os.Symlink(exe, link); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("name a process: %w", err)
	}
	return link, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Listen makes the process serve a port; it returns when the port is open.
func (p *Process) Listen(ctx context.Context, l Listen) error {
	return p.ask(ctx, command{Listen: &l}, doneListen(l.Port))
}

// Do runs a job and waits until the last of its connections is closed and in the ledger. A failed connection is no error:
// it is an entry. The context ends the waiting, not the job; a job that repeats (Every) ends with Quiet.
func (p *Process) Do(ctx context.Context, j Job) error {
	return p.ask(ctx, command{Job: &j}, j.ID)
}

// Begin starts a job and does not wait for it.
func (p *Process) Begin(j Job) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return json.NewEncoder(p.stdin).Encode(command{Job: &j})
}

// Quiet ends the process's jobs and closes their connections, in order; listeners stay.
func (p *Process) Quiet(ctx context.Context) error {
	return p.ask(ctx, command{Quiet: true}, "quiet")
}

func (p *Process) ask(ctx context.Context, c command, answer string) error {
	wait := make(chan error, 1)
	p.mu.Lock()
	p.waiters[answer] = wait
	err := json.NewEncoder(p.stdin).Encode(c)
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("workload on %s: %w", p.host, err)
	}
	select {
	case err := <-wait:
		return err
	case <-p.done:
		return fmt.Errorf("workload on %s ended: %w", p.host, p.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read takes the process's reports until it ends.
func (p *Process) read(stdout io.Reader, ledger *ledger) {
	defer close(p.done)
	lines := json.NewDecoder(bufio.NewReaderSize(stdout, 64<<10))
	for {
		var r report
		if err := lines.Decode(&r); err != nil {
			break
		}
		if r.Entry != nil {
			ledger.add(*r.Entry)
		}
		if r.Done != "" {
			p.answer(r)
		}
	}
	if p.err = p.cmd.Wait(); p.err == nil {
		p.err = errors.New("it exited")
	}
}

func (p *Process) answer(r report) {
	p.mu.Lock()
	wait := p.waiters[r.Done]
	delete(p.waiters, r.Done)
	p.mu.Unlock()
	if wait == nil {
		return
	}
	if r.Error != "" {
		wait <- fmt.Errorf("workload on %s: %s", p.host, r.Error)
		return
	}
	wait <- nil
}

// Kill ends the process at once, as a crash does: its open connections are reset or left to the kernel.
func (p *Process) Kill() { p.kill() }

func (p *Process) kill() {
	p.cmd.Process.Kill()
	p.stdin.Close()
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
	}
}
