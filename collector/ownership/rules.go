package ownership

// judge answers a query from the ranges of one address: from the claims, and where those know nothing, from the assignments.
func judge(v View, q query, all []span) Answer {
	claimed, assigned := split(all)
	if len(assigned) == 0 {
		return judgePlain(v, q, claimed)
	}
	var a Answer
	a.Why, a.Wait = v.nobody(q.hi) // a claim may still come
	if len(claimed) > 0 {
		a = judgePlain(v, q, claimed)
	}
	if a.Why != NoEvidence {
		return a
	}
	return judgePlain(v, q, assigned)
}

// split tells claims from assignments; without assignments it is free.
func split(all []span) (claimed, assigned []span) {
	for i := range all {
		if all[i].owner.Assigned {
			assigned = append(assigned, all[i])
		}
	}
	if len(assigned) == 0 {
		return all, nil
	}
	for i := range all {
		if !all[i].owner.Assigned {
			claimed = append(claimed, all[i])
		}
	}
	return claimed, assigned
}

// judgePlain answers from ranges that are all claims, or all assignments. Ranges with ports speak first, about their ports: they are the finer
// evidence. Ranges of the whole address decide where those know nothing of the moment.
func judgePlain(v View, q query, all []span) Answer {
	for i := range all {
		if all[i].from16 != 0 {
			return judgePorts(v, q, all)
		}
	}
	return judgeSet(v, q, all).Answer
}

func judgePorts(v View, q query, all []span) Answer {
	var pbuf, wbuf [maxWalk]span
	ported, whole := pbuf[:0], wbuf[:0]
	for i := range all {
		switch s := &all[i]; {
		case s.from16 == 0:
			whole = append(whole, *s)
		case s.from16 <= q.port && q.port <= s.to16:
			ported = append(ported, *s)
		}
	}
	if len(ported) == 0 {
		return judgeSet(v, q, whole).Answer
	}
	p := judgeSet(v, q, ported)
	w := judgeSet(v, q, whole)
	switch {
	case p.reach == around:
		return p.Answer
	case p.reach == edge:
		// The tolerance may touch both the part's owner and the whole's.
		_, before := looseBefore(q, &p.touched, whole)
		if before || w.touched.owner != nil && !agree(&p.touched, &w.touched, q.hi-q.at) {
			return Answer{Why: Gap}
		}
		return p.Answer
	case w.reach != nowhere, p.Why == NoEvidence:
		return w.Answer
	}
	return p.Answer
}

// widestEdge is the widest tolerance, slack included, with which a moment at the edge of a range is still its owner's. Allocators keep an address
// back for longer than that before they hand it on; with clocks that are off by more, somebody whose claim is missing may have had it.
const widestEdge = 600 * second / 1000

// reach says how a set of ranges lies to at ± tolerance.
type reach uint8

const (
	nowhere reach = iota // nothing touches it
	edge                 // touched by one owner, not covered
	around               // covered, contradicted, bridged, or not verified yet
)

// finding holds a copy of the range that touches: a pointer into the ranges would put all of them on the heap, at every look-up.
type finding struct {
	Answer
	reach   reach
	touched span // without an owner: none
}

func found(a Answer, reach reach, touched *span) finding {
	if touched == nil {
		return finding{Answer: a, reach: reach}
	}
	return finding{a, reach, *touched}
}

// named is the answer that r gives, if it may name anybody.
func named(r *span, reach reach) finding {
	if r.barred {
		return found(Answer{Why: Clock}, reach, r)
	}
	return finding{Answer{Owner: r.owner, Edge: reach == edge}, reach, *r}
}

var wait = Answer{Why: Pending, Wait: true}

