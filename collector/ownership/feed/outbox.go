package feed

import (
	"maps"
	"slices"
	"sync"

	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flowv1"
)

// maxExporters bounds the runs of exporters of which a partition holds a watermark or a miss: as many as the table has at once.
const maxExporters = 64 << 10

// outbox gathers what waits for Kafka, by partition: steps in order, watermarks only the latest. Before the partitions are known there is one.
type outbox struct {
	room int // bytes of steps, over all partitions

	mu         sync.Mutex
	bytes      int
	partitions []pending
	ids        []int
}

// pending is what waits for one partition.
type pending struct {
	order   []*changes
	changes map[string]*changes // the last of each exporter in order
	marks   map[string]*flowv1.ExporterWatermark
	missed  map[string]struct{} // exporters of which steps were given up: their whole sets are due
}

// changes are consecutive steps of one stream.
type changes struct {
	m     *flowv1.ExporterChanges
	bytes int
}

func newPending() pending {
	return pending{changes: map[string]*changes{}, marks: map[string]*flowv1.ExporterWatermark{}, missed: map[string]struct{}{}}
}

func (o *outbox) init(room int) {
	o.room, o.partitions, o.ids = room, []pending{newPending()}, []int{0}
}

// place spreads what waits over count partitions.
func (o *outbox) place(count int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	early := o.partitions[0]
	o.partitions, o.ids = make([]pending, count), make([]int, count)
	for i := range count {
		o.partitions[i], o.ids[i] = newPending(), i
	}
	for _, c := range early.order {
		p := o.of(c.m.GetExporterId())
		p.order = append(p.order, c)
		p.changes[c.m.GetExporterId()] = c
	}
	for id, w := range early.marks {
		o.of(id).marks[id] = w
	}
	for id := range early.missed {
		o.of(id).missed[id] = struct{}{}
	}
}

// of finds an exporter's partition, as Kafka's own clients would by its key. The caller holds the lock.
func (o *outbox) of(exporter string) *pending {
	return &o.partitions[kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: []byte(exporter)}, o.ids...)]
}

// step adds one step of an exporter's stream; false if there is no room: its whole set is due then.
func (o *outbox) step(exporter, host string, stream int64, step *flowv1.OwnershipStep) bool {
	size := proto.Size(step) + 64
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.of(exporter)
	if o.bytes+size > o.room {
		if len(p.missed) < maxExporters { // of others the whole set follows all the same, within RepeatEvery
			p.missed[exporter] = struct{}{}
		}
		return false
	}
	o.bytes += size
	c := p.changes[exporter]
	if c == nil || c.m.GetStream() != stream {
		c = &changes{m: &flowv1.ExporterChanges{ExporterId: exporter, Host: host, Stream: stream}}
		p.order = append(p.order, c)
		p.changes[exporter] = c
	}
	c.m.Steps = append(c.m.Steps, step)
	c.bytes += size
	return true
}

func (o *outbox) mark(w *flowv1.ExporterWatermark) {
	o.mu.Lock()
	defer o.mu.Unlock()
	marks := o.of(w.GetExporterId()).marks
	if _, known := marks[w.GetExporterId()]; known || len(marks) < maxExporters {
		marks[w.GetExporterId()] = w
	} // else Kafka has been away for long: another one follows in a second
}

// take empties a partition.
func (o *outbox) take(partition int) (order []*changes, marks []*flowv1.ExporterWatermark, missed []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := &o.partitions[partition]
	for _, c := range p.order {
		o.bytes -= c.bytes
	}
	for id := range p.missed { // a watermark vouches for the claims before it
		delete(p.marks, id)
	}
	order, marks, missed = p.order, slices.Collect(maps.Values(p.marks)), slices.Collect(maps.Keys(p.missed))
	*p = newPending()
	return order, marks, missed
}
