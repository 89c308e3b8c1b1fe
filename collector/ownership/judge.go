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

func (v View) alive(advanced int64) bool { return advanced >= v.now-int64(v.t.cfg.Standstill) }
func (v View) dead(advanced int64) bool  { return advanced < v.now-int64(v.t.cfg.DeadAfter) }

// query is one question. lo and hi are at less and plus the tolerance.
type query struct {
	port       uint16
	at, lo, hi int64
}

func newQuery(port uint16, at, tolerance int64) query {
	return query{port, at, at - tolerance, at + tolerance}
}

// Lookup says who owned the address (and port, where a claim has ports) at a moment, in the collector's time, give or take
// tolerance. The rules are DESIGN §8's table; judge has them in full. A name needs evidence for the whole of at ± tolerance;
// "inside" is decided only when every exporter with an open range there has verified it to the end of the tolerance.
func (v View) Lookup(net NetworkID, addr Addr, port uint16, at, tolerance int64) Answer {
	q := newQuery(port, at, tolerance)
	for {
		n := v.t.find(uint32(net), addr)
		if n == 0 {
			return v.absent(addr, q)
		}
		e := v.t.entries.at(n)
		gen := e.gen.Load()
		if e.lo.Load() != addr.Lo || e.hi.Load() != addr.Hi || e.net.Load() != uint32(net) {
			continue // the entry was used for another key since find
		}
		a, ok := v.fast(e, q)
		if !ok {
			a = v.slow(e, q)
		}
		if e.gen.Load() == gen {
			return a
		}
	}
}

func (v View) absent(addr Addr, q query) Answer {
	if !v.t.isInternal(addr) {
		return Answer{Why: External, From: math.MinInt64, Until: math.MaxInt64}
	}
	return v.absentAnswer(q)
}

// absentAnswer is what is known where nobody is known to have had the address.
func (v View) absentAnswer(q query) Answer {
	if v.horizon < q.hi {
		// In the quiet time nobody knows when evidence comes, or whether: the row goes on and is named later.
		return Answer{Why: Pending, Wait: !v.quiet}
	}
	return Answer{Why: NoEvidence}
}

// fast answers the two common cases without copying: one range around the whole of at ± tolerance, or one that its living exporter
// has not verified that far yet, and nothing else near it. ok false means that the case is not that simple.
func (v View) fast(e *entry, q query) (a Answer, ok bool) {
	tol, most := q.hi-q.at, v.t.mostSlack.Load()
	others, began := false, int64(open) // a range before; when the one that names did
	from, until := int64(e.lost.Load())*second+tol, int64(math.MaxInt64)
	if q.at < from {
		return a, false
	}
	for i := e.head.Load(); i != 0; {
		r := v.t.node(i)
		begin, end := r.from.Load(), r.to.Load()
		l := link(r.link.Load())
		i = l.next()
		switch {
		case l.ports() != 0:
			return a, false
		case begin-most > q.hi:
			until = min(until, begin-most-tol-1)
			continue
		case end < q.lo-most:
			from, others = max(from, end+most+tol+1), true
			continue
		case ok:
			return a, false
		}
		w := who(r.who.Load())
		x := v.t.exporters.at(w.exporter())
		isOpen := end == open
		if isOpen {
			end = max(begin, x.verified.Load()) // as spans says it
		}
		if most != 0 {
			if x.barred.Load() {
				return a, false
			}
			slack := x.slack.Load()
			begin, end = begin+slack, end-slack
		}
		a.Owner = v.t.owners.at(w.owner()).owner.Load()
		switch {
		case a.Owner == nil || a.Owner.Assigned || x.who.Load() == nil, v.tooYoung(q, begin, end):
			return a, false
		case begin <= q.lo && end >= q.hi:
			began = begin
			from, until = max(from, begin+tol), min(until, end-tol)
		case isOpen && begin <= q.hi && end < q.hi && v.alive(x.advanced.Load()):
			a = wait
			from = max(from, begin-tol, end-tol+1)
		default:
			return a, false
		}
		ok = true
	}
	a.From, a.Until = v.lasting(from, began, others), until
	return a, ok && q.at >= a.From
}

// lasting is from when on an answer holds: where others had the address before, doubt has a say in the beginning.
func (v View) lasting(from, began int64, others bool) int64 {
	if !others || began == open {
		return from
	}
	return max(from, began+int64(v.t.cfg.Bridge))
}

// young: the owner was not seen for long. In the quiet time that may be the claim of a host that froze and does not know yet that it lost the
// address, while whoever has it now has not connected yet.
func (v View) young(from, end int64) bool { return end-from < int64(v.t.cfg.Bridge) }

// tooYoung: the range is young, and whoever else had the address then may not be known yet.
func (v View) tooYoung(q query, from, end int64) bool {
	return (v.quiet || v.complete < q.hi) && v.young(from, end)
}

// slow copies the ranges and judges them.
func (v View) slow(e *entry, q query) Answer {
	if q.lo < int64(e.lost.Load())*second {
		return Answer{Why: NoEvidence}
	}
	var buf [maxWalk]span
	return judge(v, q, v.spans(e, buf[:0]))
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

// spans reads an entry's chain. What was unlinked meanwhile may be skipped: the caller compares generations.
func (v View) spans(e *entry, out []span) []span {
	for i := e.head.Load(); i != 0 && len(out) < maxWalk; {
		r := v.t.node(i)
		from, to, w, l := r.from.Load(), r.to.Load(), who(r.who.Load()), link(r.link.Load())
		i = l.next()
		owner := v.t.owners.at(w.owner()).owner.Load()
		x := v.t.exporters.at(w.exporter())
		name := x.who.Load()
		if owner == nil || name == nil {
			continue
		}
		s := span{
			from: from, end: to, slack: x.slack.Load(), barred: x.barred.Load(), owner: owner, host: name.host, exporterID: name.id, exporter: w.exporter(),
			from16: l.portFrom(), to16: l.portTo(), claims: w.claims(), released: w.released() && to != open, open: to == open, over: open,
		}
		if loose := w.loose(); !s.open && loose < open-to {
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
