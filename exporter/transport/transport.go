package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"tributary/exporter/clock"
	"tributary/proto/flowv1"
	"tributary/service/log"
	"tributary/service/spool"
)

// Config says where the collector is and who speaks.
type Config struct {
	Address     string                           // HOST:PORT of the collector
	Credentials credentials.TransportCredentials // required; insecure.NewCredentials() for plain text
	Spool       *spool.Spool                     // keeps the batches; required
	HTTPS       *HTTPSConfig                     // required where HTTPS is in Order
	Datagrams   *DatagramConfig                  // required where UDP is in Order
	Order       []Way                            // best first; nil: gRPC alone. UDP is first or not at all, and the streams beside it are on the rest
	ProbeEvery  time.Duration                    // how often better ways than the present one are probed; 0: 10 min
	// Dial opens a gRPC connection to the address. nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	ExporterID string
	Host       string
	BootID     string
	Version    string

	Claims Claims // required
	// Listeners returns what is listened on and what changes in it, until ctx ends; the channel is closed for a reader that is too slow.
	// nil: there are none.
	Listeners func(ctx context.Context) (all []*flowv1.Listener, changes <-chan []*flowv1.Listener)
	// Counters returns the exporter's cumulative counters for Health messages. Required.
	Counters func() []*flowv1.Counter
	// Settings applies what the collector asks for and says what came of it. nil: nothing is applied.
	Settings func(*flowv1.Settings) *flowv1.Applied
}

const (
	// windowBytes is the flow-control window of each stream and half of the connection's: fixed, because grown windows held
	// 7.5 MB a blocked stream.
	windowBytes  = 512 << 10
	maxRecvBytes = 256 << 10 // responses are small

	probeEvery = 10 * time.Minute

	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
	steady     = 5 * time.Second // a stream that lived so long was a success: the next retry is a first one

	// helloMost is how long a collector may take for its first word: behind a proxy that holds answers back it never comes.
	helloMost = 20 * time.Second
	drainMost = 10 * time.Second // how long acknowledgements are awaited on a stream that drains

	settleEvery = 50 * time.Millisecond
)

// Transport is the exporter's side of the wire. Its methods are safe for concurrent use.
type Transport struct {
	config     Config
	window     *window
	link       *link
	route      *route
	books      *books
	refusals   *refusals
	datagrams  *datagrams
	log        *slog.Logger
	storeEpoch string // of the last welcome; the Control stream's reader alone has it

	applied atomic.Pointer[flowv1.Applied] // not told yet
	lastAdd atomic.Uint64                  // when the last batch came for the spool, by clock.Boot: the wall clock may be set

	healthNow atomic.Bool // the counters are to be told at the next tick

	lastStream atomic.Int64 // the number of the newest Control stream
}

// New returns a transport that hands batches to the spool but sends nothing until Run.
func New(config Config, registerer prometheus.Registerer, logger *slog.Logger) (*Transport, error) {
	logger = log.Limited(logger.With(log.Component, "transport"), 10*time.Second)
	if len(config.Order) == 0 {
		config.Order = []Way{GRPC}
	}
	if config.ProbeEvery <= 0 {
		config.ProbeEvery = probeEvery
	}
	if err := config.checkOrder(config.Order); err != nil {
		return nil, err
	}
	t := &Transport{config: config, window: newWindow(config.ExporterID), books: newBooks(), log: logger}
	order, udp := streams(config.Order)
	t.link, t.route = newLink(logger), newRoute(order, logger)
	t.datagrams = newDatagrams(&t.config, t.route, logger)
	t.datagrams.want(udp)
	var err error
	if t.refusals, err = newRefusals(logger); err != nil {
		return nil, err
	}
	if err := registerer.Register(&collector{t}); err != nil {
		return nil, fmt.Errorf("register the transport's metrics: %w", err)
	}
	return t, nil
}

// checkOrder refuses ways that there are not, and those that are not configured.
func (c *Config) checkOrder(order []Way) error {
	if len(order) == 0 {
		return errors.New("the order of transports is empty")
	}
	for i, way := range order {
		switch {
		case !slices.Contains(Ways(), way):
			return fmt.Errorf("transport %.32q is not grpc, https or udp", way)
		case slices.Contains(order[:i], way):
			return fmt.Errorf("transport %q is named twice", way)
		case way == HTTPS && c.HTTPS == nil:
			return errors.New("transport https has no URL")
		case way == UDP && c.Datagrams == nil:
			return errors.New("transport udp has no address")
		case way == UDP && i > 0:
			return errors.New("transport udp is first or not at all: nothing falls back to it")
		}
	}
	return nil
}

// Destination is where a way leads, for people.
func (c *Config) Destination(way Way) string {
	switch way {
	case HTTPS:
		return c.HTTPS.URL.Redacted()
	case UDP:
		return c.Datagrams.Address
	default:
		return c.Address
	}
}

// Add takes a sealed batch over: it goes out by UDP where that is in use and it fits, and is nobody's any more; else the spool keeps its bytes from
// here on. Batches come in the order of batch_seq.
func (t *Transport) Add(b *flowv1.Batch) {
	if t.datagrams.send(b) {
		return
	}
	t.lastAdd.Store(clock.Boot())
	body, err := proto.Marshal(b)
	if err != nil {
		body = nil // the spool counts what it cannot keep
		t.log.Error("a batch cannot be encoded", "batch_seq", b.GetBatchSeq(), "error", err)
	}
	t.config.Spool.Append(b.GetBatchSeq(), b.GetRows(), body)
}

