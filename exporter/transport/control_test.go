package transport

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/proto/flowv1"
)

func TestControlStream(t *testing.T) {
	c := &fakeCollector{}
	var got []string
	done := make(chan struct{})
	c.control = func(n int, stream flowv1.Collector_ControlServer) error {
		if n > 1 {
			return welcome(n, stream)
		}
		for len(got) < 11 {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			switch m := m.GetMessage().(type) {
			case *flowv1.ControlRequest_Hello:
				got = append(got, "hello "+m.Hello.GetHost())
			case *flowv1.ControlRequest_Ownership:
				o := m.Ownership
				got = append(got, strings.Repeat("f", map[bool]int{true: 1}[o.GetFull()])+" claims "+strconv.Itoa(len(o.GetClaims()))+" releases "+strconv.Itoa(len(o.GetReleases())))
			case *flowv1.ControlRequest_Listeners:
				got = append(got, "listeners "+strconv.Itoa(len(m.Listeners.GetListeners())))
			case *flowv1.ControlRequest_Watermark:
				got = append(got, "watermark "+strconv.Itoa(int(m.Watermark.GetVerifiedToNs())))
			}
		}
		close(done)
		refusal := &flowv1.ControlResponse{Message: &flowv1.ControlResponse_Refusal{Refusal: &flowv1.Refusal{Network: "lab", Addr: make([]byte, 16), Reason: "not yours"}}}
		for range 3 {
			if err := stream.Send(refusal); err != nil {
				return err
			}
		}
		return nil
	}
	c.serve(t, "")
	claims := &fakeClaims{full: make([]*flowv1.Claim, 2100)}
	for i := range claims.full {
		claims.full[i] = &flowv1.Claim{Workload: "w"}
	}
	ticks := 0
	claims.verified = func(int64) int64 {
		ticks++
		if ticks == 2 { // a change that happened before this watermark
			claims.channels[0] <- &flowv1.Ownership{Claims: claims.full[:1001], Releases: []*flowv1.Release{{Workload: "w"}}}
		}
		return int64(ticks)
	}
	listeners := make(chan []*flowv1.Listener, 1)
	listeners <- make([]*flowv1.Listener, 2)
	r := run(t, c.address, func(config *Config) {
		config.Claims = claims
		config.Listeners = func(context.Context) ([]*flowv1.Listener, <-chan []*flowv1.Listener) {
			return []*flowv1.Listener{{}}, listeners
		}
	})
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the messages did not arrive")
	}
	want := []string{
		"hello h", " claims 1000 releases 0", " claims 1000 releases 0", "f claims 100 releases 0", "listeners 1", "watermark 1",
		" claims 0 releases 1", " claims 1000 releases 0", " claims 1 releases 0", "watermark 2", "listeners 2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	eventually(t, "the refusals are counted and the stream is opened again", func() bool {
		return r.books.refusals.Load() == 3 && claims.subscribed() == 2
	})
	if n := r.log.count("not yours"); n != 1 {
		t.Errorf("the refusal was logged %d times", n)
	}
}

func TestSlowSubscriberBeginsAgain(t *testing.T) {
	c := &fakeCollector{}
	c.serve(t, "")
	claims := &fakeClaims{}
	run(t, c.address, func(config *Config) { config.Claims = claims })
	eventually(t, "the first subscription", func() bool { return claims.subscribed() == 1 })
	close(claims.channels[0])
	eventually(t, "the second subscription", func() bool { return claims.subscribed() == 2 })
}

// TestStreamsAreNumbered: a collector can tell which of two Control streams is the newer one, whichever comes first.
func TestStreamsAreNumbered(t *testing.T) {
	c := &fakeCollector{}
	numbers := make(chan int64, 8)
	c.control = func(n int, stream flowv1.Collector_ControlServer) error {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		numbers <- m.GetHello().GetControlStream()
		if n < 3 {
			return status.Error(codes.Unavailable, "cut for the test")
		}
		return welcome(n, stream)
	}
	c.serve(t, "")
	began := time.Now().UnixNano()
	run(t, c.address, nil)
	last := began - 1
	for range 3 {
		select {
		case n := <-numbers:
			if n <= last {
				t.Errorf("stream %d came after %d", n, last)
			}
			last = n
		case <-time.After(30 * time.Second):
			t.Fatal("no stream was opened")
		}
	}
	ahead := new(Transport)
	ahead.lastStream.Store(began + int64(time.Hour)) // before the clock went back
	if n := ahead.streamNumber(); n != began+int64(time.Hour)+1 {
		t.Errorf("after a step of the clock: %d", n)
	}
}

// floodedStream takes its time for each message. Its subscriber has the next change before that.
type floodedStream struct {
	claims     *fakeClaims
	watermarks chan struct{}
}

func (s *floodedStream) Send(m *flowv1.ControlRequest) error {
	if m.GetWatermark() != nil {
		s.watermarks <- struct{}{}
	}
	for s.claims.subscribed() > 0 && len(s.claims.channels[0]) < 50 {
		s.claims.change(&flowv1.Ownership{Claims: []*flowv1.Claim{{Workload: "w"}}})
	}
	time.Sleep(50 * time.Microsecond)
	return nil
}

func (s *floodedStream) Recv() (*flowv1.ControlResponse, error) { return nil, errors.New("not read") }

// A flood of changes keeps no watermark back: one goes out at every beat.
func TestWatermarksInAFloodOfChanges(t *testing.T) {
	claims := &fakeClaims{}
	transport, err := New(Config{Spool: newSpool(t), ExporterID: "exp-1", Claims: claims, Counters: func() []*flowv1.Counter { return nil }},
		prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	done, stream := make(chan error, 1), &floodedStream{claims: claims, watermarks: make(chan struct{}, 100)}
	go func() { done <- transport.speak(ctx, stream) }()
	for range 3 { // the first goes out at once
		select {
		case <-stream.watermarks:
		case <-time.After(30 * time.Second):
			t.Fatal("no watermark came")
		}
	}
	end := errors.New("the end")
	cancel(end)
	if err := <-done; !errors.Is(err, end) {
		t.Error(err)
	}
}

// Changes that a slow subscriber has lost are not vouched for.
func TestNoWatermarkAfterALostChange(t *testing.T) {
	changes := make(chan *flowv1.Ownership, 2)
	changes <- &flowv1.Ownership{}
	changes <- &flowv1.Ownership{}
	close(changes)
	transport := &Transport{config: Config{Claims: &fakeClaims{}}}
	stream := &floodedStream{claims: &fakeClaims{}, watermarks: make(chan struct{}, 1)}
	err := transport.sendWatermark(stream, NewSubscription(nil, changes, func(o *flowv1.Ownership) *flowv1.Ownership { return o }))
	if !errors.Is(err, errBehind) || len(stream.watermarks) != 0 {
		t.Errorf("error %v, %d watermarks", err, len(stream.watermarks))
	}
}
