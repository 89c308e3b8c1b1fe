package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// configuration is one line of the table.
type configuration struct {
	Senders, BatchRows int
	Codec              string
}

func (c configuration) String() string {
	return fmt.Sprintf("%d senders, batches of %d, %s", c.Senders, c.BatchRows, c.Codec)
}

// result is what it measured.
type result struct {
	configuration
	FlowsPerCPUSecond float64
	FlowsPerSecond    float64
	AllocsPerFlow     float64
	AllocBytesPerFlow float64
	WireBytesPerFlow  float64 // payload
	StoreBytesPerFlow float64 // bodies of inserts
	BusBytesPerFlow   float64 // values of Kafka messages
	BlockRows         float64 // mean rows of an insert
	NamedShare        float64
	HoldSeconds       float64 // mean of the batches that waited
	AckSeconds        float64 // mean from a batch's sending to its acknowledgement, warm-up included
	PeakBytes         uint64
	GCPerSecond       float64
	CPUs              float64 // of the collector
	DistinctFlows     int
	Rows              uint64 // sent in all, warm-up included
}

// run measures one configuration with a collector and a store of its own.
func (o *options) run(c configuration, dir, broker string, files certificates) (*result, error) {
	topic := fmt.Sprintf("bench.%d", time.Now().UnixNano())
	store, storeAddress, writer, err := o.startStore(filepath.Join(dir, "store"))
	if err != nil {
		return nil, err
	}
	defer store.stop(nil, 15*time.Second)
	collector, err := startTarget(&targetSpec{
		program: o.collectorCommand(c), dir: filepath.Join(dir, "collector"), store: writer + "@" + storeAddress, broker: broker, topic: topic, files: files,
		args: strings.Fields(o.collectorArgs),
	})
	if err != nil {
		return nil, err
	}
	defer collector.stop(syscall.SIGTERM, 20*time.Second)
	defer func() { _ = deleteTopic(broker, topic) }()
	fleet, err := o.startFleet(c, collector.listen, files.ca)
	if err != nil {
		return nil, err
	}
	defer fleet.stop(nil, 5*time.Second)

	before, after, err := o.window(collector, fleet)
	if err != nil {
		return nil, err
	}
	report, err := finishFleet(fleet)
	if err != nil {
		return nil, err
	}
	last, err := collector.read()
	if err != nil {
		return nil, err
	}
	r := compute(c, before, after)
	r.DistinctFlows, r.Rows, r.AckSeconds = report.Distinct, report.Sent, report.AckSeconds
	if r.PeakBytes, err = peakBytes(collector.pid()); err != nil {
		return nil, err
	}
	return r, checkBooks(report, last.metrics, storeAddress, broker, topic)
}

func (o *options) startStore(dir string) (c *child, address, writer string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", "", err
	}
	c, err = startChild("store", self, "-role", "store", "-data", dir, "-collector", o.collector, "-engine", o.engine)
	if err != nil {
		return nil, "", "", err
	}
	line, err := c.line(time.Minute)
	if err != nil {
		c.stop(nil, time.Second)
		return nil, "", "", err
	}
	address, writer, _ = strings.Cut(line, " ")
	return c, address, writer, nil
}

func (o *options) startFleet(c configuration, collector, ca string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	fleet, err := startChild("fleet", self, "-role", "fleet")
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(fleetSpec{
		Collector: collector, CA: ca, Senders: c.Senders, BatchRows: c.BatchRows, Zstd: c.Codec == "zstd", MaxRows: o.unacked, Rate: o.rate,
	})
	if err == nil {
		err = fleet.tell(string(spec))
	}
	if err == nil {
		_, err = fleet.line(time.Minute)
	}
	if err != nil {
		fleet.stop(nil, time.Second)
		return nil, err
	}
	return fleet, nil
}

// window lets the fleet send and reads the collector at both ends of the measured time. The warm-up begins when every claim has
// arrived and every exporter has sent a watermark.
func (o *options) window(collector *target, fleet *child) (before, after reading, err error) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r, err := collector.read()
		if err != nil {
			return before, after, err
		}
		if r.metrics[`tributary_collector_ingest_claims_total{result="accepted"}`] >= addresses &&
			r.metrics[`tributary_collector_ingest_watermarks_total{result="accepted"}`] >= 2*hosts {
			break
		}
		if time.Now().After(deadline) {
			return before, after, errors.New("the claims do not arrive")
		}
	}
	if err := fleet.tell("go"); err != nil {
		return before, after, err
	}
	time.Sleep(o.warmUp)
	if o.profile != "" {
		if err := collector.tell("start"); err != nil {
			return before, after, err
		}
	}
	if before, err = collector.read(); err != nil {
		return before, after, err
	}
	time.Sleep(o.duration)
	if after, err = collector.read(); err != nil {
		return before, after, err
	}
	if o.profile != "" {
		err = collector.tell("stop")
	}
	return before, after, err
}

func finishFleet(fleet *child) (r fleetReport, err error) {
	if err := fleet.tell("stop"); err != nil {
		return r, err
	}
	text, err := fleet.line(40 * time.Second)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, fmt.Errorf("the fleet's report: %w", err)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

func compute(c configuration, before, after reading) *result {
	delta := func(series string) float64 { return after.metrics[series] - before.metrics[series] }
	rows := delta("tributary_collector_ingest_acked_rows_total")
	seconds, cpu := after.at.Sub(before.at).Seconds(), (after.cpu - before.cpu).Seconds()
	named, left := 0.0, 0.0
	for series := range after.metrics {
		if strings.HasPrefix(series, "tributary_collector_hold_left_rows_total{") {
			left += delta(series)
			if strings.Contains(series, `"named"`) {
				named = delta(series)
			}
		}
	}
	return &result{
		configuration:     c,
		FlowsPerCPUSecond: rows / cpu,
		FlowsPerSecond:    rows / seconds,
		AllocsPerFlow:     delta("go_memstats_mallocs_total") / rows,
		AllocBytesPerFlow: delta("go_memstats_alloc_bytes_total") / rows,
		WireBytesPerFlow:  delta("tributary_collector_ingest_payload_bytes_total") / delta(`tributary_collector_ingest_rows_total{result="accepted"}`),
		StoreBytesPerFlow: delta("tributary_collector_clickhouse_inserted_bytes_total") / delta("tributary_collector_clickhouse_written_rows_total"),
		BusBytesPerFlow:   delta("tributary_collector_kafka_bytes_written_total") / delta("tributary_collector_kafka_rows_written_total"),
		BlockRows:         delta("tributary_collector_clickhouse_written_rows_total") / delta("tributary_collector_clickhouse_inserts_total"),
		NamedShare:        named / left,
		HoldSeconds:       delta("tributary_collector_hold_wait_seconds_sum") / delta("tributary_collector_hold_wait_seconds_count"),
		GCPerSecond:       delta("go_gc_duration_seconds_count") / seconds,
		CPUs:              cpu / seconds,
	}
}
