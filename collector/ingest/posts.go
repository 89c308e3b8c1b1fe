package ingest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flowv1"
)

// carrier is what a stream needs of what carries it: a gRPC stream is one, a sequence of POSTs is another.
type carrier[Up, Down any] interface {
	Context() context.Context
	Recv() (*Up, error)
	Send(*Down) error
}

type (
	flowsCarrier   = carrier[flowv1.FlowsRequest, flowv1.FlowsResponse]
	controlCarrier = carrier[flowv1.ControlRequest, flowv1.ControlResponse]
)

// maxAnswerBytes bounds what waits to be fetched; then Send blocks, as it does on a gRPC stream.
const maxAnswerBytes = 128 << 10

// posts carries one stream over POSTs: each brings a message, and any answer takes with it what the collector has to say.
//
// At most one message waits beside the one that is being handled: a POST gets its turn before its body is read.
type posts struct {
	kind, key, peer string // flows or control; the stream's name; whose certificate opened it
	ctx             context.Context
	cancel          context.CancelFunc

	turn chan struct{} // held from before a body is read until Recv has taken it
	in   chan *bytes.Buffer
	news chan struct{} // closed and made anew when there is something to fetch
	room chan struct{} // signalled when it was fetched

	mu      sync.Mutex
	part    uint64 // of the last message taken
	out     bytes.Buffer
	ended   bool
	err     error
	seen    time.Time // when a request last came or ended
	present int       // requests at work
}

func newPosts(ctx context.Context, kind, key, peer string) *posts {
	p := &posts{
		kind: kind, key: key, peer: peer, turn: make(chan struct{}, 1), in: make(chan *bytes.Buffer, 1),
		news: make(chan struct{}), room: make(chan struct{}, 1), seen: time.Now(),
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// Context implements carrier.
func (p *posts) Context() context.Context { return p.ctx }

// recv takes the next message.
func (p *posts) recv(m proto.Message, recycle func(*bytes.Buffer)) error {
	select {
	case body := <-p.in:
		<-p.turn
		err := proto.Unmarshal(body.Bytes(), m)
		recycle(body)
		if err != nil {
			return status.Error(codes.InvalidArgument, "the body of a POST is not a message of this stream")
		}
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// send puts a message where the next answer takes it from.
func (p *posts) send(m proto.Message) error {
	for {
		p.mu.Lock()
		if p.out.Len() == 0 || p.out.Len()+proto.Size(m) < maxAnswerBytes {
			_, err := protodelim.MarshalTo(&p.out, m)
			p.wakeLocked()
			p.mu.Unlock()
			return err
		}
		p.mu.Unlock()
		select {
		case <-p.room:
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
}

func (p *posts) wakeLocked() {
	close(p.news)
	p.news = make(chan struct{})
}

// end notes how the stream ended; what is left to fetch can still be fetched.
func (p *posts) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	p.ended, p.err = true, err
	p.cancel()
	p.wakeLocked()
}

// fetchNow takes what there is to say; news is closed when there is more.
func (p *posts) fetchNow() (answer []byte, ended bool, news <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.Len() > 0 {
		answer = bytes.Clone(p.out.Bytes())
		p.out.Reset()
		select {
		case p.room <- struct{}{}:
		default:
		}
	}
	return answer, p.ended, p.news, p.err
}

// fetch takes what there is to say, and waits for something until ctx ends.
func (p *posts) fetch(ctx context.Context) (answer []byte, ended bool, err error) {
	for {
		answer, ended, news, err := p.fetchNow()
		if len(answer) > 0 || ended || ctx.Err() != nil {
			return answer, ended, err
		}
		select {
		case <-news:
		case <-ctx.Done():
		}
	}
}

// enter and leave bracket a request; between requests a stream lives for a bounded time.
func (p *posts) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.present++
	p.seen = time.Now()
}

func (p *posts) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.present--
	p.seen = time.Now()
}

// forgotten reports whether nobody has asked for so long that the exporter must be gone.
func (p *posts) forgotten(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended && p.present == 0 && now.Sub(p.seen) > lingerAfterEnd || p.present == 0 && now.Sub(p.seen) > silence
}

// last returns the last part taken, took notes one. Whoever has the turn calls them.
func (p *posts) last() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.part
}

func (p *posts) took(part uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part = part
}

// flowsPosts and controlPosts give posts the types of the two streams.
type (
	flowsPosts struct {
		*posts
		recycle func(*bytes.Buffer)
	}
	controlPosts struct {
		*posts
		recycle func(*bytes.Buffer)
	}
)

// Recv implements carrier.
func (f flowsPosts) Recv() (*flowv1.FlowsRequest, error) {
	m := new(flowv1.FlowsRequest)
	return m, f.recv(m, f.recycle)
}

// Send implements carrier.
func (f flowsPosts) Send(m *flowv1.FlowsResponse) error { return f.send(m) }

// Recv implements carrier.
func (c controlPosts) Recv() (*flowv1.ControlRequest, error) {
	m := new(flowv1.ControlRequest)
	return m, c.recv(m, c.recycle)
}

// Send implements carrier.
func (c controlPosts) Send(m *flowv1.ControlResponse) error { return c.send(m) }