// judgeSet answers from ranges that all speak about the same thing.
func judgeSet(v View, q query, s []span) finding {
	best, several, full, later := touching(q, s)
	switch {
	case full && !several && !(later && othersMayReach(q, best, s)):
		if !v.quiet && v.tooYoung(q.hi, best.from+best.slack, best.end-best.slack) {
			return found(wait, around, best)
		}
		if why := v.doubt(q, best, s); why != Named {
			return found(Answer{Why: why}, around, best)
		}
		return named(best, around)
	case later:
		return found(wait, around, best)
	case several:
		return found(Answer{Why: contradiction(q, s)}, around, best)
	case best != nil && best.barred:
		return named(best, around)
	case best != nil && v.horizon < q.hi:
		return found(wait, edge, best)
	case best != nil && (q.hi-q.at+best.slack > widestEdge || outlasts(q, s)):
		return found(Answer{Why: Gap}, around, best)
	case best != nil:
		if why := v.doubt(q, best, s); why != Named {
			return found(Answer{Why: why}, around, best)
		}
		if a, ok := looseBefore(q, best, s); ok {
			return found(a, around, best)
		}
		return named(best, edge)
	}
	return untouched(v, q, s)
}

// touching finds the finest range that touches the moment and its tolerance, whether ranges that touch it disagree, whether one covers all of
// it, and whether a range may reach it later.
func touching(q query, s []span) (best *span, several, full, later bool) {
	for i := range s {
		r := &s[i]
		later = later || r.mayReach(q)
		if !r.touches(q) {
			continue
		}
		for j := range s[:i] {
			several = several || s[j].touches(q) && !agree(&s[j], r, q.hi-q.at)
		}
		full = full || r.from+r.slack <= q.lo && r.end-r.slack >= q.hi
		best = finer(best, r, q.at)
	}
	return best, several, full, later
}

// afterVerified is how long what is verified holds on: exporters stamp a watermark so long before the check that it follows. So an address that
// begins to stand for connections of others, with no pause as one that is handed on has, does so later than that after the last watermark.
const afterVerified = 200 * second / 1000

// outlasts: the tolerance reaches past the end of all that touches it, further than the ends vouch for.
func outlasts(q query, s []span) bool {
	for i := range s {
		if r := &s[i]; r.touches(q) && r.vouchesTo() >= q.hi {
			return false
		}
	}
	return true
}

// vouchesTo is up to when nobody but the owner spoke under the address. Of one that was given up, and missed at once, that is known: the address was gone.
func (r *span) vouchesTo() int64 {
	switch {
	case r.released && r.over-r.end <= longestLinger:
		return open
	case r.blurred(), r.end <= r.from: // or it was never verified
		return r.end - r.slack
	}
	return r.end - r.slack + afterVerified
}

// blurred: the owner gave the address up, and from when on others spoke under it nobody knows. See noticed.
func (r *span) blurred() bool { return r.released && r.over == open }

// looseBefore: the tolerance reaches back before best began, into the time for which nobody knows whether one who had the address before was
// still there: from the last moment that was verified until its end was noticed, or for good if its host crashed or was cut off. So the
// edge is not best's alone. It is over, though, if somebody else has had the address in between. The answer is pending while the exporter
// may come back and say.
func looseBefore(q query, best *span, s []span) (a Answer, ok bool) {
	if best.from+best.slack <= q.lo {
		return a, false
	}
	a.Why = Gap
	for i := range s {
		r := &s[i]
		if r.ends() >= q.lo || r.over < q.lo-r.slack || agree(best, r, q.hi-q.at) || followed(q, r, s) {
			continue
		}
		ok = true
		if r.open && !r.settled {
			a.Why = Pending
		}
	}
	return a, ok
}

// followed: another range began at or after r's end and ended before the tolerance begins.
func followed(q query, r *span, s []span) bool {
	for i := range s {
		if z := &s[i]; z.from >= r.end && z.ends() < q.lo && z.end > r.end {
			return true
		}
	}
	return false
}

func (r *span) touches(q query) bool { return r.begins() <= q.hi && r.ends() >= q.lo }

// begins and ends are the bounds at their widest.
func (r *span) begins() int64 { return r.from - r.slack }
func (r *span) ends() int64   { return r.end + r.slack }

// mayReach: the range is open, its exporter alive, and how far it reaches at the end of the tolerance is not known yet.
func (r *span) mayReach(q query) bool {
	return r.alive && !r.barred && r.end-r.slack < q.hi
}

func othersMayReach(q query, best *span, s []span) bool {
	for i := range s {
		if s[i].mayReach(q) && !agree(best, &s[i], q.hi-q.at) {
			return true
		}
	}
	return false
}

