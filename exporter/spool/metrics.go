package spool

import "github.com/prometheus/client_golang/prometheus"

// collector shows the books of one moment, so that they balance in every scrape.
type collector struct{ s *Spool }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tributary_exporter_spool_"+name, help, labels, nil)
}

var (
	descTaken      = describe("taken_rows_total", "Rows of batches sealed by this run, recovered: found on disk, left by earlier runs, and recalled: acknowledged, and sent again because the store may have forgotten. Sum = acked + rejected + dropped + pending.", "source")
	descAcked      = describe("acked_rows_total", "Rows that every required sink has.")
	descRejected   = describe("rejected_rows_total", "Rows of batches that the collector will never accept.")
	descDropped    = describe("dropped_rows_total", "Rows lost, by reason.", "reason")
	descPending    = describe("pending_rows", "Rows that are not yet acknowledged.")
	descMemory     = describe("memory_rows", "Rows that are not yet acknowledged and not on disk.")
	descBatches    = describe("batches_total", "Batches by what became of them.", "outcome")
	descPendingB   = describe("pending_batches", "Batches that are not yet acknowledged.")
	descMemoryB    = describe("memory_bytes", "Memory of the batches that are not on disk.")
	descDisk       = describe("disk_bytes", "Size of all segments.")
	descSegments   = describe("segments", "Segment files.")
	descOldest     = describe("oldest_pending_seconds", "Age of the oldest batch that is not yet acknowledged.")
	descOK         = describe("disk_ok", "1 while batches go to disk, 0 while they are kept in memory only.")
	descDamaged    = describe("damaged_parts_total", "Places on disk without a readable record, rows unknown, by reason.", "reason")
	descDamagedB   = describe("damaged_bytes_total", "Bytes of everything damaged or torn.")
	descForeign    = describe("strange_files_total", "Files in the directory that are not ours to send, by what they are.", "state")
	descQuarantine = describe("quarantined_batches_total", "Rejected batches by whether a copy was kept.", "result")
	descErrors     = describe("disk_errors_total", "Operations of the disk that failed.")
	descSlow       = describe("slow_writes_total", "Times a batch did not wait any longer for the disk.")
	descSyncs      = describe("syncs_total", "Times written batches were synced to the disk.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descTaken, descAcked, descRejected, descDropped, descPending, descMemory, descBatches, descPendingB,
		descMemoryB, descDisk, descSegments, descOldest, descOK, descDamaged, descDamagedB, descForeign, descQuarantine,
		descErrors, descSlow, descSyncs,
	} {
		out <- d
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
	counter(descTaken, s.Appended.Rows, "sealed")
	counter(descTaken, s.Recovered.Rows, "recovered")
	counter(descTaken, s.Recalled.Rows, "recalled")
	counter(descAcked, s.Acked.Rows)
	counter(descRejected, s.Rejected.Rows)
	dropped := uint64(0)
	for _, r := range Reasons() {
		counter(descDropped, s.Dropped[r].Rows, r.String())
		dropped += s.Dropped[r].Batches
	}
	gauge(descPending, float64(s.Pending.Rows))
	gauge(descMemory, float64(s.InMemory.Rows))
	counter(descBatches, s.Appended.Batches, "sealed")
	counter(descBatches, s.Recovered.Batches, "recovered")
	counter(descBatches, s.Recalled.Batches, "recalled")
	counter(descBatches, s.Acked.Batches, "acked")
	counter(descBatches, s.Rejected.Batches, "rejected")
	counter(descBatches, dropped, "dropped")
	gauge(descPendingB, float64(s.Pending.Batches))
	gauge(descMemoryB, float64(s.MemoryBytes))
	gauge(descDisk, float64(s.DiskBytes))
	gauge(descSegments, float64(s.Segments))
	gauge(descOldest, s.OldestPending.Seconds())
	gauge(descOK, map[bool]float64{true: 1}[s.State == DiskOK])
	for _, r := range []Reason{Corrupt, Torn} {
		counter(descDamaged, s.Damaged[r], r.String())
	}
	counter(descDamagedB, s.DamagedBytes)
	for state, label := range map[SegmentState]string{Newer: "newer_version", Foreign: "other_host", Headless: "unreadable", Empty: "empty", Unknown: "unknown"} {
		counter(descForeign, s.Foreign[state], label)
	}
	counter(descQuarantine, s.Quarantined.Batches, "kept")
	counter(descQuarantine, s.QuarantineErr, "not_kept")
	counter(descErrors, s.DiskErrors)
	counter(descSlow, s.SlowWrites)
	counter(descSyncs, s.Syncs)
}
