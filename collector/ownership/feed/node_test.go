package feed

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
)

const second = int64(time.Second)

// node is what of a collector concerns ownership.
type node struct {
	t     *testing.T
	table *ownership.Table
	book  *session.Book
	feed  *Feed
	reg   *prometheus.Registry
}

func start(t *testing.T, broker, topic, name string, change func(*Config)) *node {
	t.Helper()
	n := &node{t: t, table: ownership.New(ownership.Config{}), reg: prometheus.NewRegistry()}
	cfg := Config{Brokers: []string{broker}, Transport: &kafka.Transport{MetadataTTL: time.Second, MetadataTopics: []string{topic}}, Topic: topic, Node: name, Replicas: 1}
	if change != nil {
		change(&cfg)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	var err error
	if n.feed, err = New(cfg, n.table, n.reg, log); err != nil {
		t.Fatal(err)
	}
	if n.book, err = session.New(1000, n.table, n.feed); err != nil {
		t.Fatal(err)
	}
	n.feed.Start(n.book, func() {})
	t.Cleanup(n.stop)
	return n
}

func (n *node) stop() {
	if n.feed == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	n.feed.Stop(ctx)
	n.feed = nil
}

func (n *node) ready() *node {
	n.t.Helper()
	eventually(n.t, "ready", func() string {
		if err := n.feed.Ready(); err != nil {
			return err.Error()
		}
		return ""
	})
	return n
}

// eventually waits until problem returns "".
func eventually(t *testing.T, what string, problem func() string) {
	t.Helper()
	var last string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if last = problem(); last == "" {
			return
		}
	}
	t.Fatalf("not %s: %s", what, last)
}

func claim(last byte, workload string, from int64) *flowv1.Claim {
	a := [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: last}
	return &flowv1.Claim{Network: "n", Addr: a[:], Workload: workload, Instance: workload + "-1", FromNs: from}
}

type quiet struct{}

func (quiet) Claim(*flowv1.Claim, string) {}

func (quiet) Release(string) {}

func (n *node) speaks(exporter string, full bool, claims ...*flowv1.Claim) *session.Stream {
	n.t.Helper()
	now := time.Now().UnixNano()
	s, err := n.book.Open(&flowv1.Hello{ExporterId: exporter, Host: "h-" + exporter, ClockNs: now}, now, session.Peer{})
	if err != nil {
		n.t.Fatal(err)
	}
	if err := s.Ownership(&flowv1.Ownership{Full: full, Claims: claims}, now, quiet{}); err != nil {
		n.t.Fatal(err)
	}
	return s
}

func mark(t *testing.T, s *session.Stream) {
	t.Helper()
	now := time.Now().UnixNano()
	if err := s.Watermark(&flowv1.Watermark{VerifiedToNs: now, ClockNs: now}, now); err != nil {
		t.Fatal(err)
	}
}

func (n *node) owner(last byte, at int64) string {
	v := n.table.View(time.Now().UnixNano())
	a := v.Lookup(n.table.Network("n"), ownership.AddrFrom16((*[16]byte)(claim(last, "", 0).GetAddr())), 80, at, second/10)
	switch {
	case a.Owner != nil:
		return a.Owner.Workload
	case a.Wait:
		return "wait"
	}
	return a.Why.String()
}

func (n *node) named(last byte, at int64, want string) {
	n.t.Helper()
	eventually(n.t, want, func() string {
		if got := n.owner(last, at); got != want {
			return got
		}
		return ""
	})
}

func (n *node) counter(name string) (sum float64) {
	families, err := n.reg.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			id := f.GetName()
			for _, l := range m.GetLabel() {
				id += " " + l.GetValue()
			}
			if strings.HasSuffix(id, name) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
