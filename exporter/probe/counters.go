package probe

import (
	"fmt"

	"github.com/cilium/ebpf"

	"tributary/bpf"
)

// Counters are the kernel's books since Start, summed over CPUs. They balance:
//
//	Ends = Submitted + RingFull
//	Opened − Removed = connections followed now
//
// An end without Opened (it began before Start, or MapFull, or MapNoMemory) is in
// EndsUnobserved as well and has a record without role and start. EndsMissed and
// Recursion are ends and transitions the kernel never showed us; they are in no
// other counter.
type Counters struct {
	Ends           uint64 // connection ends, closed or failed, in scope
	Submitted      uint64 // of these, written to the ring
	RingFull       uint64 // of these, lost because the ring was full
	EndsUnobserved uint64 // of these, ended without a known start
	Opened         uint64 // starts seen and kept
	Removed        uint64 // kept starts that ended
	MapFull        uint64 // starts not kept: Options.OpenSockets reached
	MapNoMemory    uint64 // starts not kept: no kernel memory at that instant
	ListenersFull  uint64 // listeners whose owner is not known
	Found          uint64 // of Opened, older than Start and found by the inventory
	Active         uint64 // active records handed to Walk's reader
	ActiveRaced    uint64 // active records given up because the socket closed or moved meanwhile; the next record has it all
	Stillborn      uint64 // sockets the kernel made for a handshake and dropped before any program could see them; no ends
	EndsUnsent     uint64 // of Ends, attempts that failed before their SYN
	EndsLate       uint64 // of Ends, recorded by the walk because no program was shown them
	EndsMissed     uint64 // sockets found gone whose end was not shown
	Recursion      uint64 // transitions in a softirq skipped by the kernel: it interrupted the program that was to see them
}

// Counters reads the books; after Close the last reading.
func (p *Probe) Counters() (Counters, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		return p.last, nil
	}
	return p.read()
}

// read needs mu and objects.
func (p *Probe) read() (Counters, error) {
	c, err := p.readMap()
	if err != nil {
		return c, err
	}
	// What is skipped of the other two is what these two are for: a softirq that interrupts a program in a call.
	for _, prog := range []*ebpf.Program{p.objects.StateInSoftirq, p.objects.ResetInSoftirq} {
		stats, err := prog.Stats()
		if err != nil {
			return Counters{}, fmt.Errorf("read program statistics: %w", err)
		}
		c.Recursion += stats.RecursionMisses
	}
	return c, nil
}

// readMap reads all counters but Recursion. It needs mu and objects.
func (p *Probe) readMap() (Counters, error) {
	sum, err := p.sumCounters()
	if err != nil {
		return Counters{}, err
	}
	return named(&sum), nil
}

// sumCounters needs mu and objects.
func (p *Probe) sumCounters() (sum bpf.CaptureFlowCounters, err error) {
	var perCPU []bpf.CaptureFlowCounters
	if err := p.objects.Counters.Lookup(uint32(0), &perCPU); err != nil {
		return sum, fmt.Errorf("read kernel counters: %w", err)
	}
	for _, c := range perCPU {
		for i, n := range c.N {
			sum.N[i] += n
		}
	}
	return sum, nil
}

func named(sum *bpf.CaptureFlowCounters) Counters {
	return Counters{
		Ends:           sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_ENDS],
		Submitted:      sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_SUBMITTED],
		RingFull:       sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_RING_FULL],
		EndsUnobserved: sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_ENDS_UNOBSERVED],
		Opened:         sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_OPENED],
		Removed:        sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_REMOVED],
		MapFull:        sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_MAP_FULL],
		MapNoMemory:    sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_MAP_NOMEM],
		ListenersFull:  sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_LISTENERS_FULL],
		Found:          sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_FOUND],
		Active:         sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_ACTIVE],
		ActiveRaced:    sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_ACTIVE_RACED],
		Stillborn:      sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_STILLBORN],
		EndsUnsent:     sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_ENDS_UNSENT],
		EndsLate:       sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_ENDS_LATE],
		EndsMissed:     sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_ENDS_MISSED],
	}
}
