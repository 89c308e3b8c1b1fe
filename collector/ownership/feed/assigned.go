package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
)

// Assigned reads a topic of assignments: the key names an entry, the value is the entry, none withdraws it. It is read whole at every start, so it is to be
// compacted. Nobody creates it: whoever writes it does.
type Assigned struct {
	f       *Feed // only to ask with
	set     func(key string, value []byte, at time.Time)
	whole   func()
	current atomic.Int64 // nothing was left to read then
	outage  outage       // Run's
}

// NewAssigned makes a reader of the topic. set gets every message, in the order of its partition; whole is called when there is nothing left to read.
func NewAssigned(brokers []string, transport kafka.RoundTripper, topic string, set func(key string, value []byte, at time.Time), whole func(), log *slog.Logger) *Assigned {
	f := &Feed{cfg: Config{Topic: topic}, log: log}
	f.client = &kafka.Client{Addr: kafka.TCP(brokers...), Transport: transport, Timeout: requestTimeout}
	return &Assigned{f: f, set: set, whole: whole}
}

// Current says whether all that the topic holds is known, as of three seconds ago or later.
func (a *Assigned) Current() bool {
	return time.Since(time.Unix(0, a.current.Load())) < 3*time.Second
}

// Run reads until ctx ends. One goroutine reads all partitions in turn: assignments are few.
func (a *Assigned) Run(ctx context.Context) {
	var next []int64
	for n := 1; ctx.Err() == nil; {
		asked := time.Now()
		whole, err := a.round(ctx, &next)
		switch {
		case err != nil && ctx.Err() == nil:
			a.report(err)
			next = nil // from the beginning: what is read twice changes nothing
			n++
			pause(ctx, n)
		case whole:
			n = 1
			a.whole()
			a.current.Store(asked.UnixNano())
			a.clear()
			pause(ctx, 2)
		}
	}
}

// report notes a fault that will be tried again, and logs it every half minute.
func (a *Assigned) report(err error) {
	if a.outage.lasts() {
		a.f.log.Warn("the topic of assignments cannot be read at present, and nothing that it says is known to hold; trying again", "topic", a.f.cfg.Topic, "reason", err)
	}
}

func (a *Assigned) clear() {
	if a.outage.ended() {
		a.f.log.Info("the topic of assignments is read again", "topic", a.f.cfg.Topic)
	}
}

// round reads every partition once and says whether all of it is known now. Each request has requestTimeout, all of them as long as they take: a large topic
// is not read in that.
func (a *Assigned) round(ctx context.Context, next *[]int64) (whole bool, err error) {
	count, err := a.f.partitions(ctx)
	if err != nil {
		return false, err
	}
	if len(*next) != count {
		if *next, err = a.f.offsets(ctx, count, kafka.FirstOffsetOf); err != nil {
			return false, err
		}
	}
	ends, err := a.f.offsets(ctx, count, kafka.LastOffsetOf)
	if err != nil {
		return false, err
	}
	for p := range count {
		for (*next)[p] < ends[p] {
			before := (*next)[p]
			if err := a.read(ctx, p, &(*next)[p]); err != nil {
				return false, fmt.Errorf("partition %d: %w", p, err)
			}
			if (*next)[p] == before { // only marks of transactions are left
				(*next)[p] = ends[p]
			}
		}
	}
	return true, nil
}

func (a *Assigned) read(ctx context.Context, partition int, next *int64) error {
	answer, err := a.f.client.Fetch(ctx, &kafka.FetchRequest{
		Topic: a.f.cfg.Topic, Partition: partition, Offset: *next, MinBytes: 1, MaxBytes: fetchBytes, MaxWait: fetchWait,
	})
	if err == nil {
		err = answer.Error
	}
	if err != nil {
		return err
	}
	for {
		rec, err := answer.Records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if rec.Offset < *next {
			continue
		}
		key, value, err := contents(rec)
		if err != nil {
			return err
		}
		*next = rec.Offset + 1
		a.set(key, value, rec.Time)
	}
}

// contents reads a record; value is nil where it has none.
func contents(rec *kafka.Record) (key string, value []byte, err error) {
	if rec.Key != nil {
		k, err := kafka.ReadAll(rec.Key)
		if err != nil {
			return "", nil, err
		}
		key = string(k)
	}
	if rec.Value != nil {
		if value, err = kafka.ReadAll(rec.Value); err != nil {
			return "", nil, err
		}
	}
	return key, value, nil
}
