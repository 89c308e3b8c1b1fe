package transport

import (
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"tributary/proto/flowv1"
)

func TestRejectedBatchesLeaveAndMetricsTell(t *testing.T) {
	c := &fakeCollector{}
	c.flows = func(_ int, stream flowv1.Collector_FlowsServer) error {
		for {
			b, err := c.take(stream)
			if err != nil {
				return err
			}
			answer := ack(1, 1)
			if b.BatchSeq == 2 {
				answer = &flowv1.FlowsResponse{Rejected: []*flowv1.Rejected{{BatchSeq: 2, Reason: "malformed"}}}
			}
			if b.BatchSeq <= 2 {
				if err := stream.Send(answer); err != nil {
					return err
				}
			}
		}
	}
	c.serve(t, "")
	verified := true
	claims := &fakeClaims{verified: func(now int64) int64 { // once, however long this takes
		if !verified {
			return 0
		}
		verified = false
		return now
	}}
	r := run(t, c.address, func(config *Config) { config.Claims = claims })
	for seq := range uint64(4) {
		r.Add(batch(seq+1, 100))
	}
	eventually(t, "two are settled", func() bool { return r.spool.Stats().Pending.Batches == 2 && r.Stats().Sent.Batches == 4 })
	eventually(t, "the rejection is said", func() bool { return r.log.count("quarantine") == 1 })
	eventually(t, "the watermark is sent", func() bool { return r.books.watermarks.Load() == 1 })
	r.stop()
	if s := r.spool.Stats(); s.Acked.Rows != 10 || s.Rejected.Rows != 10 || s.UnderWay != 2 {
		t.Errorf("books: %+v", s)
	}
	want := `
# TYPE tributary_exporter_transport_drains_total counter
tributary_exporter_transport_drains_total 0
# TYPE tributary_exporter_transport_in_use gauge
tributary_exporter_transport_in_use{transport="grpc"} 1
tributary_exporter_transport_in_use{transport="https"} 0
tributary_exporter_transport_in_use{transport="udp"} 0
# TYPE tributary_exporter_transport_switches_total counter
tributary_exporter_transport_switches_total{reason="alpn"} 0
tributary_exporter_transport_switches_total{reason="drained"} 0
tributary_exporter_transport_switches_total{reason="lossy"} 0
tributary_exporter_transport_switches_total{reason="preferred"} 0
tributary_exporter_transport_switches_total{reason="reordered"} 0
tributary_exporter_transport_switches_total{reason="unreachable"} 0
# TYPE tributary_exporter_transport_protocol_errors_total counter
tributary_exporter_transport_protocol_errors_total 0
# TYPE tributary_exporter_transport_store_epochs_total counter
tributary_exporter_transport_store_epochs_total 0
# TYPE tributary_exporter_transport_resent_batches_total counter
tributary_exporter_transport_resent_batches_total 0
# TYPE tributary_exporter_transport_sent_batches_total counter
tributary_exporter_transport_sent_batches_total 4
# TYPE tributary_exporter_transport_sent_bytes_total counter
tributary_exporter_transport_sent_bytes_total SENT
# TYPE tributary_exporter_transport_stream_ends_total counter
tributary_exporter_transport_stream_ends_total{stream="control"} 0
tributary_exporter_transport_stream_ends_total{stream="flows"} 0
# TYPE tributary_exporter_transport_stream_up gauge
tributary_exporter_transport_stream_up{stream="control"} 0
tributary_exporter_transport_stream_up{stream="flows"} 0
# TYPE tributary_exporter_transport_claims_total counter
tributary_exporter_transport_claims_total 0
# TYPE tributary_exporter_transport_listeners_total counter
tributary_exporter_transport_listeners_total 0
# TYPE tributary_exporter_transport_releases_total counter
tributary_exporter_transport_releases_total 0
# TYPE tributary_exporter_transport_watermarks_total counter
tributary_exporter_transport_watermarks_total 1
# TYPE tributary_exporter_transport_refusals_total counter
tributary_exporter_transport_refusals_total 0
# TYPE tributary_exporter_transport_datagrams_total counter
tributary_exporter_transport_datagrams_total 0
# TYPE tributary_exporter_transport_datagrams_never_came_total counter
tributary_exporter_transport_datagrams_never_came_total 0
# TYPE tributary_exporter_transport_delivered_unconfirmed_rows_total counter
tributary_exporter_transport_delivered_unconfirmed_rows_total 0
# TYPE tributary_exporter_transport_datagram_rows_total counter
tributary_exporter_transport_datagram_rows_total{outcome="dropped"} 0
tributary_exporter_transport_datagram_rows_total{outcome="never_came"} 0
tributary_exporter_transport_datagram_rows_total{outcome="stored"} 0
# TYPE tributary_exporter_transport_unconfirmed_rows gauge
tributary_exporter_transport_unconfirmed_rows 0
# TYPE tributary_exporter_transport_datagram_refused_batches_total counter
tributary_exporter_transport_datagram_refused_batches_total{reason="too_large"} 0
tributary_exporter_transport_datagram_refused_batches_total{reason="write_error"} 0
`
	want = strings.Replace(want, "SENT", strconv.Itoa(4*len(wire(t, batch(1, 100)))), 1)
	var help strings.Builder
	for line := range strings.Lines(want) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			help.WriteString("# HELP " + name + " " + helpOf(t, r, name) + "\n")
		}
		help.WriteString(line)
	}
	if err := testutil.GatherAndCompare(r.registry, strings.NewReader(help.String())); err != nil {
		t.Error(err)
	}
}

// helpOf reads a metric's help text, which the comparison above is not about.
func helpOf(t *testing.T, r *running, name string) string {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetHelp()
		}
	}
	t.Errorf("there is no metric %s", name)
	return ""
}
