package spool

import "github.com/prometheus/client_golang/prometheus"

// collector shows the books of one moment, so that they balance in every scrape.
type collector struct {
	s     *Spool
	descs descs
}

// descs are the metrics under the names of their owner.
type descs struct {
	taken, acked, rejected, dropped, rolledUp, pending, memory, batches,
	pendingB, memoryB, disk, segments, oldest, oK, damaged,
	damagedB, foreign, quarantine, errors, slow, syncs *prometheus.Desc
}

func newDescs(prefix string) descs {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+"_"+name, help, labels, nil)
	}
	return descs{
		taken:      describe("taken_rows_total", "Rows of batches sealed by this run, recovered: found on disk, left by earlier runs, and recalled: acknowledged, and sent again because the store may have forgotten, rollup: made of rows that were rolled up. Sum = acked + rejected + dropped + rolled up + pending.", "source"),
		acked:      describe("acked_rows_total", "Rows that every required sink has."),
		rejected:   describe("rejected_rows_total", "Rows of batches that the collector will never accept."),
		dropped:    describe("dropped_rows_total", "Rows lost, by reason.", "reason"),
		rolledUp:   describe("rolled_up_rows_total", "Rows summed up into rollups because the spool was full."),
		pending:    describe("pending_rows", "Rows that are not yet acknowledged."),
		memory:     describe("memory_rows", "Rows that are not yet acknowledged and not on disk."),
		batches:    describe("batches_total", "Batches by what became of them.", "outcome"),
		pendingB:   describe("pending_batches", "Batches that are not yet acknowledged."),
		memoryB:    describe("memory_bytes", "Memory of the batches that are not on disk."),
		disk:       describe("disk_bytes", "Size of all segments."),
		segments:   describe("segments", "Segment files."),
		oldest:     describe("oldest_pending_seconds", "Age of the oldest batch that is not yet acknowledged."),
		oK:         describe("disk_ok", "1 while batches go to disk, 0 while they are kept in memory only."),
		damaged:    describe("damaged_parts_total", "Places on disk without a readable record, rows unknown, by reason.", "reason"),
		damagedB:   describe("damaged_bytes_total", "Bytes of everything damaged or torn."),
		foreign:    describe("strange_files_total", "Files in the directory that are not ours to send, by what they are.", "state"),
		quarantine: describe("quarantined_batches_total", "Rejected batches by whether a copy was kept.", "result"),
		errors:     describe("disk_errors_total", "Operations of the disk that failed."),
		slow:       describe("slow_writes_total", "Times a batch did not wait any longer for the disk."),
		syncs:      describe("syncs_total", "Times written batches were synced to the disk."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	d := &c.descs
	for _, desc := range []*prometheus.Desc{
		d.taken, d.acked, d.rejected, d.dropped, d.rolledUp, d.pending, d.memory, d.batches, d.pendingB,
		d.memoryB, d.disk, d.segments, d.oldest, d.oK, d.damaged, d.damagedB, d.foreign, d.quarantine, d.errors, d.slow, d.syncs,
	} {
		out <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	s := c.s.Stats()
	counter(c.descs.taken, s.Appended.Rows, "sealed")
	counter(c.descs.taken, s.Recovered.Rows, "recovered")
	counter(c.descs.taken, s.Recalled.Rows, "recalled")
	counter(c.descs.taken, s.Rollups.Rows, "rollup")
	counter(c.descs.rolledUp, s.RolledUp.Rows)
	counter(c.descs.acked, s.Acked.Rows)
	counter(c.descs.rejected, s.Rejected.Rows)
	dropped := uint64(0)
	for _, r := range Reasons() {
		counter(c.descs.dropped, s.Dropped[r].Rows, r.String())
		dropped += s.Dropped[r].Batches
	}
	gauge(c.descs.pending, float64(s.Pending.Rows))
	gauge(c.descs.memory, float64(s.InMemory.Rows))
	counter(c.descs.batches, s.Appended.Batches, "sealed")
	counter(c.descs.batches, s.Recovered.Batches, "recovered")
	counter(c.descs.batches, s.Recalled.Batches, "recalled")
	counter(c.descs.batches, s.Rollups.Batches, "rollup")
	counter(c.descs.batches, s.RolledUp.Batches, "rolled_up")
	counter(c.descs.batches, s.Acked.Batches, "acked")
	counter(c.descs.batches, s.Rejected.Batches, "rejected")
	counter(c.descs.batches, dropped, "dropped")
	gauge(c.descs.pendingB, float64(s.Pending.Batches))
	gauge(c.descs.memoryB, float64(s.MemoryBytes))
	gauge(c.descs.disk, float64(s.DiskBytes))
	gauge(c.descs.segments, float64(s.Segments))
	gauge(c.descs.oldest, s.OldestPending.Seconds())
	gauge(c.descs.oK, map[bool]float64{true: 1}[s.State == DiskOK])
	for _, r := range []Reason{Corrupt, Torn} {
		counter(c.descs.damaged, s.Damaged[r], r.String())
	}
	counter(c.descs.damagedB, s.DamagedBytes)
	for state, label := range map[SegmentState]string{Newer: "newer_version", Foreign: "other_host", Headless: "unreadable", Empty: "empty", Unknown: "unknown"} {
		counter(c.descs.foreign, s.Foreign[state], label)
	}
	counter(c.descs.quarantine, s.Quarantined.Batches, "kept")
	counter(c.descs.quarantine, s.QuarantineErr, "not_kept")
	counter(c.descs.errors, s.DiskErrors)
	counter(c.descs.slow, s.SlowWrites)
	counter(c.descs.syncs, s.Syncs)
}
