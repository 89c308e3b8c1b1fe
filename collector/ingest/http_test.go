package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
)

// startHTTP opens the HTTP side alone; bodies and headers must come within grace.
func startHTTP(t *testing.T, grace time.Duration) (*rig, string) {
	t.Helper()
	r := &rig{pipeline: new(pipeline), table: ownership.New(ownership.Config{}), registry: prometheus.NewRegistry()}
	book, err := session.New(1000, r.table, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.server, err = New(Config{CollectorID: "c1"}, book, r.pipeline, func() {}, r.registry, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	r.server.door.grace, r.server.door.server.ReadHeaderTimeout = grace, grace
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.server.ServeHTTP(l, nil) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		r.server.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r, l.Addr().String()
}

const streamA = "0123456789abcdef0123456789abcdef"

// ask sends one request and returns status and body.
func ask(t *testing.T, method, url string, part int, m proto.Message, change func(*http.Request)) (int, []byte) {
	t.Helper()
	var body []byte
	if m != nil {
		body, _ = proto.Marshal(m)
	}
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set(StreamHeader, streamA)
	r.Header.Set(PartHeader, fmt.Sprint(part))
	if change != nil {
		change(r)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, _ := io.ReadAll(answer.Body)
	if answer.Header.Get(CollectorHeader) != "c1" && answer.StatusCode != http.StatusMethodNotAllowed && answer.StatusCode != http.StatusNotFound {
		t.Errorf("%d without %s", answer.StatusCode, CollectorHeader)
	}
	return answer.StatusCode, content
}

func batchRequest(seq uint64) *flowv1.FlowsRequest {
	return &flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: batch("e1", seq, 3)}}
}

func helloRequest() *flowv1.FlowsRequest {
	h := hello("e1")
	h.Host = ""
	return &flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: h}}
}

// TestPosts repeats a part, as a proxy might: it is taken once, and its acknowledgement comes by long poll.
func TestPosts(t *testing.T) {
	r, address := startHTTP(t, 30*time.Second)
	url := "http://" + address + "/v1/flows"
	first := helloRequest()
	first.GetHello().Host = "h1"
	status, content := ask(t, "POST", url, 1, first, nil)
	var credit flowv1.FlowsResponse
	if err := protodelim.UnmarshalFrom(bytes.NewReader(content), &credit); err != nil || status != 200 || credit.GetCreditBytes() == 0 {
		t.Fatalf("%d %v %v", status, &credit, err)
	}
	m := batchRequest(1)
	m.GetBatch().Host = "h1"
	for range 2 {
		if status, content := ask(t, "POST", url, 2, m, nil); status != 200 {
			t.Fatalf("%d %s", status, content)
		}
	}
	r.server.Done(r.pipeline.wait(t, 1)[0])
	var acked bool
	for end := time.Now().Add(30 * time.Second); !acked && time.Now().Before(end); {
		_, content := ask(t, "GET", url, 0, nil, nil)
		for rest := bytes.NewReader(content); ; {
			var answer flowv1.FlowsResponse
			if protodelim.UnmarshalFrom(rest, &answer) != nil {
				break
			}
			acked = acked || len(answer.GetAcked()) == 1 && answer.GetAcked()[0].GetLast() == 1
		}
	}
	if !acked || len(r.pipeline.wait(t, 1)) != 1 {
		t.Errorf("acknowledged: %v, taken %d times", acked, len(r.pipeline.wait(t, 1)))
	}
	if n := testutil.ToFloat64(r.server.metrics.posts.WithLabelValues("repeated")); n != 1 {
		t.Errorf("%v repeated parts", n)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	_, address := startHTTP(t, 30*time.Second)
	for say, c := range map[string]struct {
		method, path string
		part, status int
		change       func(*http.Request)
	}{
		"Method Not Allowed":   {"PUT", "/v1/flows", 1, 405, nil},
		"not found":            {"POST", "/v2/flows", 1, 404, nil},
		"web pages":            {"POST", "/v1/flows", 1, 403, func(r *http.Request) { r.Header.Set("Origin", "http://x") }},
		"Content-Type must be": {"POST", "/v1/flows", 1, 415, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }},
		"a Content-Length":     {"POST", "/v1/flows", 1, 411, func(r *http.Request) { r.ContentLength, r.Body = -1, io.NopCloser(strings.NewReader("x")) }},
		"at most": {"POST", "/v1/flows", 1, 413, func(r *http.Request) {
			body, _ := io.Pipe() // nothing of it comes: the length is enough
			r.ContentLength, r.Body = maxMessageBytes+1, body
		}},
		PartHeader:                    {"POST", "/v1/flows", 0, 400, nil},
		StreamHeader:                  {"POST", "/v1/flows", 1, 400, func(r *http.Request) { r.Header.Set(StreamHeader, "x") }},
		"no such stream":              {"POST", "/v1/flows", 2, 404, nil},
		"no such stream on this node": {"GET", "/v1/control", 0, 404, nil},
		"no host":                     {"POST", "/v1/flows", 1, 400, nil},
		"not a message of this stream": {"POST", "/v1/control", 1, 400, func(r *http.Request) {
			r.ContentLength, r.Body = 3, io.NopCloser(strings.NewReader("\xff\xff\xff"))
		}},
	} {
		name := fmt.Sprintf("%032x", len(say))
		status, content := ask(t, c.method, "http://"+address+c.path, c.part, helloRequest(), func(r *http.Request) {
			r.Header.Set(StreamHeader, name)
			if c.change != nil {
				c.change(r)
			}
		})
		if status != c.status || !strings.Contains(string(content), say) {
			t.Errorf("%s: %d %s", say, status, content)
		}
	}
}

// TestSlowAndIdleConnections lets a POST trickle and a thousand connections say nothing: they are cut off, and the others are served.
func TestSlowAndIdleConnections(t *testing.T) {
	r, address := startHTTP(t, 2*time.Second) // far above what others need, on a busy machine too
	var idle []net.Conn
	for range 1000 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
	}
	trickle, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer trickle.Close()
	fmt.Fprintf(trickle, "POST /v1/flows HTTP/1.1\r\nHost: c\r\nContent-Type: %s\r\n%s: %032x\r\n%s: 1\r\nContent-Length: 1000\r\n\r\n", contentType, StreamHeader, 7, PartHeader)
	go func() {
		for {
			if _, err := trickle.Write([]byte{1}); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	first := helloRequest()
	first.GetHello().Host = "h1"
	if status, content := ask(t, "POST", "http://"+address+"/v1/flows", 1, first, nil); status != 200 {
		t.Errorf("others are not served: %d %s", status, content)
	}
	trickle.SetReadDeadline(time.Now().Add(30 * time.Second))
	answer, _ := io.ReadAll(trickle)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 408") {
		t.Errorf("the trickle got %q", answer)
	}
	for _, conn := range idle {
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("an idle connection was left: %v", err)
		}
	}
	if n := testutil.ToFloat64(r.server.metrics.posts.WithLabelValues("slow")); n != 1 {
		t.Errorf("%v slow requests", n)
	}
}
