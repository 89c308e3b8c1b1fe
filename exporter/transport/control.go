package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"tributary/exporter/clock"
	"tributary/proto/flowv1"
)

const (
	watermarkEvery = time.Second
	healthEvery    = 5 // in watermarks
	maxClaims      = 1000
)

// control is the life of one stream of claims, watermarks and health.
func (t *Transport) control(ctx context.Context, conn connection) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := conn.control(ctx)
	if err != nil {
		return err
	}
	defer t.expectAnswer(streamControl, cancel)()
	defer t.datagrams.hush("the control stream has ended")
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(t.listen(stream))
	}()
	err = t.speak(ctx, stream)
	if errors.Is(err, io.EOF) { // the receiving side has the reason
		<-done
	}
	cancel(err)
	<-done
	return context.Cause(ctx)
}

// listen takes what the collector says on the control stream until it ends.
func (t *Transport) listen(stream controlStream) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		t.heard(streamControl)
		switch m := r.GetMessage().(type) {
		case *flowv1.ControlResponse_Welcome:
			t.link.up(streamControl, short(m.Welcome.GetCollectorId()), t.where())
			t.epoch(m.Welcome.GetStoreEpoch())
		case *flowv1.ControlResponse_Refusal:
			t.books.refusals.Add(1)
			t.refusals.tell(m.Refusal)
		case *flowv1.ControlResponse_Settings:
			if t.config.Settings != nil {
				t.applied.Store(t.config.Settings(m.Settings))
			}
		case *flowv1.ControlResponse_DatagramKey:
			t.datagrams.keyed(m.DatagramKey)
		case *flowv1.ControlResponse_DatagramReport:
			t.datagrams.reported(m.DatagramReport)
		}
	}
}

// epoch notes which life of the store the collector writes to. A new one may have forgotten what it had acknowledged lately: that is sent again.
func (t *Transport) epoch(epoch string) {
	if before := t.storeEpoch; epoch == "" || epoch == before {
		return
	} else if t.storeEpoch = epoch; before == "" {
		return
	}
	n := t.config.Spool.Recall()
	t.books.epochs.Add(1)
	t.log.Warn("the store may have forgotten: what it acknowledged in the last minute is sent again", "rows", n.Rows, "batches", n.Batches)
}

// speak sends the whole set of claims and of listeners and then, in order, each change of claims, and every second a watermark, the listeners
// that have changed, and at times health.
func (t *Transport) speak(ctx context.Context, stream controlStream) error {
	hello := t.hello()
	hello.ControlStream = t.streamNumber()
	if err := stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: hello}}); err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	changes := t.config.Claims.Subscribe(ctx)
	if err := t.sendAll(stream, changes.claims()); err != nil {
		return err
	}
	var listeners <-chan []*flowv1.Listener
	if t.config.Listeners != nil {
		all, next := t.config.Listeners(ctx)
		if err := t.sendListeners(stream, all); err != nil {
			return err
		}
		listeners = next
	}
	if err := t.sendWatermark(stream, changes); err != nil {
		return err
	}
	if err := t.sendBooks(stream, false); err != nil {
		return err
	}
	beat := time.NewTimer(clock.Beat(watermarkEvery)) // set again only when it has been heard: a beat that passes while a change is sent is heard after it
	defer beat.Stop()
	for ticks := 1; ; {
		change, err := changes.next(ctx, beat.C)
		if err != nil {
			return err
		}
		if change != nil {
			if err := t.sendChange(stream, change); err != nil {
				return err
			}
			continue
		}
		beat.Reset(clock.Beat(watermarkEvery))
		if err := t.sendWatermark(stream, changes); err != nil {
			return err
		}
		if err := t.sendWaiting(stream, listeners); err != nil {
			return err
		}
		ticks++
		if err := t.sendBooks(stream, ticks%healthEvery == 0); err != nil {
			return err
		}
	}
}

// streamNumber makes the number of a new Control stream: higher than any before, however the clock steps.
func (t *Transport) streamNumber() int64 {
	for {
		last := t.lastStream.Load()
		if n := max(time.Now().UnixNano(), last+1); t.lastStream.CompareAndSwap(last, n) {
			return n
		}
	}
}

