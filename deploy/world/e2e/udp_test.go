package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"tributary/deploy/dev/ports"
)

// TestUDP: batches go by datagram where that was asked for; the rows are stored under the exporter's name, and its books and the ledger say what nobody
// acknowledged. What it has sent is told before it stops.
func TestUDP(t *testing.T) {
	r := bareRig(t, false)
	udp := ports.Address(t)
	r.collectorArgs = []string{"--udp-listen", udp}
	r.startCollector()
	r.startExporter("--transports", "udp,grpc", "--collector-udp", udp)
	const inUse = `tributary_exporter_transport_in_use{transport="udp"}`
	r.until("the exporter uses UDP, and the batch that was open before is sealed: it may be too large for a datagram", func() bool {
		now := r.sample(r.exporterMetrics)
		return now[inUse] == 1 && now["tributary_exporter_batch_open_rows"] == 0
	})
	r.plainTraffic()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"client", "server"} {
		r.waitFor(plainConnections, soon, fmt.Sprintf(`SELECT count() FROM flows WHERE role = '%[2]s' AND local_workload = '%[1]s/plain-%[2]s'
			AND host = '%[1]s' AND boot_id != '' AND remote_workload != ''`, name, role))
	}
	r.checkBooks()
	r.exporter.end(t)
	r.exporter = nil
	r.waitFor(1, soon, `SELECT count() FROM (SELECT max(counters['udp.delivered_unconfirmed_rows']) AS sent, max(counters['udp.stored_rows']) AS stored,
		max(counters['udp.lost_rows_never_came'] + counters['udp.lost_rows_dropped']) AS lost, max(counters['spool.appended_rows']) AS spooled
		FROM exporter_health HAVING sent >= 40 AND stored = sent AND lost = 0 AND sent + spooled = (SELECT count() FROM flows))`)
	r.waitFor(0, 5*time.Second, `SELECT count() FROM completeness WHERE complete < 1`)
}
