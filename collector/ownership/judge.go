package ownership

import "math"

// View answers look-ups as of one reading of the clock. It is a value: take one for a batch, or for as long as the clock's
// being some milliseconds old does not matter.
type View struct {
	t   *Table
	now int64
	// horizon is the lowest watermark of all living exporters, in our clock: before it no further claim is to be expected.
	horizon int64
	// complete is up to when everything that the other nodes were told is known here: no more than that can be said of who else had an address.
	complete int64
	quiet    bool // see Config.QuietUntil; also while the other nodes' news are late for longer than Standstill
}

// View reads the watermarks of all exporters once.
func (t *Table) View(now int64) View {
	v := View{t: t, now: now, complete: t.complete.Load()}
	v.horizon = v.complete
	if now < t.cfg.QuietUntil {
		v.horizon, v.quiet = math.MinInt64, true
		return v
	}
	v.quiet = !v.alive(v.complete)
	dir := *t.exporters.dir.Load()
	for c := range dir {
		for i := range dir[c] {
			s := &dir[c][i]
			if s.who.Load() == nil {
				continue
			}
			if s.advanced.Load() >= now-int64(t.cfg.Standstill) {
				v.horizon = min(v.horizon, s.vouched.Load())
			}
		}
	}
	return v
}

// Horizon is the lowest watermark of the exporters that are alive; math.MaxInt64 without any.
func (v View) Horizon() int64 { return v.horizon }

// Now is the time the view was taken at.
func (v View) Now() int64 { return v.now }

func (v *View) alive(advanced int64) bool { return advanced >= v.now-int64(v.t.cfg.Standstill) }
func (v *View) dead(advanced int64) bool  { return advanced < v.now-int64(v.t.cfg.DeadAfter) }

// query is one question. lo and hi are at less and plus the tolerance.
type query struct {
	port       uint16
	at, lo, hi int64
}

// Lookup says who owned the address (and port, where a claim has ports) at a moment, in the collector's time, give or take
// tolerance. The rules are DESIGN §8's table; judge has them in full. A name needs evidence for the whole of at ± tolerance;
// "inside" is decided only when every exporter with an open range there has verified it to the end of the tolerance.
func (v View) Lookup(net NetworkID, addr Addr, port uint16, at, tolerance int64) (a Answer) {
	var f Found
	v.t.findOne(Key{net, addr}, &f)
	v.lookup(&f, port, at, tolerance, &a)
	return a
}

// LookupFound is Lookup for a key that Find has found. The answer is as of now, not as of Find.
func (v *View) LookupFound(f *Found, port uint16, at, tolerance int64) (a Answer) {
	v.lookup(f, port, at, tolerance, &a)
	return a
}

// lookup fills an empty answer.
func (v *View) lookup(f *Found, port uint16, at, tolerance int64, a *Answer) {
	for {
		switch {
		case f.nobody():
			v.absent(f.key.Addr, at+tolerance, a)
		case !f.rec.is(&f.key): // it looks alike only
			v.t.findOne(f.key, f)
			continue
		case !v.fast(f, at, tolerance, a):
			*a = v.slow(v.t.log.at(f.ref), query{port, at, at - tolerance, at + tolerance})
		}
		if f.stands(v.t) {
			return
		}
		v.t.findOne(f.key, f)
		*a = Answer{}
	}
}

// absent is the answer about an address that is not in the table. It writes field by field: to copy an answer whose small fields were just written makes
// the processor wait until they have left its store buffer.
func (v *View) absent(addr Addr, hi int64, a *Answer) {
	if !v.t.isInternal(addr) {
		a.Why, a.From, a.Until = External, math.MinInt64, math.MaxInt64
		return
	}
	a.Why, a.Wait = v.nobody(hi)
}

// nobody is what is known where nobody is known to have had the address.
func (v *View) nobody(hi int64) (why Why, wait bool) {
	if v.horizon < hi {
		// In the quiet time nobody knows when evidence comes, or whether: the row goes on and is named later.
		return Pending, !v.quiet
	}
	return NoEvidence, false
}

