package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/batch"
	"tributary/exporter/clock"
	"tributary/exporter/config"
	"tributary/exporter/event"
	"tributary/exporter/probe"
	"tributary/exporter/recording"
	"tributary/exporter/ring"
	"tributary/service/build"
	"tributary/service/log"
)

// errRecordingFull ends a recording at its limit.
var errRecordingFull = errors.New("the recording has reached its --limit")

// recorder writes each kernel record with the name that the exporter would have given it.
type recorder struct {
	out    *recording.Writer
	clock  *clock.Clock
	name   namer
	limit  int64
	end    func(error)
	comms  comms
	anchor clock.Anchor
	event  event.Event
	labels map[batch.Local][]byte
}

// maxLabels bounds the names that are kept encoded; beyond it they are encoded again.
const maxLabels = 4096

// Record captures as the configuration says and keeps the kernel's records in a file until ctx ends, the limit is reached or the
// file cannot be written. Nothing is sent and nothing is claimed. The file is made anew and only its owner may read it.
func Record(ctx context.Context, c config.Config, file string, limit int64, logger *slog.Logger) (err error) {
	h, err := readHost()
	if err != nil {
		return err
	}
	options, err := probeOptions(c)
	if err != nil {
		return err
	}
	clock, err := clock.New(clock.Options{})
	if err != nil {
		return err
	}
	names, err := newNames(c, h, prometheus.NewRegistry(), logger)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make the recording: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out, err := recording.NewWriter(f, recording.Header{
		Host: h.name, BootID: h.bootID, ExporterID: h.exporterID, Version: build.Current().Version, Kernel: probe.KernelRelease(),
		RecordBytes: event.RecordSize, BeganNs: time.Now().UnixNano(),
	})
	if err != nil {
		return fmt.Errorf("begin the recording: %w", err)
	}
	until, end := context.WithCancelCause(ctx)
	defer end(nil)
	r := &recorder{out: out, clock: clock, name: names.local, limit: limit, end: end, comms: make(comms), labels: make(map[batch.Local][]byte)}
	var rooms sync.WaitGroup
	defer rooms.Wait()
	lasting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for _, run := range []func(context.Context) error{clock.Run, names.run} {
		rooms.Go(func() {
			if err := run(lasting); err != nil && lasting.Err() == nil {
				end(err)
			}
		})
	}
	if err := r.run(until, options, logger); err != nil {
		return err
	}
	if ctx.Err() == nil { // it was not the user who ended it
		return context.Cause(until)
	}
	return nil
}

// run captures until ctx ends.
func (r *recorder) run(ctx context.Context, options probe.Options, logger *slog.Logger) error {
	p := probe.New(options)
	if err := p.Start(); err != nil {
		return err
	}
	fd, size, err := p.Ring()
	if err != nil {
		return errors.Join(err, p.Close())
	}
	reader := ring.New(ring.Options{
		FD: fd, Size: size, Rest: p.Rest, Walk: p.Walk, WalkEvery: walkEvery, AfterWalk: r.swept, RecordSize: event.RecordSize, Log: logger,
	})
	logger.Info("recording", log.Component, "app")
	err = reader.Run(ctx, r.take)
	counters, cerr := p.Counters()
	err = errors.Join(err, cerr, p.Detach(), p.Close(), r.out.Close())
	logger.Info("recorded", log.Component, "app", "records", reader.Stats().Read+reader.Stats().Walked, "bytes", r.out.Written(), "lost", counters.RingFull)
	return err
}

// take writes one record, also one that is not understood: that is worth a recording.
func (r *recorder) take(b []byte) error {
	if anchor := r.clock.Anchor(); anchor != r.anchor {
		r.anchor = anchor
		r.check(r.out.Anchor(int64(anchor)))
	}
	var label []byte
	err := event.Decode(b, &r.event)
	if err == nil {
		comm := r.comms.of(&r.event)
		local := r.name(&r.event, comm, r.anchor.Wall(r.event.Start))
		local.Comm = comm
		label = r.label(local)
	}
	r.check(r.out.Record(b, label))
	return err
}

func (r *recorder) label(local batch.Local) []byte {
	label, ok := r.labels[local]
	if ok {
		return label
	}
	label, err := json.Marshal(local)
	if err != nil {
		return nil // cannot be: it is all strings and numbers
	}
	if len(r.labels) >= maxLabels {
		clear(r.labels)
	}
	r.labels[local] = label
	return label
}

func (r *recorder) swept() { r.check(r.out.Sweep()) }

// check ends the recording where it cannot go on.
func (r *recorder) check(err error) {
	switch {
	case err != nil:
		r.end(fmt.Errorf("write the recording: %w", err))
	case r.out.Written() >= r.limit:
		r.end(errRecordingFull)
	}
}
