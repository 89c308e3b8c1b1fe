package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flowv1"
)

// HTTPSConfig says how the streams go over HTTP/1.1.
type HTTPSConfig struct {
	URL   *url.URL                              // of the collector, or of a proxy before it; the paths v1/flows and v1/control are below it
	TLS   func() *tls.Config                    // asked for each stream; nil: the system's authorities
	Proxy func(*http.Request) (*url.URL, error) // nil: none
}

// The headers of docs/delivery.md.
const (
	streamHeader    = "Tributary-Stream"
	partHeader      = "Tributary-Part"
	collectorHeader = "Tributary-Collector"
	contentType     = "application/x-protobuf"
)

const (
	requestMost    = 60 * time.Second // a POST may wait 10 s for its turn, a GET 25 s for news
	busyPause      = time.Second
	pollAfter      = 200 * time.Millisecond // without a POST
	maxAnswerBytes = 1 << 20
)

// httpsConnection carries each stream as a sequence of POSTs, and long polls where there is nothing to send.
type httpsConnection struct {
	config *Config
}

func newHTTPS(c *Config) (*httpsConnection, error) {
	if c.HTTPS == nil {
		return nil, errors.New("https is not configured")
	}
	return &httpsConnection{c}, nil
}

// client makes a client of its own for each stream, so that each begins with the certificates of its moment.
func (h *httpsConnection) client() *http.Client {
	transport := &http.Transport{
		Proxy: h.config.HTTPS.Proxy, Protocols: new(http.Protocols), MaxIdleConnsPerHost: 2, IdleConnTimeout: 80 * time.Second,
		TLSHandshakeTimeout: retryMost, ExpectContinueTimeout: time.Second, MaxResponseHeaderBytes: 16 << 10, DisableCompression: true,
		WriteBufferSize: 32 << 10, DisableKeepAlives: h.plainProxy(),
	}
	transport.Protocols.SetHTTP1(true)
	if h.config.HTTPS.TLS != nil {
		transport.TLSClientConfig = h.config.HTTPS.TLS()
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// plainProxy says whether requests go to a proxy as they are. Each has a connection of its own then: some proxies (tinyproxy) close theirs after an answer
// without saying so, and a POST that meets the end of its connection ends its stream, because its answer may be lost.
func (h *httpsConnection) plainProxy() bool {
	c := h.config.HTTPS
	if c.Proxy == nil || c.URL.Scheme != "http" {
		return false
	}
	proxy, err := c.Proxy(&http.Request{URL: c.URL})
	return err == nil && proxy != nil
}

func (h *httpsConnection) open(ctx context.Context, kind string) *posts {
	var name [16]byte
	_, _ = rand.Read(name[:]) // never fails (crypto/rand)
	p := &posts{
		client: h.client(), url: h.config.HTTPS.URL.JoinPath("v1", kind).String(), name: hex.EncodeToString(name[:]),
		agent: "tributary-exporter/" + h.config.Version, answers: make(chan []byte, 1), idle: time.NewTimer(time.Hour),
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	context.AfterFunc(p.ctx, p.client.CloseIdleConnections)
	return p
}

func (h *httpsConnection) flows(ctx context.Context) (flowsStream, error) {
	p := h.open(ctx, string(streamFlows))
	go p.poll()
	return &flowsPosts{posts: p}, nil
}

// control needs no polls: a watermark goes out every second, and its answer brings what there is.
func (h *httpsConnection) control(ctx context.Context) (controlStream, error) {
	return &controlPosts{posts: h.open(ctx, string(streamControl))}, nil
}

func (h *httpsConnection) await(ctx context.Context, most time.Duration) { pause(ctx, most) }

func (h *httpsConnection) way() Way { return HTTPS }

func (h *httpsConnection) close() {}

// probe asks for a stream that there is not: the answer shows whose it is.
func (h *httpsConnection) probe(ctx context.Context) error {
	p := h.open(ctx, string(streamControl))
	defer p.cancel(nil)
	_, err := p.do(http.MethodGet, nil)
	var answered *answerError
	if errors.As(err, &answered) && answered.collector {
		return nil
	}
	return err
}

// posts is one stream.
type posts struct {
	client           *http.Client
	url, name, agent string
	ctx              context.Context
	cancel           context.CancelCauseFunc
	part             uint64
	body             []byte      // reused
	answers          chan []byte // has room for that to the hello, which is sent before anybody receives
	idle             *time.Timer // since the last POST
}

// answerError is an answer other than success.
type answerError struct {
	status    int
	text      string
	collector bool // it is a collector's, not a proxy's
}

// Error implements error.
func (e *answerError) Error() string {
	who := "a proxy"
	if e.collector {
		who = "the collector"
	}
	return fmt.Sprintf("%s answered %d: %s", who, e.status, e.text)
}

// send posts a message and hands its answer on. While the collector has no room the same part is sent again.
func (p *posts) send(m proto.Message) error {
	var err error
	if p.body, err = (proto.MarshalOptions{}).MarshalAppend(p.body[:0], m); err != nil {
		return err
	}
	p.part++
	for {
		answer, err := p.do(http.MethodPost, p.body)
		var busy *answerError
		if errors.As(err, &busy) && busy.status == http.StatusServiceUnavailable && busy.collector {
			pause(p.ctx, busyPause)
			continue
		}
		p.idle.Reset(pollAfter)
		if err != nil || !p.deliver(answer) {
			p.cancel(err)
			return io.EOF
		}
		return nil
	}
}

// deliver hands an answer to Recv.
func (p *posts) deliver(answer []byte) bool {
	if len(answer) == 0 {
		return true
	}
	select {
	case p.answers <- answer:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// poll asks for news while nothing is sent.
func (p *posts) poll() {
	for {
		select {
		case <-p.idle.C:
		case <-p.ctx.Done():
			return
		}
		answer, err := p.do(http.MethodGet, nil)
		if err != nil || !p.deliver(answer) {
			p.cancel(err)
			return
		}
		p.idle.Reset(pollAfter)
	}
}

func (p *posts) do(method string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(p.ctx, requestMost)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, p.url, nil)
	if err != nil {
		return nil, err
	}
	if body != nil {
		// No GetBody: a request whose answer was lost is not repeated behind our back.
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		r.Header.Set("Content-Type", contentType)
		r.Header.Set(partHeader, strconv.FormatUint(p.part, 10))
	}
	r.Header.Set(streamHeader, p.name)
	r.Header.Set("User-Agent", p.agent)
	answer, err := p.client.Do(r)
	if err != nil {
		return nil, plain(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes+1))
	ours := answer.Header.Get(collectorHeader) != ""
	switch {
	case answer.StatusCode != http.StatusOK || !ours:
		return nil, &answerError{answer.StatusCode, short(strings.TrimSpace(string(content))), ours}
	case err != nil:
		return nil, plain(err)
	case len(content) > maxAnswerBytes:
		return nil, fmt.Errorf("%w: an answer of more than %d bytes", errProtocol, maxAnswerBytes)
	}
	return content, nil
}

// plain leaves method and URL out of an error of net/http: the address is in the log line.
func plain(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		return outer.Err
	}
	return err
}

// inbox takes messages out of answers.
type inbox struct {
	rest *bufio.Reader
}

func (i *inbox) next(p *posts, m proto.Message) error {
	for {
		if i.rest != nil {
			err := protodelim.UnmarshalOptions{MaxSize: maxAnswerBytes}.UnmarshalFrom(i.rest, m)
			if err == nil {
				return nil
			}
			if !errors.Is(err, io.EOF) {
				return fmt.Errorf("%w: %w", errProtocol, err)
			}
			i.rest = nil
		}
		select {
		case answer := <-p.answers:
			i.rest = bufio.NewReader(bytes.NewReader(answer))
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
}

// flowsPosts and controlPosts give posts the types of the two streams.
type (
	flowsPosts struct {
		*posts
		inbox inbox
	}
	controlPosts struct {
		*posts
		inbox inbox
	}
)

// Send implements flowsStream.
func (f *flowsPosts) Send(m *flowv1.FlowsRequest) error { return f.send(m) }

// Recv implements flowsStream.
func (f *flowsPosts) Recv() (*flowv1.FlowsResponse, error) {
	m := new(flowv1.FlowsResponse)
	return m, f.inbox.next(f.posts, m)
}

// Send implements controlStream.
func (c *controlPosts) Send(m *flowv1.ControlRequest) error { return c.send(m) }

// Recv implements controlStream.
func (c *controlPosts) Recv() (*flowv1.ControlResponse, error) {
	m := new(flowv1.ControlResponse)
	return m, c.inbox.next(c.posts, m)
}
