package listeners

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/probe"
	"tributary/proto/flowv1"
)

const second = int64(time.Second)

// world is a kernel's table by hand.
type world struct {
	t       *testing.T
	set     *Set
	sockets []probe.Listener
	moved   uint64 // step moves it
	still   bool   // step does not
	reads   int
	counts  map[uint32]probe.Overflows
	owner   string
	now     int64
	changes <-chan []*flowv1.Listener
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, counts: map[uint32]probe.Overflows{1: {}}, owner: "shop/api", now: 1000 * second}
	var err error
	w.set, err = New(Config{
		Read: func() ([]probe.Listener, error) {
			w.reads++
			return slices.Clone(w.sockets), nil
		},
		Moved: func() (uint64, error) { return w.moved, nil },
		Overflows: func(ask map[uint32]bool) (map[uint32]probe.Overflows, error) {
			out := map[uint32]probe.Overflows{}
			for n := range ask {
				if c, ok := w.counts[n]; ok {
					out[n] = c
				}
			}
			return out, nil
		},
		Name: func(*probe.Listener) Name { return Name{Workload: w.owner} },
		Wall: func(kernel uint64) int64 { return int64(kernel) },
	}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, w.changes = w.set.Subscribe(t.Context())
	return w
}

// step reads the table after so many seconds and returns what was told.
func (w *world) step(seconds int64) []*flowv1.Listener {
	w.t.Helper()
	w.now += seconds * second
	if !w.still {
		w.moved++
	}
	if err := w.set.step(w.now); err != nil {
		w.t.Fatal(err)
	}
	select {
	case told := <-w.changes:
		return told
	default:
		return nil
	}
}

// one is step where one listener is told.
func (w *world) one(seconds int64) *flowv1.Listener {
	w.t.Helper()
	told := w.step(seconds)
	if len(told) != 1 {
		w.t.Fatalf("told %v, want one listener", told)
	}
	return told[0]
}

func socket(cookie uint64, port uint16) probe.Listener {
	return probe.Listener{SockCookie: cookie, NetnsInum: 1, Port: port, SinceNs: uint64(999 * second), PID: 7, AcceptQueueLimit: 8}
}

func TestTelling(t *testing.T) {
	w := newWorld(t)
	w.sockets = []probe.Listener{socket(1, 80)}
	if m := w.one(0); m.GetLocalPort() != 80 || m.GetLocalWorkload() != "shop/api" || m.GetPid() != 7 || m.GetSinceNs() != 999*second ||
		!m.GetSinceObserved() || m.GetSockets() != 1 || m.GetAcceptQueueLimit() != 8 || m.GetReadTimeNs() != w.now || m.GetLastAcceptedNs() != 0 {
		t.Errorf("new: %v", m)
	}
	if told := w.step(2); told != nil {
		t.Errorf("nothing changed, told %v", told)
	}
	w.sockets[0].Established, w.sockets[0].LastNs = 1, uint64(w.now+second)
	if m := w.one(2); m.GetAccepted() != 1 || m.GetLastAcceptedNs() != w.now-second {
		t.Errorf("first use: %v", m)
	}
	w.sockets[0].Established, w.sockets[0].AcceptQueue = 4, 1
	if told := w.step(2); told != nil {
		t.Errorf("use is told every 10 s, told %v", told)
	}
	if m := w.one(9); m.GetAccepted() != 3 || m.GetAcceptQueue() != 1 || m.GetLastAcceptedNs() != w.now-9*second {
		t.Errorf("later use: %v", m)
	}
	w.owner = "shop/other"
	if m := w.one(2); m.GetLocalWorkload() != "shop/other" {
		t.Errorf("another owner: %v", m)
	}
	if m := w.one(601); m.GetEndedNs() != 0 {
		t.Errorf("the same after a while: %v", m)
	}
	full, _ := w.set.Subscribe(t.Context())
	if len(full) != 1 || full[0].GetLocalWorkload() != "shop/other" {
		t.Errorf("the set is %v", full)
	}
	w.sockets = nil
	if m := w.one(2); m.GetEndedNs() != w.now || m.GetAccepted() != 3 || m.GetSockets() != 0 {
		t.Errorf("ended: %v", m)
	}
	if full, _ := w.set.Subscribe(t.Context()); len(full) != 1 || full[0].GetEndedNs() != w.now {
		t.Errorf("the set after the end is %v", full)
	}
	w.step(int64(endedFor/time.Second) + 1)
	if full, _ := w.set.Subscribe(t.Context()); len(full) != 0 {
		t.Errorf("the set a while after the end is %v", full)
	}
}

