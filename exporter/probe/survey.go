package probe

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"tributary/exporter/netns"
)

// Grade says how a finding bears on capture.
type Grade int

// The grades of a finding.
const (
	Fine    Grade = iota
	Missing       // capture runs, and lacks something or costs more
	Fatal         // capture is impossible
)

// Finding is one thing about this host that decides what capture can do.
type Finding struct {
	Grade Grade
	Text  string
	Err   error // where Fatal, why; test with errors.Is
}

// manyTracers is how many programs on the state tracepoint are worth a warning: each costs every connection of the host
// about 0.5 µs, in whatever scope it captures.
const manyTracers = 4

// Survey says what this host allows of capture with these options. It loads and attaches the programs for a moment, because
// nothing else proves that it can be done; so their few connections are seen and forgotten.
func Survey(opts Options) []Finding {
	var s survey
	s.must(checkVersion(), "the kernel is new enough: "+KernelRelease())
	s.must(checkCapabilities(), "the process has the capabilities to load and attach programs")
	s.must(checkTypes(), "the kernel has type information (BTF) and the tracepoints")
	if !s.failed { // else the answer would be no answer
		s.must(features.HaveMapType(ebpf.RingBuf), "the kernel has ring buffers")
	}
	if !s.failed {
		s.attach(opts)
	}
	s.compiler()
	s.namespaces(opts)
	s.tracers()
	return s.findings
}

type survey struct {
	findings []Finding
	failed   bool
}

func (s *survey) add(grade Grade, text string) {
	s.findings = append(s.findings, Finding{Grade: grade, Text: text})
	s.failed = s.failed || grade == Fatal
}

func (s *survey) must(err error, fine string) {
	if err != nil {
		err = explain(err)
		s.add(Fatal, err.Error())
		s.findings[len(s.findings)-1].Err = err
		return
	}
	s.add(Fine, fine)
}

// attach tries the real thing.
func (s *survey) attach(opts Options) {
	p := New(opts)
	err := p.Start()
	missing := p.Missing()
	if cerr := p.Close(); err == nil {
		err = cerr
	}
	s.must(err, "capture loads and attaches: "+mode(opts))
	switch {
	case missing != nil:
		s.add(Missing, missing.Error())
	case opts.FailedConnects && err == nil:
		s.add(Fine, "attempts that fail before their SYN are seen")
	}
}

func mode(opts Options) string {
	switch {
	case opts.NetnsInum != 0:
		return fmt.Sprintf("tracepoints, one network namespace (%d)", opts.NetnsInum)
	case opts.CgroupID != 0:
		return fmt.Sprintf("tracepoints, one cgroup and all below it (%d)", opts.CgroupID)
	}
	return "tracepoints, all network namespaces"
}

func (s *survey) compiler() {
	state, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	if err == nil && strings.TrimSpace(string(state)) == "0" {
		s.add(Missing, "BPF programs are interpreted (net.core.bpf_jit_enable is 0): they cost several times as much")
	}
}

// namespaces looks for those whose older connections cannot be listed.
func (s *survey) namespaces(opts Options) {
	found, err := netns.All(opts.NetnsInum)
	if err != nil {
		s.add(Missing, err.Error())
		return
	}
	unread := 0
	for _, space := range found {
		if netns.Do(space, func() error { return nil }) != nil {
			unread++
		}
	}
	if unread == 0 {
		s.add(Fine, fmt.Sprintf("%d network namespaces in scope, and connections older than the exporter can be listed in all", len(found)))
		return
	}
	s.add(Missing, fmt.Sprintf("connections older than the exporter cannot be listed in %d of %d network namespaces: that takes CAP_SYS_ADMIN and the host's processes (--pid=host)", unread, len(found)))
}

// tracers counts the programs on the state tracepoint, by the name that ours have.
func (s *survey) tracers() {
	n, err := countPrograms("inet_sock_set_s")
	switch {
	case errors.Is(err, unix.EPERM):
		return // takes CAP_SYS_ADMIN; not worth a finding
	case err != nil:
		s.add(Missing, err.Error())
	case n > manyTracers:
		s.add(Missing, fmt.Sprintf("%d exporters or the like trace this host, at about 0.5 µs a connection each, a neighbour's included: about %.1f µs for every connection of the host; one exporter with --scope host does the work of all", n, float64(n)*0.5))
	default:
		s.add(Fine, fmt.Sprintf("%d programs of our kind trace this host already", n))
	}
}

// countPrograms counts loaded programs whose name begins so (the kernel keeps 15 bytes).
func countPrograms(name string) (n int, err error) {
	for id := ebpf.ProgramID(0); ; {
		id, err = ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return n, nil
		}
		if err != nil {
			return 0, fmt.Errorf("list the host's BPF programs: %w", err)
		}
		prog, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone meanwhile
		}
		if info, err := prog.Info(); err == nil && strings.HasPrefix(info.Name, name) {
			n++
		}
		if err := prog.Close(); err != nil {
			return 0, err
		}
	}
}
