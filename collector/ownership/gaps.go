package ownership

// untouched answers where no range comes near: from the last one before and the first one after.
func untouched(v View, q query, s []span) finding {
	prev, next, stands := neighbours(q, s)
	bridged := prev != nil && next != nil && v.bridges(q, prev, next, s)
	switch {
	case stands && !bridged:
		return found(Answer{Why: Pending}, around, nil)
	case v.horizon < q.hi:
		return found(wait, nowhere, nil)
	case bridged:
		return named(prev, around)
	case prev != nil && prev.lingers(q) && !looselyHeld(q, prev, s):
		if why := v.doubt(q, prev, s); why != Named {
			return found(Answer{Why: why}, around, nil)
		}
		return named(prev, edge)
	case prev != nil && next != nil:
		return found(Answer{Why: Gap}, nowhere, nil)
	}
	return found(Answer{Why: NoEvidence}, nowhere, nil)
}

// neighbours finds the last range before the moment (of those that ended together the one whose owner may have stayed longest) and the first one after it; stands says that one that ended last has not settled yet.
func neighbours(q query, s []span) (prev, next *span, stands bool) {
	for i := range s {
		switch r := &s[i]; {
		case r.ends() < q.lo && (prev == nil || r.end >= prev.end):
			stands = r.open && !r.settled || stands && r.end == prev.end
			if prev == nil || r.end > prev.end || r.over > prev.over {
				prev = r
			}
		case r.begins() > q.hi && (next == nil || r.from < next.from):
			next = r
		}
	}
	return prev, next, stands
}

// longestLinger is the longest time between two looks of an exporter that is well, and some.
const longestLinger = 512 * second / 1000

// lingers: the moment lies between the last one at which the owner was verified and the one at which its end was noticed, a fraction of a
// second later. Nobody else claims the address for this time, so whoever answered there was the owner.
func (r *span) lingers(q query) bool {
	return r.released && r.over-r.end <= longestLinger && q.hi-q.at+r.slack <= widestEdge && q.lo <= r.over+r.slack
}

// looselyHeld: somebody else may have been there then too.
func looselyHeld(q query, prev *span, s []span) bool {
	for i := range s {
		r := &s[i]
		if r.ends() < q.lo && r.over >= q.lo-r.slack && !agree(prev, r, q.hi-q.at) && !followed(q, r, s) {
			return true
		}
	}
	return false
}

// bridges: the gap is short, lies between two ranges of one instance that was not made up, nobody gave the address up, and
// nobody else comes near.
func (v View) bridges(q query, prev, next *span, s []span) bool {
	tol := q.hi - q.at
	if next.from-prev.end >= int64(v.t.cfg.Bridge) || prev.owner.Instance == "" {
		return false
	}
	for i := range s {
		r := &s[i]
		if r.end < prev.end-tol || r.from > next.from+tol {
			continue
		}
		if !sameInstance(prev, r) || r.owner.Derived || r.released && r.ends() < q.lo {
			return false
		}
	}
	return true
}
