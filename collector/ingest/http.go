package ingest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The headers of the streams over HTTP; see docs/delivery.md.
const (
	StreamHeader    = "Tributary-Stream"    // the stream's name: 32 hex digits, chosen at random by the exporter
	PartHeader      = "Tributary-Part"      // of a POST: counts up from 1, which opens the stream
	CollectorHeader = "Tributary-Collector" // of every answer: that it is a collector's, not a proxy's
	contentType     = "application/x-protobuf"
)

const (
	maxPostStreams  = 8192
	turnWait        = 10 * time.Second // how long a POST waits for its turn
	bodyGrace       = 10 * time.Second // a body arrives within this, and bodyRate beyond it
	bodyRate        = 16 << 10         // bytes a second
	answerTimeout   = 30 * time.Second
	pollWait        = 25 * time.Second // how long a GET waits for news
	helloWait       = 2 * time.Second  // how long the first POST waits for an answer
	silence         = 45 * time.Second // a stream whose exporter has not asked for so long ends
	lingerAfterEnd  = 5 * time.Second  // how long it is remembered why it ended
	sweepEvery      = time.Second
	stopWait        = 200 * time.Millisecond // for answers under way, at the end
	headerTimeout   = 10 * time.Second
	idleTimeout     = 90 * time.Second
	maxHeaderBytes  = 16 << 10
	reuseBodyAtMost = 256 << 10
)

// door is the front door's HTTP side: the streams of gRPC, each as a sequence of POSTs.
type door struct {
	s      *Server
	ctx    context.Context // of all streams
	cancel context.CancelFunc
	server *http.Server
	bodies sync.Pool
	grace  time.Duration // bodyGrace

	mu      sync.Mutex
	streams map[string]*posts
	running sync.WaitGroup
}

func newDoor(s *Server) *door {
	d := &door{s: s, grace: bodyGrace, streams: make(map[string]*posts)}
	d.bodies.New = func() any { return new(bytes.Buffer) }
	d.ctx, d.cancel = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	for _, kind := range []string{"flows", "control"} {
		mux.HandleFunc("POST /v1/"+kind, func(w http.ResponseWriter, r *http.Request) { d.answer(w, r, kind, d.post) })
		mux.HandleFunc("GET /v1/"+kind, func(w http.ResponseWriter, r *http.Request) { d.answer(w, r, kind, d.poll) })
	}
	d.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return d
}

// ServeHTTP answers HTTP/1.1 on the listener until Stop, with TLS if there is a configuration: HTTP/2 would cost more and bring nothing.
func (s *Server) ServeHTTP(l net.Listener, config *tls.Config) error {
	l = s.limit(l, "https")
	if config != nil {
		l = tls.NewListener(l, onlyHTTP1(config))
	}
	sweeping := make(chan struct{})
	go func() {
		defer close(sweeping)
		s.door.sweep()
	}()
	err := s.door.server.Serve(l)
	s.door.cancel()
	<-sweeping
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// onlyHTTP1 changes what a configuration offers, that of each handshake included.
func onlyHTTP1(config *tls.Config) *tls.Config {
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	if now := config.GetConfigForClient; now != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := now(hello)
			if c != nil {
				c = onlyHTTP1(c)
			}
			return c, err
		}
	}
	return config
}

// sweep ends streams that nobody asks for any more.
func (d *door) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case now := <-tick.C:
			d.mu.Lock()
			for key, p := range d.streams {
				if p.forgotten(now) {
					p.cancel()
					delete(d.streams, key)
				}
			}
			d.mu.Unlock()
		}
	}
}

// stop ends every stream when ctx ends, and the server when what is under way is answered.
func (d *door) stop(ctx context.Context) {
	if d.open() > 0 {
		<-ctx.Done() // the last acknowledgements are being fetched
	}
	d.cancel()
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait)
	defer cancel()
	if d.server.Shutdown(short) != nil {
		_ = d.server.Close() // connections that are cut cannot be helped
	}
	d.running.Wait()
}

func (d *door) open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.streams)
}

// refusal is an answer other than success.
type refusal struct {
	code   int
	result string // of the metric
	text   string
}

// Error implements error.
func (r *refusal) Error() string { return r.text }

// answer does what both methods have in common.
func (d *door) answer(w http.ResponseWriter, r *http.Request, kind string, do func(http.ResponseWriter, *http.Request, string) ([]byte, error)) {
	w.Header().Set(CollectorHeader, d.s.cfg.CollectorID)
	control := http.NewResponseController(w)
	answer, err := do(w, r, kind)
	_ = control.SetWriteDeadline(time.Now().Add(answerTimeout)) // on a dead connection the write below fails anyway
	var refused *refusal
	if errors.As(err, &refused) {
		d.s.metrics.posts.WithLabelValues(refused.result).Inc()
		if refused.code == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, refused.text, refused.code)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // whoever does not get it opens another stream
}

