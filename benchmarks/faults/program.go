package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// program is one that is started again whenever it ends, until it is told to end.
type program struct {
	name string
	log  string           // path of what it says; all its lives go on in one file
	make func() *exec.Cmd // a new one for each life
	// where starts each life in another network namespace. nil: in ours.
	where func(start func() error) error

	mu       sync.Mutex
	cmd      *exec.Cmd // of this life; nil between two
	ending   bool
	held     int  // reasons why it must not run now
	killed   bool // this life, by us
	kills    []time.Time
	deaths   []string // lives that nobody ended
	restarts chan struct{}
	gone     chan struct{}
}

// again is how soon the next life begins.
const again = 100 * ms

func (p *program) start() {
	p.restarts, p.gone = make(chan struct{}, 1), make(chan struct{})
	go p.live()
}

func (p *program) live() {
	// The kernel sends the death signal when the thread ends that started the child, so that thread stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.gone)
	for {
		cmd, ok := p.birth()
		if !ok {
			return
		}
		if cmd != nil {
			err := cmd.Wait()
			p.death(err)
		}
		select {
		case <-time.After(again):
		case <-p.restarts:
		}
	}
}

// birth begins a life, unless the program is to end (false) or held (nil).
func (p *program) birth() (*exec.Cmd, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ending {
		return nil, false
	}
	if p.held > 0 {
		return nil, true
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.deaths = append(p.deaths, err.Error())
		return nil, true
	}
	defer log.Close()
	cmd := p.make()
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	start := cmd.Start
	if p.where != nil {
		start = func() error { return p.where(cmd.Start) }
	}
	if err := start(); err != nil {
		p.deaths = append(p.deaths, err.Error())
		return nil, true
	}
	p.cmd, p.killed = cmd, false
	return cmd, true
}

func (p *program) death(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.killed && !p.ending {
		p.deaths = append(p.deaths, fmt.Sprintf("%s ended by itself at %s: %v", p.name, time.Now().Format(time.TimeOnly), err))
	}
	p.cmd = nil
}

// kill is kill -9. False: it is between two lives.
func (p *program) kill() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.killed {
		return false
	}
	p.killed = true
	p.kills = append(p.kills, time.Now())
	return p.cmd.Process.Kill() == nil
}

// hold ends it at once and keeps it from living until release. That is no kill: its host went down.
func (p *program) hold() {
	p.mu.Lock()
	p.held++
	p.killed = true
	p.mu.Unlock()
	p.signal(syscall.SIGKILL)
	for p.pid() != 0 {
		time.Sleep(time.Millisecond)
	}
}

func (p *program) release() {
	p.mu.Lock()
	p.held--
	p.mu.Unlock()
}

// signal is for stopping and going on.
func (p *program) signal(s syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && p.cmd.Process.Signal(s) == nil
}

// pid is 0 between two lives.
func (p *program) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// end asks it to stop in order, and says if it does not.
func (p *program) end() error {
	p.mu.Lock()
	p.ending = true
	p.mu.Unlock()
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGTERM)
	select {
	case p.restarts <- struct{}{}:
	default:
	}
	select {
	case <-p.gone:
		return nil
	case <-time.After(30 * time.Second):
		p.signal(syscall.SIGKILL)
		<-p.gone
		return fmt.Errorf("%s does not end on SIGTERM", p.name)
	}
}

// tally is how often it was killed, and forgets it; and what became of it otherwise.
func (p *program) tally() (kills []time.Time, deaths []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kills, deaths, p.kills, p.deaths = p.kills, p.deaths, nil, nil
	return kills, deaths
}

// killTimes is when it was killed since the last tally.
func (p *program) killTimes() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.kills)
}

// child is the id of the one process that the program started, 0 if there is none.
func (p *program) child() int {
	parent := p.pid()
	if parent == 0 {
		return 0
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) && fields[0] != "Z" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))) // the pattern has digits
			return pid
		}
	}
	return 0
}

// resident is the resident memory of a process in bytes that is not a mapped file, 0 if it is gone.
func resident(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kB, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kB << 10
		}
	}
	return 0
}

// halt stops a process and waits until it has stopped.
func halt(pid int) {
	if unix.Kill(pid, unix.SIGSTOP) != nil {
		return
	}
	for range 200 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return
		}
		if i := bytes.LastIndexByte(text, ')'); i > 0 && i+2 < len(text) && text[i+2] == 'T' {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