// TestAnotherListener: a new socket at the address counts from 0, unless an older one stays beside it.
func TestAnotherListener(t *testing.T) {
	w := newWorld(t)
	w.sockets = []probe.Listener{socket(1, 80)}
	w.sockets[0].Established = 5
	w.step(0)
	next := socket(2, 80)
	next.SinceNs += uint64(second)
	w.sockets = []probe.Listener{w.sockets[0], next}
	w.sockets[0].Established, w.sockets[1].Established = 6, 6
	if m := w.one(2); m.GetSockets() != 2 || m.GetSinceNs() != 999*second || m.GetAccepted() != 6 || m.GetAcceptQueueLimit() != 16 {
		t.Errorf("two: %v", m)
	}
	last := socket(3, 80)
	last.SinceNs += uint64(5 * second)
	w.sockets = []probe.Listener{last}
	if m := w.one(2); m.GetSockets() != 1 || m.GetSinceNs() != 1004*second || m.GetAccepted() != 0 {
		t.Errorf("another: %v", m)
	}
}

// TestFound: what happened before the exporter came is not counted.
func TestFound(t *testing.T) {
	w := newWorld(t)
	l := socket(1, 80)
	l.Found, l.Drops, l.AcceptQueue, l.QueuedBefore = true, 70, 2, 2
	w.sockets = []probe.Listener{l}
	if m := w.one(0); m.GetSinceObserved() || m.GetDrops() != 0 || m.GetAccepted() != 0 {
		t.Errorf("found: %v", m)
	}
	w.sockets[0].AcceptQueue = 0
	if m := w.one(2); m.GetAccepted() != 2 || m.GetLastAcceptedNs() != w.now {
		t.Errorf("those that waited are accepted: %v", m)
	}
}

func TestOverflowsAreShared(t *testing.T) {
	w := newWorld(t)
	w.counts[1] = probe.Overflows{Accept: 1000, Syn: 50} // of long ago
	w.sockets = []probe.Listener{socket(1, 80), socket(2, 81), socket(3, 82)}
	w.step(0)
	w.counts[1] = probe.Overflows{Accept: 1010, Syn: 51}
	w.sockets[0].Drops, w.sockets[1].Drops = 8, 3
	got := map[uint32]*flowv1.Listener{}
	for _, m := range w.step(2) {
		got[m.GetLocalPort()] = m
	}
	if len(got) != 2 || got[80].GetAcceptOverflows()+got[81].GetAcceptOverflows() != 10 || got[80].GetAcceptOverflows() != 7 ||
		got[80].GetSynOverflows()+got[81].GetSynOverflows() != 1 || got[80].GetDrops() != 8 {
		t.Errorf("%v", got)
	}
	w.counts[1] = probe.Overflows{Accept: 1010, Syn: 61}
	w.sockets[2].SynOverflow = 99 // cookies were sent
	if m := w.one(2); m.GetLocalPort() != 82 || m.GetSynOverflows() != 10 || m.GetDrops() != 0 {
		t.Errorf("cookies: %v", m)
	}
	delete(w.counts, 1)
	w.sockets[0].Drops = 9
	if m := w.one(2); m.GetDrops() != 9 || m.GetAcceptOverflows() != 7 {
		t.Errorf("a namespace that cannot be read: %v", m)
	}
}

func TestSlowSubscriber(t *testing.T) {
	w := newWorld(t)
	_, changes := w.set.Subscribe(t.Context())
	for i := range changesWaiting + 1 {
		w.sockets = []probe.Listener{socket(uint64(i), uint16(i))}
		w.step(1)
	}
	n := 0
	for range changes {
		n++
	}
	if n != changesWaiting {
		t.Errorf("%d changes before the cut", n)
	}
}

// TestReadingSeldom has a table in which no socket begins or ends.
func TestReadingSeldom(t *testing.T) {
	w := newWorld(t)
	w.sockets = []probe.Listener{socket(1, 80)}
	w.one(0)
	w.still = true
	w.sockets[0].Established, w.sockets[0].LastNs = 1, uint64(w.now+second)
	for range 3 {
		if told := w.step(2); told != nil || w.reads != 1 {
			t.Fatalf("%d readings, told %v: nothing began or ended", w.reads, told)
		}
	}
	w.owner = "shop/other"
	if m := w.one(2); m.GetLocalWorkload() != "shop/other" || m.GetAccepted() != 0 || w.reads != 1 {
		t.Errorf("another owner, after %d readings: %v", w.reads, m)
	}
	w.sockets[0].Established, w.sockets[0].SynQueue = 1, 1
	if m := w.one(2); m.GetAccepted() != 1 || m.GetLastAcceptedNs() != w.now-9*second || w.reads != 2 {
		t.Errorf("first use, after %d readings: %v", w.reads, m)
	}
	if w.step(2); w.reads != 3 {
		t.Errorf("%d readings, and a handshake was under way at the last one", w.reads)
	}
}