// post takes one message of a stream and answers with what there is to say.
func (d *door) post(w http.ResponseWriter, r *http.Request, kind string) ([]byte, error) {
	if err := checkPost(r); err != nil {
		return nil, err
	}
	part, err := strconv.ParseUint(r.Header.Get(PartHeader), 10, 64)
	if err != nil || part == 0 {
		return nil, &refusal{http.StatusBadRequest, "refused", PartHeader + " must be a number from 1"}
	}
	p, err := d.stream(r, kind, part == 1)
	if err != nil {
		return nil, err
	}
	p.enter()
	defer p.leave()
	if err := d.take(w, r, p, part); err != nil {
		return nil, err
	}
	answer, ended, _, err := p.fetchNow()
	if part == 1 && len(answer) == 0 && !ended {
		wait, cancel := context.WithTimeout(r.Context(), helloWait)
		defer cancel()
		answer, ended, err = p.fetch(wait)
	}
	if ended && (err != nil || len(answer) == 0) {
		return nil, endOf(err)
	}
	return answer, nil
}

// checkPost refuses what is no message of an exporter before anything of its body is read.
func checkPost(r *http.Request) error {
	switch {
	case r.Header.Get("Origin") != "":
		return &refusal{http.StatusForbidden, "refused", "requests of web pages are not answered"}
	case r.Header.Get("Content-Type") != contentType:
		return &refusal{http.StatusUnsupportedMediaType, "refused", "the Content-Type must be " + contentType}
	case r.ContentLength < 0:
		return &refusal{http.StatusLengthRequired, "refused", "a Content-Length is required"}
	case r.ContentLength > maxMessageBytes:
		return &refusal{http.StatusRequestEntityTooLarge, "refused", fmt.Sprintf("a message has at most %d bytes", maxMessageBytes)}
	}
	return nil
}

// take waits for the stream's turn, reads the message and hands it over. A part that was taken before is not taken again.
func (d *door) take(w http.ResponseWriter, r *http.Request, p *posts, part uint64) error {
	if ours, err := p.wait(r.Context()); err != nil || !ours {
		return err
	}
	handed := false
	defer func() {
		if !handed {
			<-p.turn
		}
	}()
	last := p.last()
	if part <= last {
		d.s.metrics.posts.WithLabelValues("repeated").Inc()
		return nil
	}
	if part != last+1 {
		return &refusal{http.StatusConflict, "refused", fmt.Sprintf("part %d came after part %d", part, last)}
	}
	body := d.bodies.Get().(*bytes.Buffer)
	if err := d.read(w, r, body); err != nil {
		d.recycle(body)
		return err
	}
	p.took(part)
	handed = true
	p.in <- body // has room: it is our turn
	d.s.metrics.posts.WithLabelValues("taken").Inc()
	return nil
}

// wait waits for the stream's turn; false: the stream has ended, and fetch knows how.
func (p *posts) wait(request context.Context) (bool, error) {
	select {
	case p.turn <- struct{}{}:
		return true, nil
	default:
	}
	most := time.NewTimer(turnWait)
	defer most.Stop()
	select {
	case p.turn <- struct{}{}:
		return true, nil
	case <-p.ctx.Done():
		return false, nil
	case <-request.Done():
		return false, &refusal{http.StatusBadRequest, "refused", "the client went away"}
	case <-most.C:
		return false, &refusal{http.StatusServiceUnavailable, "busy", "the collector has no room yet: send this part again"}
	}
}

// read reads a body, and bounds how long that may take.
func (d *door) read(w http.ResponseWriter, r *http.Request, body *bytes.Buffer) error {
	control := http.NewResponseController(w)
	most := d.grace + time.Duration(r.ContentLength)*time.Second/bodyRate
	if err := control.SetReadDeadline(time.Now().Add(most)); err != nil {
		return &refusal{http.StatusInternalServerError, "refused", "the connection cannot be bounded in time"}
	}
	body.Grow(int(min(r.ContentLength, reuseBodyAtMost)) + bytes.MinRead) // the rest as it comes: lengths are easily claimed
	_, err := body.ReadFrom(r.Body)                                       // bounded by the Content-Length that was checked
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return &refusal{http.StatusRequestTimeout, "slow", "the message came too slowly"}
	case err != nil:
		return &refusal{http.StatusBadRequest, "refused", "the message is cut off"}
	}
	_ = control.SetReadDeadline(time.Time{}) // it was settable above
	return nil
}

func (d *door) recycle(body *bytes.Buffer) {
	body.Reset()
	if body.Cap() <= reuseBodyAtMost {
		d.bodies.Put(body)
	}
}

// poll waits for news of a stream.
func (d *door) poll(_ http.ResponseWriter, r *http.Request, kind string) ([]byte, error) {
	p, err := d.stream(r, kind, false)
	if err != nil {
		return nil, err
	}
	p.enter()
	defer p.leave()
	wait, cancel := context.WithTimeout(r.Context(), pollWait)
	defer cancel()
	answer, ended, err := p.fetch(wait)
	if ended && len(answer) == 0 {
		return nil, endOf(err)
	}
	d.s.metrics.posts.WithLabelValues("polled").Inc()
	return answer, nil
}

// endOf says why a stream ended.
func endOf(err error) error {
	if err == nil {
		return &refusal{http.StatusGone, "ended", "the stream has ended"}
	}
	code := http.StatusInternalServerError
	switch status.Code(err) {
	case codes.InvalidArgument:
		code = http.StatusBadRequest
	case codes.Aborted:
		code = http.StatusConflict
	case codes.ResourceExhausted:
		code = http.StatusTooManyRequests
	case codes.PermissionDenied, codes.Unauthenticated:
		code = http.StatusForbidden
	case codes.Canceled, codes.Unavailable, codes.Unknown:
		code = http.StatusGone
	}
	return &refusal{code, "ended", status.Convert(err).Message()}
}
