package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"tributary/bpf"
)

// ErrClosed is returned by methods that need an attached probe.
var ErrClosed = errors.New("probe is not running")

// Options are the settings of a Probe; zero values stand for the defaults.
type Options struct {
	// RingBytes is the size of the kernel ring, a power of two of at least a page.
	// It must hold what arrives while the reader stands still: records a second ×
	// seconds × 264. Default 1 MiB, which measured no loss at 120,000 records a
	// second; its pages count twice in the process's resident memory.
	RingBytes uint32
	// OpenSockets bounds the connection ends that are followed at once. Default
	// 262,144. A sixteenth of them has 128 bytes of kernel memory each from the
	// start, the others about 190 while they are open and 16 before.
	OpenSockets uint32
	// FillMarkBytes wakes the reader; default a quarter of the ring.
	FillMarkBytes uint32
	// NetnsInum restricts capture to one network namespace, by inode number; 0 is all.
	NetnsInum uint32
	// CgroupID restricts capture to sockets made in one cgroup (v2) and all below it, by the
	// inode number of its directory; 0 is all. A server's socket counts as made where its
	// listener was.
	CgroupID uint64

	// FailedConnects records attempts that fail before their SYN (no route, a policy) from the
	// result of the system call. It costs every system call of the host some nanoseconds.
	// Where the host does not allow it, Start goes on without; see Missing.
	FailedConnects bool
	// An active record comes ActiveFirst after ESTABLISHED and then every
	// ActiveEvery (defaults 5 s and 30 s); for a socket that waits in SYN_SENT after
	// SynFirst and then every SynEvery (3 s, 10 s). Precision is that of the walk.
	ActiveFirst, ActiveEvery, SynFirst, SynEvery time.Duration
}

func (o Options) withDefaults() Options {
	def32 := func(v *uint32, d uint32) {
		if *v == 0 {
			*v = d
		}
	}
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def32(&o.RingBytes, 1<<20)
	def32(&o.OpenSockets, 262144)
	def32(&o.FillMarkBytes, o.RingBytes/4)
	def(&o.ActiveFirst, 5*time.Second)
	def(&o.ActiveEvery, 30*time.Second)
	def(&o.SynFirst, 3*time.Second)
	def(&o.SynEvery, 10*time.Second)
	return o
}

// Probe is the kernel side of capture. Its methods may be called from any goroutine.
type Probe struct {
	opts Options

	mu      sync.Mutex
	objects *bpf.CaptureObjects // nil before Start and after Close
	// Links and iterators must stay referenced: a finalizer would detach them silently.
	links []io.Closer
	// slots and hashed open the two parts of a walk.
	slots, hashed *link.Iter
	walks         walks
	// last are the counters at Close, so that the final report is complete.
	last   Counters
	closed bool
	// inventory opens a pass over the sockets of one namespace; it is nil once all were passed over.
	inventory *link.Iter
	listeners *link.Iter
	detached  bool
	missing   error
	spaces    namespaces
	holders   holders
}

// New returns a probe that does nothing yet.
func New(opts Options) *Probe {
	return &Probe{opts: opts.withDefaults()}
}

