package e2e

import (
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"

	"tributary/collector/sink/kafka"
	"tributary/deploy/world"
	"tributary/proto/flow"
)

const topic = "flows.v1"

// row is what a consumer keeps of a record; version decides between two of one key.
type row struct {
	version uint32
	edge    edgeKey
	sums    sums
	why     uint32
}

type rowKey struct {
	flowID    uint64
	recordSeq uint32
}

// checkKafka reads the whole topic as a consumer would, keeps the best version of each row of this world, and compares.
func (r *rig) checkKafka(truth world.Truth) {
	r.t.Helper()
	exporter := r.rows(`SELECT DISTINCT exporter_id FROM flows`)
	if len(exporter) != 1 {
		r.t.Fatalf("exporters %v, want one", exporter)
	}
	decoder, err := kafka.NewDecoder()
	if err != nil {
		r.t.Fatal(err)
	}
	rows, b, spaces := map[rowKey]row{}, new(flow.Batch), r.spaces()
	for _, value := range r.messages(topic) {
		if err := decoder.Decode(value, b); err != nil {
			r.t.Fatal(err)
		}
		if b.ExporterID == exporter[0][0] {
			keep(rows, b, r.world.Network(), spaces)
		}
	}
	got := map[edgeKey]sums{}
	for _, row := range rows {
		s := got[row.edge]
		s.connections, s.failures = s.connections+row.sums.connections, s.failures+row.sums.failures
		s.tx, s.rx = s.tx+row.sums.tx, s.rx+row.sums.rx
		got[row.edge] = s
	}
	if d := cmp.Diff(wantEdges(truth), got, cmp.AllowUnexported(sums{}, edgeKey{})); d != "" {
		r.t.Errorf("edges out of Kafka (-truth +kafka):\n%s", d)
	}
}

func keep(rows map[rowKey]row, b *flow.Batch, network string, spaces []string) {
	for i := range b.Rows {
		k := rowKey{b.Get64(flow.FlowID, i), b.Get32(flow.RecordSeq, i)}
		version := b.Get32(flow.Version, i)
		if b.Text(flow.Network, i) != network || !slices.Contains(spaces, b.Text(flow.Netns, i)) {
			continue
		}
		if old, ok := rows[k]; ok && old.version >= version {
			continue
		}
		seen := row{version: version, why: b.Get32(flow.RemoteWhy, i)}
		role := b.Get32(flow.Role, i)
		seen.edge = edgeKey{flow.RoleNames[role], b.Text(flow.LocalWorkload, i), b.Text(flow.RemoteWorkload, i), uint16(b.Get32(flow.LocalPort, i))}
		if role == flow.RoleClient {
			seen.edge.port = uint16(b.Get32(flow.RemotePort, i))
		}
		seen.sums = sums{failures: uint64(b.Get32(flow.Failures, i)), tx: b.Get64(flow.TxBytes, i), rx: b.Get64(flow.RxBytes, i)}
		if k.recordSeq == 0 {
			seen.sums.connections = uint64(b.Get32(flow.Connections, i))
		}
		rows[k] = seen
	}
}

// messages is everything in a topic now.
func (r *rig) messages(topic string) [][]byte {
	r.t.Helper()
	partitions, err := kafkago.LookupPartitions(r.ctx, "tcp", r.kafka, topic)
	if err != nil {
		r.t.Fatal(err)
	}
	var values [][]byte
	for _, p := range partitions {
		values = append(values, r.partition(topic, p.ID)...)
	}
	return values
}

func (r *rig) partition(topic string, id int) [][]byte {
	r.t.Helper()
	conn, err := kafkago.DialLeader(r.ctx, "tcp", r.kafka, topic, id)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	first, last, err := conn.ReadOffsets()
	if err != nil {
		r.t.Fatal(err)
	}
	if first == last {
		return nil
	}
	if _, err := conn.Seek(first, kafkago.SeekAbsolute); err != nil {
		r.t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(soon))
	var values [][]byte
	for first < last {
		batch := conn.ReadBatch(1, 64<<20)
		for {
			m, err := batch.ReadMessage()
			if err != nil {
				break // the end of what one request brings
			}
			values, first = append(values, m.Value), m.Offset+1
		}
		if err := batch.Close(); err != nil {
			r.t.Fatal(err)
		}
	}
	return values
}