// BatchMost is how many bytes the payload of the next batch should have at most, so that it fits into a datagram; 0: as many as it likes.
func (t *Transport) BatchMost() int {
	live, most := t.datagrams.inUse()
	if !live {
		return 0
	}
	return most
}

// Stats returns the books of this moment.
func (t *Transport) Stats() Stats { return t.window.snapshot() }

// Datagrams returns the books of what went by UDP.
func (t *Transport) Datagrams() DatagramStats { return t.datagrams.stats() }

// Settle waits until the collector has told what became of all that went by UDP, and has heard the counters after that, or ctx ends.
func (t *Transport) Settle(ctx context.Context) {
	if t.datagrams.stats().Sent == 0 {
		return
	}
	t.datagrams.drain()
	t.wait(ctx, t.datagrams.settled)
	t.healthNow.Store(true)
	t.wait(ctx, func() bool { return !t.healthNow.Load() })
}

// wait returns when something is so, or ctx ends.
func (t *Transport) wait(ctx context.Context, so func() bool) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Connected reports whether a collector has answered on the present connection, and whether one ever did.
func (t *Transport) Connected() (now, ever bool) { return t.link.state() }

// errDrained ends a session whose collector asked for it.
var errDrained = errors.New("the collector asked to connect again")

// Run keeps both streams open until ctx ends. Call it once.
func (t *Transport) Run(ctx context.Context) error {
	var wait retry
	defer t.datagrams.close()
	for ctx.Err() == nil {
		began := time.Now()
		if err := t.session(ctx); err != nil && !errors.Is(err, errDrained) && ctx.Err() == nil {
			return err
		}
		pause(ctx, wait.next(time.Since(began) >= steady))
	}
	return nil
}

// session is the life of one connection: until ctx ends, the collector drains it, or another way is gone.
func (t *Transport) session(ctx context.Context) error {
	conn, err := t.config.connect(t.route.now())
	if err != nil {
		return err
	}
	defer conn.close()
	ctx, cancel := context.WithCancel(ctx)
	var others sync.WaitGroup
	others.Go(func() {
		t.keep(ctx, conn, streamControl, func(ctx context.Context) error { return t.control(ctx, conn) })
		cancel()
	})
	others.Go(func() { t.lookForBetter(ctx) })
	t.keep(ctx, conn, streamFlows, func(ctx context.Context) error { return t.flows(ctx, conn) })
	cancel()
	others.Wait()
	return errDrained
}

// lookForBetter probes the ways that come before the present one; when one works, the session is drained.
func (t *Transport) lookForBetter(ctx context.Context) {
	for ctx.Err() == nil {
		timer := time.NewTimer(t.route.probeIn(t.config.ProbeEvery))
		select {
		case <-timer.C:
		case <-t.route.wake: // the order has changed
		case <-ctx.Done():
		}
		timer.Stop()
		for _, way := range t.route.before() {
			if t.config.Probe(ctx, way) == nil && ctx.Err() == nil && t.route.prefer(way) {
				t.window.turn()
				return
			}
		}
	}
}

// Reorder changes the ways that are tried, best first. The present streams are drained if that changes the way.
func (t *Transport) Reorder(order []Way) error {
	if err := t.config.checkOrder(order); err != nil {
		return err
	}
	order, udp := streams(order)
	t.datagrams.want(udp)
	if t.route.reorder(order) {
		t.window.turn()
	}
	return nil
}

// Way returns the present way of batches to the collector.
func (t *Transport) Way() Way {
	if live, _ := t.datagrams.inUse(); live {
		return UDP
	}
	return t.route.now()
}

// keep opens a stream again and again, until ctx ends, the collector drains it, or another way is gone.
func (t *Transport) keep(ctx context.Context, conn connection, name streamName, open func(context.Context) error) {
	var wait retry
	for t.route.now() == conn.way() {
		began, answers := time.Now(), t.link.answers(name)
		err := open(ctx)
		t.link.down(name)
		if ctx.Err() != nil || errors.Is(err, errDrained) {
			return
		}
		senseless := errors.Is(err, errProtocol)
		if senseless {
			t.books.protocolErrors.Add(1)
		}
		t.books.restarts[name].Add(1)
		t.link.lost(name, err, t.where(), t.config.Spool.Stats().Pending.Batches)
		answered := t.link.answers(name) > answers
		if !answered && t.route.lost(name, err) {
			return
		}
		// Whoever cuts streams that work must not make us wait longer and longer; whose answers make no sense must not get all that is pending ten times a second.
		conn.await(ctx, wait.next(answered && !senseless || time.Since(began) >= steady))
	}
}

func (t *Transport) hello() *flowv1.Hello {
	return &flowv1.Hello{
		ExporterId: t.config.ExporterID, Host: t.config.Host, BootId: t.config.BootID, Version: t.config.Version,
		ClockNs: time.Now().UnixNano(),
	}
}
