package ingest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
)

// TestClaimsWhileSinksAreBlocked fills the node and expects claims to be taken at once all the same.
func TestClaimsWhileSinksAreBlocked(t *testing.T) {
	r := start(t, Config{PendingBytes: 1})
	s := r.flows(t, "e1")
	for seq := uint64(1); seq <= 20; seq++ {
		send(t, s, batch("e1", seq, 100))
	}
	r.pipeline.wait(t, 1)
	now := uint64(time.Now().UnixNano())
	c := r.control(t, "e1")
	sendOwnership(t, c, &flowv1.Ownership{Claims: []*flowv1.Claim{claim(1, "shop/web", now-1e9)}, Full: true})
	if err := c.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Watermark{Watermark: &flowv1.Watermark{VerifiedToNs: int64(now)}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case <-r.woken:
		case <-time.After(30 * time.Second):
			t.Fatal("claims wait behind batches")
		}
	}
	if got := r.owner(1, int64(now)-5e8); got != "shop/web" {
		t.Fatalf("owner %q", got)
	}
	r.pipeline.mu.Lock()
	defer r.pipeline.mu.Unlock()
	if len(r.pipeline.taken) != 1 {
		t.Fatalf("%d batches taken in over the bound", len(r.pipeline.taken))
	}
}

func (r *rig) owner(addr byte, at int64) string {
	v := r.table.View(time.Now().UnixNano())
	a := [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: addr}
	answer := v.Lookup(r.table.Network("default"), ownership.AddrFrom16(&a), 80, at, int64(10*time.Millisecond))
	if answer.Owner == nil {
		return answer.Why.String()
	}
	return answer.Owner.Workload
}

// TestFullSetReleasesTheRest: what is missing in a new stream's whole set was released while nobody listened.
func TestFullSetReleasesTheRest(t *testing.T) {
	r := start(t, Config{})
	now := time.Now().UnixNano()
	c := r.control(t, "e1")
	sendOwnership(t, c, &flowv1.Ownership{Full: true, Claims: []*flowv1.Claim{
		claim(1, "shop/web", uint64(now-5e9)), claim(2, "shop/api", uint64(now-5e9)),
	}})
	watermark := func(s grpc.BidiStreamingClient[flowv1.ControlRequest, flowv1.ControlResponse], at int64) {
		if err := s.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Watermark{Watermark: &flowv1.Watermark{VerifiedToNs: at}}}); err != nil {
			t.Fatal(err)
		}
		<-r.woken
	}
	<-r.woken
	watermark(c, now-3e9)
	c2 := r.control(t, "e1")
	sendOwnership(t, c2, &flowv1.Ownership{Full: true, Claims: []*flowv1.Claim{claim(1, "shop/web", uint64(now-5e9))}})
	<-r.woken
	watermark(c2, now)
	if got := r.owner(1, now-1e9); got != "shop/web" {
		t.Errorf("what is still claimed: %q", got)
	}
	if got := r.owner(2, now-4e9); got != "shop/api" {
		t.Errorf("before the last watermark: %q", got)
	}
	if got := r.owner(2, now-1e9); got != "no_evidence" {
		t.Errorf("after it: %q", got)
	}
	// the older stream's late release changes nothing
	sendOwnership(t, c, &flowv1.Ownership{Releases: []*flowv1.Release{{Network: "default", Addr: claim(1, "", 0).GetAddr(), AtNs: now - 4e9}}})
	if _, err := c.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the older stream: %v", err)
	}
}

// TestFullSetEndsWhatBeganLast: what was claimed after the last watermark, and released while nobody listened, ends too. Left open it would be
// verified by the next stream's watermarks for ever.
func TestFullSetEndsWhatBeganLast(t *testing.T) {
	for name, verified := range map[string]int64{"before the first watermark": 0, "after one": -5e9} {
		t.Run(name, func(t *testing.T) { endsWhatBeganLast(t, verified) })
	}
}

func endsWhatBeganLast(t *testing.T, verified int64) {
	r := start(t, Config{})
	now := time.Now().UnixNano()
	mark := func(s grpc.BidiStreamingClient[flowv1.ControlRequest, flowv1.ControlResponse], at int64) {
		if err := s.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Watermark{Watermark: &flowv1.Watermark{VerifiedToNs: at}}}); err != nil {
			t.Fatal(err)
		}
		<-r.woken
	}
	c := r.control(t, "e1")
	if verified != 0 {
		mark(c, now+verified)
	}
	sendOwnership(t, c, &flowv1.Ownership{Claims: []*flowv1.Claim{claim(1, "shop/web", uint64(now-4e9))}})
	<-r.woken
	c = r.control(t, "e1")
	sendOwnership(t, c, &flowv1.Ownership{Full: true})
	<-r.woken
	mark(c, now)
	if got := r.owner(1, now-2e9); got != "no_evidence" {
		t.Errorf("named %q", got)
	}
}

