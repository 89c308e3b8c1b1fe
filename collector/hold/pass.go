package hold

import (
	"context"

	"tributary/proto/flow"
)

// pass asks again for everything that waits and says whether anything is left.
func (h *Hold) pass(now int64) bool {
	h.mu.Lock()
	list, draining := h.waiting, h.draining
	h.waiting = nil
	h.mu.Unlock()

	still := list[:0]
	if len(list) > 0 {
		v := h.table.View(now)
		for _, w := range list {
			over := draining || now >= w.deadline
			w.open = h.attr.Again(w.b, v, w.open, firstRound, !over)
			if len(w.open) > 0 && !over {
				still = append(still, w)
				continue
			}
			if draining {
				h.lateRows(w, lateShutdown)
			}
			h.release(w)
		}
	}
	clear(list[len(still):])
	h.mu.Lock()
	h.waiting = append(still, h.waiting...)
	h.mu.Unlock()
	h.shed()

	if draining || now-h.lastKept >= int64(keptEvery) {
		h.lastKept = now
		h.passKept(now, draining)
	}
	return h.holds()
}

// release moves a batch from waiting to the queue.
func (h *Hold) release(w *held) {
	h.metrics.wait.Observe(float64(h.now()-w.b.ReceivedTimeNs) / 1e9)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytes -= w.bytes
	h.metrics.bytes.Set(float64(h.bytes))
	h.leave(leaving{b: w.b})
}

// shed lets the batches go that have waited longest, until the rest is within the bound.
func (h *Hold) shed() {
	for {
		h.mu.Lock()
		if h.bytes <= h.cfg.MaxBytes || len(h.waiting) == 0 {
			h.mu.Unlock()
			return
		}
		w := h.waiting[0]
		h.waiting[0] = nil
		h.waiting = h.waiting[1:]
		h.mu.Unlock()
		h.lateRows(w, lateFull)
		h.release(w)
	}
}

func (h *Hold) lateRows(w *held, reason string) {
	h.metrics.late.WithLabelValues(reason).Add(float64(len(w.open)))
	h.attr.GiveUp(w.b, w.open, firstRound)
}

// passKept asks again for the rows that have left unsettled.
func (h *Hold) passKept(now int64, draining bool) {
	h.mu.Lock()
	list := h.kept
	h.kept = nil
	h.mu.Unlock()
	if len(list) == 0 {
		return
	}
	v := h.table.View(now)
	still := list[:0]
	size := 0
	for _, k := range list {
		h.rows = append(h.rows[:0], k.open...)
		h.attr.Again(k.b, v, h.rows, laterRound, false)
		h.sendNamed(k)
		switch {
		case len(k.open) == 0:
		case draining:
			h.sendLate(k, lateShutdown)
		case now >= k.deadline:
			h.sendLate(k, lateExpired)
		default:
			still = append(still, k)
			size += k.bytes
		}
	}
	clear(list[len(still):])
	h.mu.Lock()
	for _, k := range h.kept {
		size += k.bytes
	}
	h.kept = append(still, h.kept...)
	h.keptSize = size
	h.metrics.pendingBytes.Set(float64(size))
	h.mu.Unlock()
	h.shedKept()
}

// shedKept gives up the rows kept longest, until the rest is within the bound.
func (h *Hold) shedKept() {
	for {
		h.mu.Lock()
		if h.keptSize <= h.cfg.PendingBytes || len(h.kept) == 0 {
			h.mu.Unlock()
			return
		}
		k := h.kept[0]
		h.kept[0] = nil
		h.kept = h.kept[1:]
		h.keptSize -= k.bytes
		h.metrics.pendingBytes.Set(float64(h.keptSize))
		h.mu.Unlock()
		h.sendLate(k, lateFull)
	}
}

// unsettled: what a row says may still become better. Evidence is on its way; or who would know does not answer, and may be back.
func unsettled(why uint32) bool { return why == flow.WhyPending || why == flow.WhyPeerRegionDown }

// sendNamed lets the kept rows go that are settled.
func (h *Hold) sendNamed(k *held) {
	why := k.b.U32[flow.RemoteWhy]
	var ready []int
	open := k.open[:0]
	named := 0
	for _, row := range k.open {
		switch {
		case unsettled(why[row]):
			open = append(open, row)
			continue
		case why[row] == flow.WhyNamed:
			named++
		}
		ready = append(ready, int(row))
	}
	k.open = open
	if len(ready) == 0 {
		return
	}
	h.metrics.pendingLeft.WithLabelValues("named").Add(float64(named))
	h.metrics.pendingLeft.WithLabelValues("unnamed").Add(float64(len(ready) - named))
	h.sendRows(k.b, ready)
}

func (h *Hold) sendLate(k *held, reason string) {
	h.metrics.late.WithLabelValues(reason).Add(float64(len(k.open)))
	h.metrics.pendingLeft.WithLabelValues("late").Add(float64(len(k.open)))
	h.attr.GiveUp(k.b, k.open, laterRound)
	rows := make([]int, len(k.open))
	for i, row := range k.open {
		rows[i] = int(row)
	}
	h.sendRows(k.b, rows)
}

func (h *Hold) sendRows(b *flow.Batch, rows []int) {
	h.metrics.pendingRows.Sub(float64(len(rows)))
	if len(rows) < b.Rows {
		b = b.Select(rows)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leave(leaving{b: b, later: true})
}

// emitAll hands on what leaves, in order, until the context ends.
func (h *Hold) emitAll(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.out:
		}
		for ctx.Err() == nil && h.emitNext() {
		}
	}
}

// emitNext hands on the batch at the head of the queue, if there is one.
func (h *Hold) emitNext() bool {
	h.mu.Lock()
	if len(h.queue) == 0 {
		h.mu.Unlock()
		return false
	}
	l := h.queue[0]
	h.queue[0] = leaving{}
	h.queue = h.queue[1:]
	h.mu.Unlock()
	h.emitOne(l)
	return true
}

func (h *Hold) emitOne(l leaving) {
	rows := l.b.Rows // the batch is not ours any more after emit
	if !l.later {
		h.keep(l.b)
		h.metrics.count(l.b)
	}
	h.emit(l.b)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy -= rows
}

// keep copies the rows that leave unsettled.
func (h *Hold) keep(b *flow.Batch) {
	var rows []int
	for row, why := range b.U32[flow.RemoteWhy] {
		if unsettled(why) {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return
	}
	k := &held{b: b.Select(rows), open: make([]uint32, len(rows)), deadline: h.now() + int64(h.cfg.PendingFor)}
	for i := range k.open {
		k.open[i] = uint32(i)
	}
	k.bytes = k.b.MemoryBytes() + 4*len(k.open)
	h.metrics.pendingTaken.Add(float64(len(rows)))
	h.metrics.pendingRows.Add(float64(len(rows)))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy += len(rows)
	h.kept = append(h.kept, k)
	h.keptSize += k.bytes
	h.metrics.pendingBytes.Set(float64(h.keptSize))
	signal(h.wake)
}