// fast answers the two common cases without copying, where the newest range that had begun decides and all before it ended before: it lies around the
// whole of at ± tolerance, or its living exporter has not verified it that far yet. False means that the case is not that simple. Whether an address has one range
// or two cannot be foreseen: the second is read in any case, and counts if there is one.
func (v *View) fast(f *Found, at, tol int64, a *Answer) bool {
	first, most := f.rec[0].Load(), v.t.mostSlack.Load()
	rec, i, n, until := f.rec, newest(first), first&countMask, int64(math.MaxInt64)
	if first&(hasPorts|hasLost) != 0 || at < tol {
		return false
	}
	if beginOf(rec[i].Load())-most > at+tol {
		if rec, n, until = v.begun(f, at+tol+most); n == 0 {
			return false
		}
		until -= most + tol + 1
	}
	w0, w1 := rec[i].Load(), rec[i+1].Load()
	begin, end := times(w0, w1)
	_, last := times(rec[i+2].Load(), rec[i+3].Load()) // when the others were over
	others := -int64(n >> 1)                           // all ones if there are any
	if n > 2 {
		last, others = v.lastOf(f, n-1), -1
	}
	if last&others >= at-tol-most {
		return false
	}
	x, o, isOpen := v.t.exporters.at(exporterOf(w1)), v.t.owners.at(ownerOf(w1)), end == open
	if isOpen {
		end = max(begin, x.verified.Load()) // as spans says it
	}
	if most != 0 {
		if x.barred.Load() {
			return false
		}
		slack := x.slack.Load()
		begin, end = begin+slack, end-slack
	}
	owner := o.owner.Load()
	if owner == nil || o.assigned.Load() || x.who.Load() == nil || v.tooYoung(at+tol, begin, end) {
		return false
	}
	a.From = tol + (last+most+1)&others
	switch {
	case begin <= at-tol && end >= at+tol:
		a.Owner = owner
		// For a while after others had it there is doubt.
		a.From, a.Until = max(a.From, begin+tol, begin+int64(v.t.cfg.Bridge)&others), min(until, end-tol)
	case isOpen && begin <= at+tol && end < at+tol && v.alive(x.advanced.Load()):
		a.Why, a.Wait = Pending, true
		a.From, a.Until = max(a.From, begin-tol, end-tol+1), until
	default:
		return false
	}
	return at >= a.From
}

// begun leaves out the ranges that began after a moment: it gives the record as if they were not there, how many are left, and when the last one left out began.
func (v *View) begun(f *Found, by int64) (rec *front, n uint64, until int64) {
	r := v.t.log.at(f.ref)
	_, at, left, _ := r.shape()
	for skipped := uint32(0); left > 0; left, at, skipped = left-1, at+2, skipped+2 {
		begin := beginOf(r[at].Load())
		if begin <= by {
			return v.t.log.front(f.ref + skipped), uint64(left), until
		}
		until = begin
	}
	return nil, 0, 0
}

// lastOf says when the last of the n oldest ranges ended; open, if one has not.
func (v *View) lastOf(f *Found, n uint64) (ended int64) {
	r := v.t.log.at(f.ref)
	_, at, all, _ := r.shape()
	if int(n) > all {
		return open // what is being written over may say anything
	}
	for i := at + 2*(all-int(n)); i < at+2*all; i += 2 {
		_, end := times(r[i].Load(), r[i+1].Load())
		ended = max(ended, end)
	}
	return ended
}

// young: the owner was not seen for long. In the quiet time that may be the claim of a host that froze and does not know yet that it lost the
// address, while whoever has it now has not connected yet.
func (v *View) young(from, end int64) bool { return end-from < int64(v.t.cfg.Bridge) }

// tooYoung: the range is young, and whoever else had the address then may not be known yet.
func (v *View) tooYoung(hi, from, end int64) bool {
	return (v.quiet || v.complete < hi) && v.young(from, end)
}

// slow copies the ranges and judges them.
func (v View) slow(r record, q query) Answer {
	if q.lo < int64(r.lost())*second {
		return Answer{Why: NoEvidence}
	}
	var buf [maxWalk]span
	return judge(v, q, v.spans(r, buf[:0]))
}

// span is a range with everything resolved, as of one moment.
type span struct {
	from, end        int64
	slack            int64 // by how much from and end may be off
	owner            *Owner
	host, exporterID string
	exporter         uint32
	from16, to16     uint16
	claims           uint8
	released         bool
	barred           bool  // may not name anybody
	over             int64 // when its owner was surely not there any more; open if nobody knows
	open             bool
	alive, settled   bool // of an open one: its exporter is alive; or silent for so long that its end is an end
}

// spans reads the ranges of a record.
func (v View) spans(r record, out []span) []span {
	first, at, n, _ := r.shape()
	for i := range n {
		w0, w1 := r[at+2*i].Load(), r[at+2*i+1].Load()
		from, to := times(w0, w1)
		f, p := flags(w0), ports(0)
		if first&hasPorts != 0 {
			p = r.ports(at, n, i)
		}
		owner := v.t.owners.at(ownerOf(w1)).owner.Load()
		x := v.t.exporters.at(exporterOf(w1))
		name := x.who.Load()
		if owner == nil || name == nil {
			continue
		}
		s := span{
			from: from, end: to, slack: x.slack.Load(), barred: x.barred.Load(), owner: owner, host: name.host, exporterID: name.id,
			exporter: exporterOf(w1), from16: p.from(), to16: p.to(), claims: f.claims(), released: f.released() && to != open, open: to == open, over: open,
		}
		if loose := f.loose(); !s.open && loose < open-to {
			s.over = to + loose
		}
		if s.open {
			verified, advanced := x.verified.Load(), x.advanced.Load()
			s.end = max(from, verified)
			s.alive, s.settled = v.alive(advanced), v.dead(advanced)
		}
		out = append(out, s)
	}
	return out
}
