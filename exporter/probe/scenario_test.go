package probe

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"tributary/exporter/clock"
	"tributary/exporter/event"
	"tributary/service/testenv"
)

// A scenario is one way a connection can go, between two namespaces joined by a wire. It
// must give exactly the records it wants.
type scenario struct {
	name string
	do   func(w *world)
	want []want
}

// want is one end's record. The zero value of a field is the common case.
type want struct {
	role   event.Role
	reason event.CloseReason
	tx, rx uint64
	errno  unix.Errno
	kind   event.Kind     // default closed
	state  event.TCPState // before CLOSE; default: not checked
	place  string         // "a" or "b"; default: clients live in a, servers in b
	pid    string         // "child", "none"; default: the test itself
	queued bool           // a server's connection that was never accepted
	varies bool           // how many bytes is the kernel's business
	asked  string         // where the program wanted to go, if elsewhere
	also   func(e *event.Event) error
}

const (
	cl = event.RoleClient
	sv = event.RoleServer
)

// world is where a scenario happens: clients in a (10.177.0.1, fd77::1, fe80::1), servers in b (…2).
type world struct {
	*testing.T
	a, b  *space
	began uint64
	child uint32 // pid of the helper process, if there is one
}

// TestScenarios plays the whole table: with entries in slots, as is usual, and in the hash table alone, where they go when slots are taken.
func TestScenarios(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedCommand(t, "nft", "apt-get install nftables")
	t.Run("slots", func(t *testing.T) { playAll(t, 0) })
	t.Run("hashed", func(t *testing.T) { playAll(t, 1000) })
}

// playAll gives every scenario namespaces of its own, and one probe sees them all.
func playAll(t *testing.T, openSockets uint32) {
	// no scenario lasts so long, on a slow machine either; it is for ends that this kernel shows no program (docs/capture.md), which the walk records
	const late, never = 20 * time.Second, time.Hour
	c := newCapture(t, Options{OpenSockets: openSockets, ActiveFirst: late, ActiveEvery: never, SynFirst: late, SynEvery: never, FailedConnects: true})
	var table []scenario
	for _, rows := range [][]scenario{orderly, openings, processes, resets, timeouts, failures, unsent, asked} {
		table = append(table, rows...)
	}
	t.Logf("%d scenarios", len(table))
	var played, hidden atomic.Int64 // records of all plays, and ends that the kernel showed no program
	t.Run("table", func(t *testing.T) {
		for _, s := range table {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				for range attempts {
					records, lost, again := s.play(newWorld(t, c), c)
					played.Add(int64(records))
					hidden.Add(int64(lost))
					if !again {
						return
					}
				}
				t.Errorf("transitions went unseen %d times in a row", attempts)
			})
		}
	})
	k := counted(t, c)
	if k.RingFull+k.MapFull+k.MapNoMemory+k.ListenersFull != 0 || k.EndsMissed != uint64(hidden.Load()) {
		t.Errorf("losses, where %d were found: %+v", hidden.Load(), k)
	}
	if n := interruptions(t, c.probe); n != 0 {
		t.Errorf("the programs were not run %d times because they were running", n)
	}
	if err := c.reader.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := c.snapshot(); len(events) != int(played.Load()) && !t.Failed() {
		t.Errorf("%d records after all, %d wanted: some came late\n%s", len(events), played.Load(), describe(events))
	}
}

// attempts at a scenario. This kernel shows one transition in some thousands to no program, and a socket that is closed before the walk comes
// takes its end along (docs/capture.md). That is counted as missed; who misses ends by a fault of ours misses them again. The beginning of a connection is
// hidden likewise: see beganUnseen.
const attempts = 3

// interruptions are the events for which a program of the probe was not run because it was running on that CPU: those ends are lost too,
// but by our fault (see held_by_call in bpf/capture.bpf.c).
func interruptions(t *testing.T, p *Probe) (n uint64) {
	t.Helper()
	programs := p.objects.CapturePrograms
	for _, program := range []*ebpf.Program{programs.StateInCall, programs.StateInSoftirq, programs.ResetInCall, programs.ResetInSoftirq} {
		stats, err := program.Stats()
		if err != nil {
			t.Fatal(err)
		}
		n += stats.RecursionMisses
	}
	return n
}

