package app

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tributary/collector/ownership"
	"tributary/collector/ownership/feed"
	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
	"tributary/service/log"
)

const (
	snapshotFile  = "ownership.snapshot"
	snapshotEvery = 30 * time.Second
	// A snapshot that is older is of no use: alone, the table's retention is over; with other nodes, what they have said since costs more to read than
	// the whole sets that they repeat.
	snapshotAgeAlone  = 2 * time.Hour
	snapshotAgeShared = 10 * time.Minute
)

// openOwnership makes the table, from its snapshot where there is one, the book of claims, and the feed to the other nodes.
func (c *collector) openOwnership(now time.Time) error {
	age, topic := snapshotAgeAlone, ""
	if c.cfg.Kafka != "none" {
		age, topic = snapshotAgeShared, c.cfg.Bus.OwnershipTopic
	}
	path := filepath.Join(c.cfg.Data, snapshotFile)
	c.table = c.newTable(now)
	var beside *feed.Restored
	var err error
	if c.cfg.Data != "" { // else it would be the directory that this happens to run in
		if beside, err = feed.Restore(path, topic, c.table, age, now); err != nil {
			c.log.Warn("starting without what was known of addresses", "reason", err)
			c.table = c.newTable(now)
		}
	}
	if err := ownership.Register(c.registry, c.table); err != nil {
		return err
	}
	var others publishers
	if c.history != nil {
		others = append(others, c.history)
	}
	if topic != "" {
		var offsets []int64
		if beside != nil {
			offsets = beside.Offsets
		}
		if c.feed, err = c.newFeed(topic, offsets); err != nil {
			return err
		}
		others = append(others, c.feed)
	} else {
		c.log.Info("without Kafka this node is alone: other collectors do not learn what its exporters claim")
	}
	if c.book, err = session.New(maxExporters, c.table, others); err != nil {
		return err
	}
	if beside != nil {
		c.table.Open(func(claim *ownership.Claim, verified int64) bool {
			c.book.Restore(claim, verified)
			return true
		})
		for i := range beside.Owned {
			c.book.RestoreOwner(&beside.Owned[i])
		}
		c.log.Info("ownership restored", "ranges", c.table.Stats().Ranges)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.saveOwnership(ctx, path, topic) })
	running.Go(func() { c.repeatSets(ctx) })
	c.stops = append(c.stops, func(ctx context.Context) {
		var offsets []int64
		if c.feed != nil && c.feeding {
			offsets = c.feed.Offsets() // before its end: what is read afterwards is read again
			c.feed.Stop(ctx)
		}
		cancel()
		running.Wait()
		c.save(path, topic, offsets)
	})
	return nil
}

// maxExporters bounds the runs of exporters in the book, as the table's own default does.
const maxExporters = 64 << 10

func (c *collector) newTable(now time.Time) *ownership.Table {
	return ownership.New(ownership.Config{
		Internal: c.cfg.Internal, QuietUntil: now.Add(quietAfterStart).UnixNano(), MaxClockError: c.cfg.Hold.MaxClockError,
	})
}

func (c *collector) newFeed(topic string, offsets []int64) (*feed.Feed, error) {
	tlsConfig, err := busTLS(c.cfg)
	if err != nil {
		return nil, err
	}
	k := c.cfg.KafkaConfig()
	transport, err := k.Transport(tlsConfig, topic)
	if err != nil {
		return nil, err
	}
	return feed.New(feed.Config{
		Brokers: k.Brokers, Transport: transport, Topic: topic, Replicas: k.Replicas, Node: c.id, From: offsets,
	}, c.table, c.registry, c.limited.With(log.Component, "ownership/feed"))
}

// publishers are told what the exporters of this node say: the other nodes, and the store.
type publishers []session.Publisher

// Publish implements session.Publisher.
func (p publishers) Publish(exporter, host string, stream int64, step *flowv1.OwnershipStep) {
	for _, to := range p {
		to.Publish(exporter, host, stream, step)
	}
}

// Mark implements session.Publisher.
func (p publishers) Mark(w *flowv1.ExporterWatermark) {
	for _, to := range p {
		to.Mark(w)
	}
}

// repeatSets says every exporter's whole set again, a share a second, for those who missed the beginning of its stream.
func (c *collector) repeatSets(ctx context.Context) {
	shares := int(feed.RepeatEvery / time.Second)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := 0; ; i = (i + 1) % shares {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c.book.Repeat(i, shares, now.UnixNano())
		}
	}
}

// saveOwnership writes a snapshot now and then, until ctx ends.
func (c *collector) saveOwnership(ctx context.Context, path, topic string) {
	if c.cfg.Data == "" {
		return
	}
	if err := os.MkdirAll(c.cfg.Data, 0o750); err != nil {
		c.log.Warn("what is known of addresses is not kept over a restart; choose another directory with --data", "reason", err)
		return
	}
	tick := time.NewTicker(snapshotEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var offsets []int64
		if c.feed != nil {
			offsets = c.feed.Offsets()
		}
		c.save(path, topic, offsets)
	}
}

// save writes a snapshot. A node that has not read what the others said yet keeps the one that it has.
func (c *collector) save(path, topic string, offsets []int64) {
	if c.cfg.Data == "" || topic != "" && offsets == nil {
		return
	}
	if err := feed.Save(path, topic, c.table, feed.Restored{Offsets: offsets, Owned: c.book.Owned()}, time.Now()); err != nil {
		c.limited.Warn("what is known of addresses is not kept over a restart", "reason", err)
	}
}
