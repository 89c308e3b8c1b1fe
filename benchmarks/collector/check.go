package main

import (
	"errors"
	"fmt"
	"strings"
)

// checkBooks compares everybody's counts after the last acknowledgement. A mistake in any of them makes the figures worthless.
func checkBooks(fleet fleetReport, metrics map[string]float64, store, broker, topic string) error {
	var wrong []error
	expect := func(what string, got, want uint64) {
		if got != want {
			wrong = append(wrong, fmt.Errorf("%s: %d, not %d", what, got, want))
		}
	}
	metric := func(series string) uint64 { return uint64(metrics[series]) }
	counted, err := storeCounts(store)
	if err != nil {
		return err
	}
	messages, err := topicMessages(broker, topic)
	if err != nil {
		return err
	}
	// Rows that left without a name and got it later are written twice, as two versions.
	again := uint64(0)
	for series, v := range metrics {
		if strings.HasPrefix(series, "tributary_collector_hold_pending_left_rows_total{") {
			again += uint64(v)
		}
		if strings.HasPrefix(series, "tributary_collector_hold_left_rows_total{") && !strings.Contains(series, `"named"`) {
			expect("rows without a name, "+series, uint64(v), 0)
		}
	}
	expect("rows acknowledged", fleet.Acked, fleet.Sent)
	expect("rows the collector acknowledged", metric("tributary_collector_ingest_acked_rows_total"), fleet.Sent)
	expect("rows ClickHouse took", metric("tributary_collector_clickhouse_written_rows_total"), fleet.Sent+again)
	expect("rows the store counted", counted.Rows, fleet.Sent+again)
	expect("rows Kafka took", metric("tributary_collector_kafka_rows_written_total"), fleet.Sent+again)
	expect("messages of the topic", messages, metric("tributary_collector_kafka_messages_written_total"))
	if again == 0 {
		expect("messages", messages, fleet.Batches)
	}
	stored, named, err := firstBlock(store)
	if err != nil {
		return errors.Join(append(wrong, fmt.Errorf("ask for the first block: %w", err))...)
	}
	if stored == 0 {
		wrong = append(wrong, errors.New("the engine has no row of the first block"))
	}
	expect("named rows of the first block in the engine", named, stored)
	return errors.Join(wrong...)
}