func newWorld(t *testing.T, c *capture) *world {
	w := &world{T: t, a: newSpace(t), b: newSpace(t)}
	join(t, w.a, w.b)
	for s, address := range map[*space]string{w.a: "fe80::1/64", w.b: "fe80::2/64"} {
		configure(s, map[*space]string{w.a: "wire0", w.b: "wire1"}[s], address)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cookies[w.a.cookie], c.cookies[w.b.cookie] = true, true
	w.began = clock.Boot()
	return w
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// run plays the scenario, which must show all its ends.
func (s scenario) run(w *world, c *capture) {
	if _, lost, again := s.play(w, c); again {
		w.Errorf("%d ends went unseen, or a beginning", lost)
	}
}

// play goes through the scenario and checks its records, unless they are not as wanted and ends were counted as missed meanwhile, or a beginning went unseen: then it
// is to be played again, and play returns how many of its own ends may be among those. One may be missed although no record is missing: an attempt that is asked
// about again has another one.
func (s scenario) play(w *world, c *capture) (records, lost int, again bool) {
	before := counted(w.T, c)
	s.do(w)
	var got []event.Event
	mine := func() int {
		got = got[:0]
		for _, e := range c.snapshot() {
			if e.NetnsCookie == w.a.cookie || e.NetnsCookie == w.b.cookie {
				got = append(got, e)
			}
		}
		return len(got)
	}
	for deadline := time.Now().Add(patience); mine() < len(s.want) && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	w.check(c.reader.Drain(w.Context()))
	mine()
	err := s.compare(w, got)
	if err == nil {
		return len(got), 0, false
	}
	if len(got) == len(s.want) && (counted(w.T, c).EndsUnobserved > before.EndsUnobserved || slices.ContainsFunc(got, beganUnseen)) {
		w.Logf("a beginning went unseen: %v", err)
		return len(got), 0, true
	}
	lost = max(1, len(s.want)-len(got))
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if counted(w.T, c).EndsMissed >= before.EndsMissed+uint64(lost) {
			w.Logf("%d ends of %d went unseen: %v", lost, len(s.want), err)
			return mine(), lost, true
		}
	}
	w.Error(err)
	return mine(), 0, false
}

// beganUnseen: an attempt that failed in a state in which a connection is only after ESTABLISHED.
func beganUnseen(e event.Event) bool {
	return e.Kind == event.KindFailed && e.Role == event.RoleClient && e.LastState != event.StateSynSent && e.LastState != event.StateClose
}

func (s scenario) compare(w *world, got []event.Event) (err error) {
	if len(got) != len(s.want) {
		return fmt.Errorf("%d records, want %d\n%s", len(got), len(s.want), describe(got))
	}
	left := got
	for _, want := range s.want {
		var wrong error
		left, wrong = want.take(w, left)
		err = errors.Join(err, wrong)
	}
	return errors.Join(err, checkMirrors(got))
}

// take checks the first record of the wanted place and role, and returns the others.
func (want want) take(w *world, events []event.Event) (left []event.Event, err error) {
	place := want.place
	if place == "" {
		place = map[event.Role]string{cl: "a", sv: "b"}[want.role]
	}
	cookie := map[string]uint64{"a": w.a.cookie, "b": w.b.cookie}[place]
	for i := range events {
		if e := &events[i]; e.NetnsCookie == cookie && e.Role == want.role {
			if err = want.compare(w, e); err != nil {
				err = fmt.Errorf("%w\n\t%s", err, e)
			}
			return append(append([]event.Event(nil), events[:i]...), events[i+1:]...), err
		}
	}
	return events, fmt.Errorf("no record of a %s in %s\n%s", want.role, place, describe(events))
}

func (want want) compare(w *world, e *event.Event) error {
	kind := want.kind
	if kind == 0 {
		kind = event.KindClosed
	}
	pid := map[string]uint32{"": selfPID(), "child": w.child, "none": 0}[want.pid]
	switch {
	case e.Kind != kind || e.CloseReason != want.reason || e.Errno != uint16(want.errno):
		return fmt.Errorf("want %s, %s, errno %d", kind, want.reason, int(want.errno))
	case want.state != 0 && e.LastState != want.state:
		return fmt.Errorf("want the last state %s", want.state)
	case !want.varies && (e.TxBytes != want.tx || e.RxBytes != want.rx) || e.TxBytesBefore+e.RxBytesBefore != 0:
		return fmt.Errorf("want tx %d rx %d", want.tx, want.rx)
	case e.PID != pid || (pid != 0) != (e.CgroupID != 0) || e.SockCgroupID == 0:
		return fmt.Errorf("want pid %d; cgroups %d, %d", pid, e.CgroupID, e.SockCgroupID)
	case askedFor(e) != want.asked:
		return fmt.Errorf("asked for %q, want %q", askedFor(e), want.asked)
	case e.Accepted != (want.role == sv && !want.queued):
		return fmt.Errorf("accepted: %v", e.Accepted)
	case !e.StartObserved || e.RoleSource != event.RoleObserved || e.RecordSeq != 0 || e.IntervalStart != e.Start || e.SockCookie == 0 && e.LastState != event.StateClose:
		return fmt.Errorf("not a first record of an observed connection: %+v", *e)
	case e.RstSent+e.RstReceived > 1 || (want.reason == event.CloseRstLocal || want.reason == event.CloseKeepalive) && e.RstSent != 1 || (want.reason == event.CloseRstRemote) && e.RstReceived != 1:
		return fmt.Errorf("resets sent %d, received %d", e.RstSent, e.RstReceived)
	}
	if err := w.checkTimes(e); err != nil {
		return err
	}
	if want.also != nil {
		return want.also(e)
	}
	return nil
}

func askedFor(e *event.Event) string {
	if e.OrigRemoteAddr == [16]byte{} {
		return ""
	}
	return netip.AddrPortFrom(netip.AddrFrom16(e.OrigRemoteAddr).Unmap(), e.OrigRemotePort).String()
}

// checkTimes allows a server's start 0.5 s before the beginning, because SYN cookies and deferred
// accepts measure the handshake coarsely.
func (w *world) checkTimes(e *event.Event) error {
	now, slack := clock.Boot(), uint64(0)
	if e.Role == sv {
		slack = 5e8
	}
	if e.Start+slack < w.began || e.End < e.Start || e.End > now {
		return fmt.Errorf("from %d to %d, outside of %d to %d", e.Start, e.End, w.began, now)
	}
	if e.Kind == event.KindClosed && e.Role == cl && (e.ConnectUs == 0 || uint64(e.ConnectUs) > (e.End-e.Start)/1000) {
		return fmt.Errorf("connected in %d us", e.ConnectUs)
	}
	return nil
}

// checkMirrors compares the two ends of each connection.
func checkMirrors(events []event.Event) (err error) {
	for i := range events {
		for j := range events {
			a, b := &events[i], &events[j]
			if i == j || a.LocalPort != b.RemotePort || a.RemotePort != b.LocalPort {
				continue
			}
			if a.LocalAddr != b.RemoteAddr || a.NetnsCookie == b.NetnsCookie {
				err = errors.Join(err, fmt.Errorf("the ends do not fit each other:\n\t%s\n\t%s", a, b))
			}
			// a reset can overtake data, but nobody receives more than was sent
			if a.RxBytes > b.TxBytes {
				err = errors.Join(err, fmt.Errorf("more received than sent:\n\t%s\n\t%s", a, b))
			}
		}
	}
	return err
}

// sysctl sets a value below /proc/sys/net in the namespace.
func (w *world) sysctl(s *space, name, value string) {
	w.Helper()
	s.do(func() error { return writeFile("/proc/sys/net/"+name, value) })
}

// nft adds rules to the chain of a hook (input, output) in the namespace.
func (w *world) nft(s *space, hook string, rules ...string) {
	w.Helper()
	script := fmt.Sprintf("table inet t { chain %s { type filter hook %s priority 0; policy accept;\n%s\n}\n}\n", hook, hook, strings.Join(rules, "\n"))
	w.run(s, script, "nft", "-f", "-")
}

// block drops all TCP that comes into the namespaces; open undoes it.
func (w *world) block(spaces ...*space) {
	for _, s := range spaces {
		w.nft(s, "input", "meta l4proto tcp drop")
	}
}

func (w *world) open(spaces ...*space) {
	for _, s := range spaces {
		w.run(s, "", "nft", "flush", "ruleset")
	}
}

func (w *world) run(s *space, stdin string, command ...string) {
	w.Helper()
	s.do(func() error {
		cmd := exec.Command(command[0], command[1:]...)
		var out bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
		if err := begin(cmd); err != nil {
			return err
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out.Bytes())
		}
		return nil
	})
}
