package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// process is one run of the child.
type process struct {
	cmd    *exec.Cmd
	stderr *lastLine
	exited chan struct{}
	err    error // valid once exited is closed
}

// startProcess starts the child with the read end of the lifeline and the listener. It returns once the child runs or cannot.
func startProcess(cfg Config, lifeline, listener *os.File) (*process, error) {
	settings, err := json.Marshal(childConfig{DataDir: cfg.DataDir, LibraryPath: cfg.LibraryPath, MemoryBytes: cfg.MemoryBytes, Life: cfg.Life})
	if err != nil {
		return nil, err
	}
	p := &process{stderr: &lastLine{logger: cfg.Logger}, exited: make(chan struct{})}
	p.cmd = exec.Command(cfg.Command[0], cfg.Command[1:]...)
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(settings))
	p.cmd.Dir = cfg.DataDir // the engine looks for configuration files in its working directory
	p.cmd.Stderr = p.stderr
	p.cmd.ExtraFiles = []*os.File{lifeline, listener}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.cmd.WaitDelay = time.Second
	started := make(chan error, 1)
	go p.watch(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the engine's process: %w", err)
	}
	return p, nil
}

// watch keeps its thread for the whole life of the child: the kernel sends the parent-death signal when the thread that started the child
// ends, not the process.
func (p *process) watch(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	p.err = p.cmd.Wait()
	close(p.exited)
}

// stop asks the child to end, and kills it after the deadline.
func (p *process) stop(timeout time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(timeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// why tells in one sentence how the child ended.
func (p *process) why() string {
	if text := p.stderr.String(); text != "" {
		return fmt.Sprintf("%v: %s", p.err, text)
	}
	return fmt.Sprint(p.err)
}

// maxLogLine bounds one line of the child in the log.
const maxLogLine = 2000

// lastLine passes the child's standard error on to the log, line by line, and remembers the last one that is not a log line: what the
// child, or the engine, said before it ended.
type lastLine struct {
	logger *slog.Logger

	mu      sync.Mutex
	partial []byte
	last    string
}

func (l *lastLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		if room := maxLogLine - len(l.partial); room > 0 {
			l.partial = append(l.partial, line[:min(len(line), room)]...)
		}
		if ended {
			l.finish()
		}
		rest = after
	}
	return len(p), nil
}

func (l *lastLine) finish() {
	if line := bytes.TrimSpace(l.partial); len(line) > 0 && !relay(l.logger, line) {
		l.last = string(line)
		l.logger.Info("engine says", "line", l.last)
	}
	l.partial = l.partial[:0]
}

// relay logs a JSON log line of the child as the parent's own.
func relay(logger *slog.Logger, line []byte) bool {
	var attributes map[string]any
	if json.Unmarshal(line, &attributes) != nil {
		return false
	}
	message, _ := attributes[slog.MessageKey].(string)
	name, _ := attributes[slog.LevelKey].(string)
	var level slog.Level
	if message == "" || level.UnmarshalText([]byte(name)) != nil {
		return false
	}
	var args []any
	for _, key := range slices.Sorted(maps.Keys(attributes)) {
		if key != slog.MessageKey && key != slog.LevelKey && key != slog.TimeKey {
			args = append(args, key, attributes[key])
		}
	}
	logger.Log(context.Background(), level, message, args...)
	return true
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		return string(l.partial)
	}
	return l.last
}