// doubt says why best, which covers the moment or comes near it, may still be the claim of a host that froze, lost the address, and does not know it yet. It is
// pending while another owner's exporter, who was there when best began or came after an earlier range of best's instance, stands still;
// and in the quiet time while best's owner has not been seen for long. It is a gap where another owner has had the address since best's instance
// had it first, until best has lasted for as long as Bridge: by then such a host has been told.
func (v View) doubt(q query, best *span, s []span) Why {
	why := Named
	if v.quiet && v.young(best.from+best.slack, best.end-best.slack) {
		why = Pending
	}
	for i := range s {
		r := &s[i]
		if r.from >= best.from || agree(best, r, q.hi-q.at) {
			continue
		}
		back := false
		for j := range s {
			back = back || s[j].from < r.from && sameInstance(&s[j], best)
		}
		switch silent := r.open && !r.alive && !r.settled; {
		case silent && (back || r.ends() >= best.begins()):
			return Pending
		case back && why == Named && v.young(best.from, q.at):
			why = Gap
		}
	}
	return why
}

func sameInstance(a, b *span) bool {
	return a.owner == b.owner || a.owner.Workload == b.owner.Workload && a.owner.Instance == b.owner.Instance
}

// agree: one instance, or one workload claimed at once by two exporters of one host (a sidecar and a daemon have different
// ideas of an instance). Two instances of a workload that hand an address on do not overlap so, and do not agree.
func agree(a, b *span, tol int64) bool {
	if sameInstance(a, b) {
		return true
	}
	return a.owner.Workload == b.owner.Workload && a.host != "" && a.host == b.host && a.exporter != b.exporter && overlap(a, b) > tol
}

// overlap is how long both ranges last together; one that is open and verified by a living exporter goes on.
func overlap(a, b *span) int64 {
	end := func(s *span) int64 {
		if s.alive {
			return open
		}
		return s.end
	}
	return min(end(a), end(b)) - max(a.from, b.from)
}

// finer picks of two ranges that agree the one to name: the one that may name, then the one that covers the moment, then one whose instance was not made up,
// then the later claim, then the better clock, then the later end, then by name, so that the answer does not depend on the order of arrival.
func finer(a, b *span, at int64) *span {
	if a == nil {
		return b
	}
	ac, bc := a.from <= at && a.end >= at, b.from <= at && b.end >= at
	switch {
	case a.barred != b.barred:
		return pick(b.barred, a, b)
	case ac != bc:
		return pick(ac, a, b)
	case a.owner.Derived != b.owner.Derived:
		return pick(b.owner.Derived, a, b)
	case a.from != b.from:
		return pick(a.from > b.from, a, b)
	case a.slack != b.slack:
		return pick(a.slack < b.slack, a, b)
	case a.end != b.end:
		return pick(a.end > b.end, a, b)
	}
	return pick(ownerKey(a.owner) <= ownerKey(b.owner), a, b)
}

func pick(first bool, a, b *span) *span {
	if first {
		return a
	}
	return b
}

func ownerKey(o *Owner) string {
	return o.Instance + "\x00" + o.Release + "\x00" + o.Zone + "\x00" + o.Region + "\x00" + o.Workload
}

// contradiction tells a handover (gap) from two owners at once (conflict), and a conflict that both sides keep claiming from one
// that will pass: then the address is shared.
func contradiction(q query, s []span) Why {
	tol := q.hi - q.at
	why := Gap
	for i := range s {
		for j := range s[:i] {
			a, b := &s[i], &s[j]
			if !a.covers(q.at) || !b.covers(q.at) || agree(a, b, tol) || min(a.end, b.end)-max(a.from, b.from) <= tol {
				continue
			}
			if claimsOf(a, s) >= sharedClaims && claimsOf(b, s) >= sharedClaims {
				return Shared
			}
			why = Conflict
		}
	}
	return why
}

// sharedClaims is how many claims of both sides make an address shared.
const sharedClaims = 3

func (r *span) covers(at int64) bool { return r.from <= at && r.end >= at }

func claimsOf(a *span, s []span) (n int) {
	for i := range s {
		if sameInstance(a, &s[i]) {
			n += int(s[i].claims)
		}
	}
	return n
}