// sendBooks tells what went by datagram and, where it is time, the counters.
func (t *Transport) sendBooks(stream controlStream, health bool) error {
	for _, m := range t.datagrams.tick() {
		if err := stream.Send(m); err != nil {
			return fmt.Errorf("tell of datagrams: %w", err)
		}
	}
	now := t.healthNow.Load()
	if !now && (!health || time.Duration(clock.Boot()-t.lastAdd.Load()) < healthEvery*watermarkEvery) {
		return nil // batches carry the counters
	}
	h := &flowv1.Health{Counters: t.config.Counters(), ClockNs: time.Now().UnixNano()}
	if err := stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Health{Health: h}}); err != nil {
		return fmt.Errorf("send health: %w", err)
	}
	if now {
		t.healthNow.Store(false)
	}
	return nil
}

// sendAll sends a whole set in parts; the last one, empty where nothing is owned, says that it is whole.
func (t *Transport) sendAll(stream controlStream, claims []*flowv1.Claim) error {
	for {
		part := claims[:min(len(claims), maxClaims)]
		claims = claims[len(part):]
		if err := t.sendOwnership(stream, &flowv1.Ownership{Claims: part, Full: len(claims) == 0}); err != nil {
			return err
		}
		if len(claims) == 0 {
			return nil
		}
	}
}

// sendChange sends the releases of a change and then its claims, in parts: a message that held both would leave their order to
// its reader, and an address may be released and claimed at once.
func (t *Transport) sendChange(stream controlStream, o *flowv1.Ownership) error {
	for part := range slices.Chunk(o.GetReleases(), maxClaims) {
		if err := t.sendOwnership(stream, &flowv1.Ownership{Releases: part}); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(o.GetClaims(), maxClaims) {
		if err := t.sendOwnership(stream, &flowv1.Ownership{Claims: part}); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transport) sendOwnership(stream controlStream, o *flowv1.Ownership) error {
	if err := stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Ownership{Ownership: o}}); err != nil {
		return fmt.Errorf("send claims: %w", err)
	}
	t.books.claims.Add(uint64(len(o.GetClaims())))
	t.books.releases.Add(uint64(len(o.GetReleases())))
	return nil
}

// sendWatermark first asks until when the claims are verified and then sends every change that waits by then: those up to that time
// are among them. Later ones are left: a flood of them would keep the watermark back. What became of settings goes with it.
func (t *Transport) sendWatermark(stream controlStream, changes Subscription) error {
	verified := t.config.Claims.VerifiedTo(time.Now().UnixNano())
	for range changes.waiting() + 1 { // the last look finds a subscription that has ended: the change it lost is not vouched for
		change, err := changes.poll()
		if err != nil {
			return err
		}
		if change == nil {
			break
		}
		if err := t.sendChange(stream, change); err != nil {
			return err
		}
	}
	if applied := t.applied.Swap(nil); applied != nil {
		if err := stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Applied{Applied: applied}}); err != nil {
			return fmt.Errorf("send what was applied: %w", err)
		}
	}
	if verified == 0 {
		return nil
	}
	w := &flowv1.Watermark{VerifiedToNs: verified, ClockNs: time.Now().UnixNano()}
	if err := stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Watermark{Watermark: w}}); err != nil {
		return fmt.Errorf("send watermark: %w", err)
	}
	t.books.watermarks.Add(1)
	return nil
}

// sendWaiting sends the listeners that have changed.
func (t *Transport) sendWaiting(stream controlStream, changes <-chan []*flowv1.Listener) error {
	for {
		select {
		case changed, ok := <-changes:
			if !ok {
				return errBehind
			}
			if err := t.sendListeners(stream, changed); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (t *Transport) sendListeners(stream controlStream, list []*flowv1.Listener) error {
	for part := range slices.Chunk(list, maxClaims) {
		m := &flowv1.ControlRequest{Message: &flowv1.ControlRequest_Listeners{Listeners: &flowv1.Listeners{Listeners: part}}}
		if err := stream.Send(m); err != nil {
			return fmt.Errorf("send listeners: %w", err)
		}
		t.books.listeners.Add(uint64(len(part)))
	}
	return nil
}
