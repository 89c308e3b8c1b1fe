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

func (v *View) lookup(f *Found, port uint16, at, tolerance int64, a *Answer) {
	q := query{port, at, at - tolerance, at + tolerance}
	for {
		switch {
		case f.rec == nil:
			*a = v.absent(f.key.Addr, &q)
		case !v.fast(f.rec, &q, a):
			*a = v.slow(f.rec, q)
		}
		if f.stands(v.t) {
			return
		}
		v.t.findOne(f.key, f)
	}
}

func (v *View) absent(addr Addr, q *query) Answer {
	if !v.t.isInternal(addr) {
		return Answer{Why: External, From: math.MinInt64, Until: math.MaxInt64}
	}
	return v.absentAnswer(q.hi)
}

// absentAnswer is what is known where nobody is known to have had the address.
func (v *View) absentAnswer(hi int64) Answer {
	if v.horizon < hi {
		// In the quiet time nobody knows when evidence comes, or whether: the row goes on and is named later.
		return Answer{Why: Pending, Wait: !v.quiet}
	}
	return Answer{Why: NoEvidence}
}

// fast answers the two common cases without copying: one range around the whole of at ± tolerance, or one that its living exporter
// has not verified that far yet, and nothing else near it. ok false means that the case is not that simple.
func (v *View) fast(r record, q *query, a *Answer) bool {
	first, word, n, _ := r.shape()
	tol, most := q.hi-q.at, v.t.mostSlack.Load()
	others, ok, began := false, false, int64(open) // a range before; whether one answers; when the one that names did
	from, until := tol, int64(math.MaxInt64)
	if first&(hasPorts|hasLost) != 0 || q.at < from {
		return false
	}
	*a = Answer{}
	for ; n > 0; n, word = n-1, word+2 {
		w0, w1 := r[word].Load(), r[word+1].Load()
		begin, end := times(w0, w1)
		switch {
		case begin-most > q.hi:
			until = min(until, begin-most-tol-1)
			continue
		case end < q.lo-most:
			from, others = max(from, end+most+tol+1), true
			continue
		case ok:
			return false
		}
		x := v.t.exporters.at(exporterOf(w1))
		isOpen := end == open
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
		o := v.t.owners.at(ownerOf(w1))
		owner := o.owner.Load()
		switch {
		case owner == nil || o.assigned.Load() || x.who.Load() == nil, v.tooYoung(q.hi, begin, end):
			return false
		case begin <= q.lo && end >= q.hi:
			a.Owner, began = owner, begin
			from, until = max(from, begin+tol), min(until, end-tol)
		case isOpen && begin <= q.hi && end < q.hi && v.alive(x.advanced.Load()):
			a.Why, a.Wait = Pending, true
			from = max(from, begin-tol, end-tol+1)
		default:
			return false
		}
		ok = true
	}
	a.From, a.Until = v.lasting(from, began, others), until
	return ok && q.at >= a.From
}

// lasting is from when on an answer holds: where others had the address before, doubt has a say in the beginning.
func (v *View) lasting(from, began int64, others bool) int64 {
	if !others || began == open {
		return from
	}
	return max(from, began+int64(v.t.cfg.Bridge))
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
