package feed

import (
	"strconv"
	"testing"

	"tributary/proto/flowv1"
)

// While Kafka is away exporters come and go, each with an exporter_id of its own: what is held of them is bounded.
func TestOutboxIsBounded(t *testing.T) {
	var o outbox
	o.init(100)
	for i := range maxExporters + 100 {
		id := strconv.Itoa(i)
		o.mark(&flowv1.ExporterWatermark{ExporterId: id, VerifiedToNs: 1})
		o.step(id, "h", 1, &flowv1.OwnershipStep{Hello: true})
	}
	o.mark(&flowv1.ExporterWatermark{ExporterId: "7", VerifiedToNs: 2})
	p := &o.partitions[0]
	if len(p.marks) != maxExporters || len(p.missed) != maxExporters || p.marks["7"].GetVerifiedToNs() != 2 {
		t.Errorf("%d watermarks, %d misses, %v", len(p.marks), len(p.missed), p.marks["7"])
	}
}