func TestBadClaimsAreRefused(t *testing.T) {
	r := start(t, Config{})
	c := r.control(t, "e1")
	now := uint64(time.Now().UnixNano())
	good := claim(1, "shop/web", now)
	bad := map[string]*flowv1.Claim{}
	for reason, change := range map[string]func(*flowv1.Claim){
		"bad_address": func(m *flowv1.Claim) { m.Addr = []byte{1, 2, 3, 4} },
		"bad_ports":   func(m *flowv1.Claim) { m.PortFrom, m.PortTo = 1, 70_000 },
		"bad_name":    func(m *flowv1.Claim) { m.Workload = strings.Repeat("x", 10_000) },
		"from_future": func(m *flowv1.Claim) { m.FromNs += int64(time.Hour) },
	} {
		m := claim(2, "shop/api", now)
		change(m)
		bad[reason] = m
	}
	for reason, m := range bad {
		sendOwnership(t, c, &flowv1.Ownership{Claims: []*flowv1.Claim{m}})
		answer, err := c.Recv()
		if err != nil || answer.GetRefusal().GetReason() != reason {
			t.Errorf("%s: %v %v", reason, answer, err)
		}
	}
	sendOwnership(t, c, &flowv1.Ownership{Claims: []*flowv1.Claim{good}})
	for range 5 {
		<-r.woken
	}
	want := map[string]float64{
		"connections grpc":      1,
		"claims_total accepted": 1, "claims_total bad_address": 1, "claims_total bad_ports": 1, "claims_total bad_name": 1,
		"claims_total from_future": 1, "streams control": 1,
	}
	if d := cmp.Diff(want, r.values(t)); d != "" {
		t.Error(d)
	}
}

// TestBadClock: an exporter whose clock is off is told so once, and the table knows.
func TestBadClock(t *testing.T) {
	r := start(t, Config{})
	c := r.control(t, "e1")
	for range 3 {
		fast := time.Now().Add(5 * time.Second).UnixNano()
		m := &flowv1.ControlRequest{Message: &flowv1.ControlRequest_Watermark{Watermark: &flowv1.Watermark{VerifiedToNs: fast, ClockNs: fast}}}
		if err := c.Send(m); err != nil {
			t.Fatal(err)
		}
		<-r.woken
	}
	sendOwnership(t, c, &flowv1.Ownership{Claims: []*flowv1.Claim{claim(1, strings.Repeat("x", 10_000), 1)}})
	var reasons []string
	for range 2 {
		answer, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		reasons = append(reasons, answer.GetRefusal().GetReason())
	}
	if d := cmp.Diff([]string{"bad_clock", "bad_name"}, reasons); d != "" {
		t.Error(d)
	}
	if clock := r.table.Clock("e1"); !clock.Bad || clock.Slack > 5*time.Second || clock.Slack < 4*time.Second {
		t.Errorf("the table thinks of its clock: %+v", clock)
	}
}

// heard collects what was noted of listeners.
type heard chan []*flowv1.Listener

func (h heard) Note(exporter, host string, listeners []*flowv1.Listener) {
	if exporter == "e1" && host != "" {
		h <- listeners
	}
}

// TestListeners: what is out of bounds is refused, alone.
func TestListeners(t *testing.T) {
	heard := make(heard, 1)
	r := start(t, Config{Listeners: heard})
	c := r.control(t, "e1")
	sound := func(change func(*flowv1.Listener)) *flowv1.Listener {
		l := &flowv1.Listener{LocalAddr: make([]byte, 16), LocalPort: 80, LocalWorkload: "shop/web", SinceNs: 1, ReadTimeNs: 2}
		change(l)
		return l
	}
	list := []*flowv1.Listener{
		sound(func(l *flowv1.Listener) { l.LocalAddr = nil }), sound(func(l *flowv1.Listener) { l.LocalPort = 65536 }),
		sound(func(l *flowv1.Listener) { l.Comm = "a\nb" }), sound(func(l *flowv1.Listener) { l.LocalWorkload = strings.Repeat("x", 1<<16) }),
		sound(func(l *flowv1.Listener) { l.LocalWhy = 99 }), sound(func(l *flowv1.Listener) { l.LocalEvidence = -1 }),
		sound(func(l *flowv1.Listener) { l.EndedNs = -1 }), nil, sound(func(*flowv1.Listener) {}),
	}
	list[7] = &flowv1.Listener{}
	if err := c.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Listeners{Listeners: &flowv1.Listeners{Listeners: list}}}); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; len(got) != 1 || got[0].GetLocalWorkload() != "shop/web" {
		t.Errorf("taken: %v", got)
	}
	if n := testutil.ToFloat64(r.server.metrics.listeners.WithLabelValues("refused")); n != 8 {
		t.Errorf("%g refused", n)
	}
}

// TestControlStreamsOutOfOrder: the hello of a stream that is older than the newest, or has no sound number, is refused, and the newest goes on.
func TestControlStreamsOutOfOrder(t *testing.T) {
	r := start(t, Config{})
	greet := func(number int64) grpc.BidiStreamingClient[flowv1.ControlRequest, flowv1.ControlResponse] {
		t.Helper()
		s, err := r.client.Control(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h := hello("e1")
		h.ControlStream = number
		if err := s.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: h}}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	newest := greet(6)
	if m, err := newest.Recv(); err != nil || m.GetWelcome() == nil {
		t.Fatalf("no welcome: %v, %v", m, err)
	}
	for number, want := range map[int64]codes.Code{
		5: codes.Aborted, 6: codes.Aborted, -1: codes.InvalidArgument, session.MaxStream + 1: codes.InvalidArgument,
	} {
		if m, err := greet(number).Recv(); status.Code(err) != want {
			t.Errorf("stream %d: %v, %v; want %v", number, m, err, want)
		}
	}
	sendOwnership(t, newest, &flowv1.Ownership{Full: true, Claims: []*flowv1.Claim{claim(1, "shop/web", uint64(time.Now().UnixNano()))}})
	<-r.woken
	if got := r.values(t)["claims_total accepted"]; got != 1 {
		t.Errorf("the newest stream goes on: %v claims taken", got)
	}
	if m, err := greet(7).Recv(); err != nil || m.GetWelcome() == nil {
		t.Errorf("the next stream: %v, %v", m, err)
	}
}
