package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"tributary/exporter/batch"
	"tributary/exporter/clock"
	"tributary/exporter/config"
	"tributary/exporter/event"
	"tributary/exporter/probe"
	"tributary/exporter/recording"
	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/log"
	"tributary/service/metrics"
)

// replayAhead is how many batches may wait for their acknowledgement while the next one is made.
const replayAhead = 64

// Replay sends what a recording has through the rest of the exporter: the same decoding, numbering, batches and transport. The rows
// keep their times, names and host, carry `replay`, and belong to a run of their own; nothing is claimed. It returns when all is
// acknowledged or ctx ends. What is whole in a recording that breaks off is sent too, and then that is the error.
func Replay(ctx context.Context, c config.Config, file string, logger *slog.Logger) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open the recording: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	in, err := recording.NewReader(f, event.RecordSize)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	a, r, err := newReplay(c, in, logger)
	if err != nil {
		return err
	}
	defer a.keep(ctx)()
	lasting, end := context.WithCancel(context.WithoutCancel(ctx))
	var rooms sync.WaitGroup
	defer rooms.Wait()
	defer end()
	failed := make(chan error, 1)
	rooms.Go(func() { failed <- a.transport.Run(lasting) })

	err = r.tell(ctx, a, in)
	a.pipeline.stop()
	if ferr := a.spool.Flush(ctx); ferr != nil {
		err = errors.Join(err, fmt.Errorf("not all is acknowledged: %w", ferr))
	}
	select {
	case terr := <-failed:
		err = errors.Join(err, terr)
	default:
	}
	logger.Info("replayed", log.Component, "app", "records", r.records, "refused", r.refused, "acked_rows", a.spool.Stats().Acked.Rows, "exporter_id", a.host.exporterID)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// replay is where the pipeline finds what the recording said of the present record.
type replay struct {
	anchor           int64
	local            batch.Local
	names            map[string]batch.Local
	records, refused uint64
}

func newReplay(c config.Config, in *recording.Reader, logger *slog.Logger) (*App, *replay, error) {
	h, err := readHost()
	if err != nil {
		return nil, nil, err
	}
	h.name, h.bootID = in.Header.Host, in.Header.BootID
	if !plain(h.name) || !plain(h.bootID) {
		return nil, nil, fmt.Errorf("%w: it is of an impossible host", recording.ErrFormat)
	}
	c.Spool.Dir = ""                                                                                     // the recording is on disk already
	source, err := newSource(config.Config{CaptureMode: config.CaptureTracing}, probe.Options{}, logger) // never started: its books are empty
	if err != nil {
		return nil, nil, err
	}
	r := &replay{names: make(map[string]batch.Local)}
	a := &App{config: c, log: logger.With(log.Component, "app"), host: h, source: source, claims: noClaims{}, local: r.name, replay: true}
	a.clock, err = clock.New(clock.Options{Read: func() (clock.Reading, error) { return clock.Reading{Wall: r.anchor}, nil }})
	if err != nil {
		return nil, nil, err
	}
	return a, r, a.buildDelivery(metrics.NewRegistry(program), logger)
}

// tell goes through the recording, as fast as the collector acknowledges.
func (r *replay) tell(ctx context.Context, a *App, in *recording.Reader) error {
	for ctx.Err() == nil {
		frame, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch frame.Kind {
		case recording.Anchor:
			r.anchor = frame.Anchor
			if err := a.clock.Sync(); err != nil {
				return err
			}
		case recording.Sweep:
			a.pipeline.swept()
		case recording.Record:
			r.records++
			r.local = r.localOf(frame.Name)
			if err := a.pipeline.record(frame.Record); err != nil {
				r.refused++
				a.log.Warn("kernel record refused", "record", r.records, "error", err)
			}
			for a.spool.Stats().Pending.Batches > replayAhead && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
	return context.Cause(ctx)
}

// maxReplayNames bounds the names kept decoded.
const maxReplayNames = 4096

// localOf decodes a name; one that makes no sense is none.
func (r *replay) localOf(label []byte) batch.Local {
	local, ok := r.names[string(label)]
	if ok || len(label) == 0 {
		return local
	}
	if json.Unmarshal(label, &local) != nil || !plausible(&local) {
		local = batch.Local{}
	}
	if len(r.names) >= maxReplayNames {
		clear(r.names)
	}
	r.names[string(label)] = local
	return local
}

// plausible reports whether the exporter itself could have made this name: a recording may come from anybody.
func plausible(local *batch.Local) bool {
	for _, text := range []string{local.Comm, local.Network, local.Workload, local.Instance, local.Zone, local.Region, local.Release} {
		if !plain(text) {
			return false
		}
	}
	return int(local.Evidence) < len(flow.EvidenceNames) && int(local.Why) < len(flow.WhyNames)
}

func plain(text string) bool {
	odd := func(c rune) bool { return c < 0x20 || c == 0x7f || c == utf8.RuneError }
	return len(text) <= flow.MaxNameBytes && !strings.ContainsFunc(text, odd)
}

func (r *replay) name(*event.Event, string, int64) batch.Local { return r.local }

// noClaims says nothing about addresses: they are not ours.
type noClaims struct{}

// Subscribe implements transport.Claims.
func (noClaims) Subscribe(ctx context.Context) transport.Subscription {
	never := make(chan *flowv1.Ownership)
	context.AfterFunc(ctx, func() { close(never) })
	return transport.NewSubscription(nil, never, func(o *flowv1.Ownership) *flowv1.Ownership { return o })
}

// VerifiedTo implements transport.Claims.
func (noClaims) VerifiedTo(int64) int64 { return 0 }