// Start checks the host, loads the programs and attaches them. On error nothing is
// left behind; the error is one sentence (see Check).
func (p *Probe) Start() error {
	if err := Check(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if p.objects != nil {
		return errors.New("probe is already running")
	}
	objects, err := p.load()
	if err != nil {
		return explain(err)
	}
	p.objects = objects
	if err := p.attach(); err != nil {
		return explain(errors.Join(err, p.release()))
	}
	return nil
}

func (p *Probe) load() (*bpf.CaptureObjects, error) {
	spec, err := bpf.LoadCapture()
	if err != nil {
		return nil, fmt.Errorf("read capture object: %w", err)
	}
	tick, err := tickMicroseconds()
	if err != nil {
		return nil, err
	}
	comm, err := ownComm()
	if err != nil {
		return nil, err
	}
	spec.Maps[bpf.CaptureMapEvents].MaxEntries = p.opts.RingBytes
	slots, shift := slotsOf(p.opts.OpenSockets)
	spec.Maps[bpf.CaptureMapOpenSlots].MaxEntries = max(slots, 1)
	spec.Maps[bpf.CaptureMapOpenSockets].MaxEntries = p.opts.OpenSockets - slots
	for name, value := range map[string]any{
		bpf.CaptureVarScopeNetns:    p.opts.NetnsInum,
		bpf.CaptureVarScopeCgroup:   p.opts.CgroupID,
		bpf.CaptureVarWatchConnects: flag(p.opts.FailedConnects),
		bpf.CaptureVarTickUs:        tick,
		bpf.CaptureVarSlotsShift:    shift,
		bpf.CaptureVarOwnComm:       comm,
		bpf.CaptureVarFillMarkBytes: uint64(p.opts.FillMarkBytes),
		bpf.CaptureVarActiveFirstNs: uint64(p.opts.ActiveFirst),
		bpf.CaptureVarActiveEveryNs: uint64(p.opts.ActiveEvery),
		bpf.CaptureVarSynFirstNs:    uint64(p.opts.SynFirst),
		bpf.CaptureVarSynEveryNs:    uint64(p.opts.SynEvery),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	objects := new(bpf.CaptureObjects)
	if err := spec.LoadAndAssign(objects, nil); err != nil {
		return nil, fmt.Errorf("load capture programs: %w", err)
	}
	return objects, nil
}

// slotsOf returns how many of the open sockets have a slot, a power of two or 0, and how far a hash is shifted to be an index of one
// (see bpf/follow.h).
func slotsOf(openSockets uint32) (slots, shift uint32) {
	const share, fewest = 16, 64
	if openSockets < share*fewest {
		return 0, 0
	}
	indexBits := bits.Len32(openSockets/share) - 1
	return 1 << indexBits, uint32(32 - indexBits)
}

func (p *Probe) attach() (err error) {
	if p.slots, err = link.AttachIter(link.IterOptions{Program: p.objects.ReportOpenSockets, Map: p.objects.OpenSlots}); err != nil {
		return fmt.Errorf("attach the walk of slots: %w", err)
	}
	if p.hashed, err = link.AttachIter(link.IterOptions{Program: p.objects.ReportOpenSockets, Map: p.objects.OpenSockets}); err != nil {
		return fmt.Errorf("attach the walk of open sockets: %w", err)
	}
	if p.inventory, err = link.AttachIter(link.IterOptions{Program: p.objects.FindSockets}); err != nil {
		return fmt.Errorf("attach the inventory: %w", err)
	}
	if p.listeners, err = link.AttachIter(link.IterOptions{Program: p.objects.ReportListeners, Map: p.objects.ListenSockets}); err != nil {
		return fmt.Errorf("attach the walk of listeners: %w", err)
	}
	if p.holders.iter, err = link.AttachIter(link.IterOptions{Program: p.objects.FindHolders}); err != nil {
		return fmt.Errorf("attach the search for holders of listeners: %w", err)
	}
	for _, prog := range p.tracepoints() {
		l, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return fmt.Errorf("attach %s: %w", prog, err)
		}
		p.links = append(p.links, l)
	}
	if p.opts.FailedConnects {
		l, err := attachTracepoint("syscalls", "sys_exit_connect", p.objects.FailedConnect)
		if err != nil {
			p.missing = fmt.Errorf("attempts that fail before their SYN are not seen: %w", err)
		} else {
			p.links = append(p.links, l)
		}
	}
	return p.capture(true)
}

// capture makes all attached programs start or end their work at one instant.
func (p *Probe) capture(on bool) error {
	if err := p.objects.Capturing.Set(flag(on)); err != nil {
		return fmt.Errorf("switch capture: %w", err)
	}
	return nil
}

// tracepoints are the programs that see connections change.
func (p *Probe) tracepoints() []*ebpf.Program {
	return []*ebpf.Program{p.objects.ResetInCall, p.objects.ResetInSoftirq, p.objects.StateInCall, p.objects.StateInSoftirq}
}

// Missing says what this host does not allow of what the options ask for; nil if nothing.
func (p *Probe) Missing() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missing
}

// ownComm is the name of this process as the kernel keeps it.
func ownComm() (comm [2]uint64, err error) {
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return comm, fmt.Errorf("read the own name: %w", err)
	}
	var padded [16]byte
	copy(padded[:15], bytes.TrimSuffix(name, []byte("\n")))
	return [2]uint64{binary.NativeEndian.Uint64(padded[:]), binary.NativeEndian.Uint64(padded[8:])}, nil
}

func flag(set bool) uint32 {
	if set {
		return 1
	}
	return 0
}

// Ring returns the file descriptor and size in bytes of the ring of ended
// connections. The descriptor belongs to the probe.
func (p *Probe) Ring() (fd, size int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		return 0, 0, ErrClosed
	}
	return p.objects.Events.FD(), int(p.objects.Events.MaxEntries()), nil
}

// Rest makes the next record wake the reader of the ring, once. A record that came before may have woken nobody: the reader looks again
// before it sleeps.
func (p *Probe) Rest() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		return ErrClosed
	}
	if err := p.objects.ReaderRests.Set(uint32(1)); err != nil {
		return fmt.Errorf("ask for waking: %w", err)
	}
	return nil
}

// Detach ends capture but keeps the ring and the counters, so that what the ring
// holds can still be read.
func (p *Probe) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.detach()
}

func (p *Probe) detach() error {
	var errs []error
	if len(p.links) > 0 {
		errs = append(errs, p.capture(false))
	}
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	p.links, p.detached = nil, true
	return errors.Join(errs...)
}

// Close detaches and frees everything in the kernel. Counters goes on answering
// with the last reading.
func (p *Probe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.objects == nil {
		return nil
	}
	if c, err := p.read(); err == nil {
		p.last = c
	}
	return p.release()
}

// release needs mu and objects.
func (p *Probe) release() error {
	errs := []error{p.detach()}
	for _, iter := range []*link.Iter{p.slots, p.hashed, p.inventory, p.listeners, p.holders.iter} {
		if iter != nil {
			errs = append(errs, iter.Close())
		}
	}
	errs = append(errs, p.objects.Close())
	p.slots, p.hashed, p.inventory, p.listeners, p.holders.iter = nil, nil, nil, nil, nil
	p.objects = nil
	return errors.Join(errs...)
}
