package ownership

import (
	"math"
	"slices"
	"sort"
	"time"
)

// doubt: somebody else, who has not been heard of for a while but is not given up, began before best did and was still there when best began, or
// had the address between two ranges of best's instance. Or he gave it back, and best has not lasted for long.
func (m *model) doubt(rs []*mrange, best *mrange, at, tol, now int64) Why {
	why := Named
	if now < m.cfg.QuietUntil && m.end(best)-best.from-2*m.slack(best) < int64(m.cfg.Bridge) {
		why = Pending
	}
	for _, r := range rs {
		if r.from >= best.from || m.agree(best, r, tol, now) {
			continue
		}
		back := slices.ContainsFunc(rs, func(z *mrange) bool { return z.from < r.from && sameInst(z.owner, best.owner) })
		if r.isOpen && !m.alive(r, now) && !m.dead(r, now) && (back || m.ends(r) >= m.begins(best)) {
			return Pending
		}
		if back && why == Named && at-best.from < int64(m.cfg.Bridge) {
			why = Gap
		}
	}
	return why
}

// looseBefore are the others who ended before without a release and without a successor, where best does not cover the whole tolerance
// to the left.
func (m *model) looseBefore(rs []*mrange, best *mrange, at, tol, now int64) (out []*mrange) {
	if best.from+m.slack(best) <= at-tol {
		return nil
	}
	return m.looseOthers(rs, best, at, tol, now)
}

// looseOthers are looseBefore wherever best lies.
func (m *model) looseOthers(rs []*mrange, best *mrange, at, tol, now int64) (out []*mrange) {
	for _, r := range rs {
		gone := r.over < at-tol-m.slack(r)
		for _, z := range rs {
			if z.from >= m.end(r) && m.end(z) > m.end(r) && m.ends(z) < at-tol {
				gone = true
			}
		}
		if !gone && m.ends(r) < at-tol && !m.agree(best, r, tol, now) {
			out = append(out, r)
		}
	}
	return out
}

// vouchesTo is until when nobody else can have spoken under the address: a watermark is stamped 0.2 s before the check that it follows.
func (m *model) vouchesTo(r *mrange) int64 {
	if r.released && r.over-r.to <= 512*int64(time.Millisecond) {
		return open
	}
	if r.released && r.over == open || m.end(r) <= r.from {
		return m.end(r) - m.slack(r)
	}
	return m.end(r) - m.slack(r) + 200*int64(time.Millisecond)
}

// overAt is when an owner that was last verified at end and missed at noticed was surely gone: rounded up to 16 ms, 32 ms, 64 ms, ...
func overAt(end, noticed int64) int64 {
	if noticed <= end {
		return end
	}
	for d := 16 * int64(time.Millisecond); d <= int64(131072*time.Millisecond); d *= 2 {
		if d >= noticed-end {
			return end + d
		}
	}
	return open
}

// clock is what the readings say: how far it is ahead, how far off its times may be, and whether that is too much. A message's delay is never
// negative and seldom long, so the least lateness of a minute is the error.
func (m *model) clock(w *mmark) (ahead, slack int64, bad bool) {
	n := len(w.late)
	if n == 0 {
		return 0, 0, false
	}
	var window []int64 // the least of each 32
	for i := 0; i < n; i += 32 {
		window = append(window, slices.Min(w.late[i:min(i+32, n)]))
	}
	last := len(window) - 1
	least := slices.Min(window[max(0, last-1):])
	wrong := abs(least)
	for _, l := range window[max(0, last-7):last] {
		wrong = max(wrong, abs(l))
	}
	slack = max(wrong, slices.Min(w.late[max(0, n-4):]))
	if least >= 0 && n < 4 {
		wrong = 0
	}
	if slack <= 40*int64(time.Millisecond) {
		least, slack, wrong = 0, 0, 0
	}
	if n < 4 {
		slack = max(slack, 250*int64(time.Millisecond))
	}
	return -least, slack, wrong > int64(m.cfg.MaxClockError)
}

func (m *model) slack(r *mrange) int64 {
	_, slack, _ := m.clock(m.mark(r.exporter))
	return min(slack, 30*second)
}

func (m *model) bad(r *mrange) bool {
	_, _, bad := m.clock(m.mark(r.exporter))
	return bad
}

func (m *model) begins(r *mrange) int64 { return r.from - m.slack(r) }
func (m *model) ends(r *mrange) int64   { return m.end(r) + m.slack(r) }

func sameInst(a, b Owner) bool { return a.Workload == b.Workload && a.Instance == b.Instance }

func (m *model) horizon(now int64) int64 {
	if now < m.cfg.QuietUntil {
		return math.MinInt64
	}
	h := int64(open)
	for _, w := range m.wm {
		ahead, _, bad := m.clock(w)
		if w.advanced >= now-int64(m.cfg.Standstill) && !bad {
			h = min(h, w.verified-ahead)
		}
	}
	return h
}

func (m *model) agree(a, b *mrange, tol, now int64) bool {
	if sameInst(a.owner, b.owner) {
		return true
	}
	last := func(r *mrange) int64 {
		if r.isOpen && m.alive(r, now) {
			return open
		}
		return m.end(r)
	}
	return a.owner.Workload == b.owner.Workload && a.host != "" && a.host == b.host && a.exporter != b.exporter &&
		min(last(a), last(b))-max(a.from, b.from) > tol
}

func (m *model) best(rs []*mrange, at int64) *mrange {
	s := append([]*mrange(nil), rs...)
	sort.SliceStable(s, func(i, j int) bool {
		a, b := s[i], s[j]
		ac, bc := a.from <= at && m.end(a) >= at, b.from <= at && m.end(b) >= at
		switch {
		case m.bad(a) != m.bad(b):
			return m.bad(b)
		case ac != bc:
			return ac
		case a.owner.Derived != b.owner.Derived:
			return b.owner.Derived
		case a.from != b.from:
			return a.from > b.from
		case m.slack(a) != m.slack(b):
			return m.slack(a) < m.slack(b)
		case m.end(a) != m.end(b):
			return m.end(a) > m.end(b)
		}
		return ownerKey(&a.owner) < ownerKey(&b.owner)
	})
	return s[0]
}

func (m *model) contradiction(rs []*mrange, at, tol, now int64) Why {
	count := func(o Owner) (n int) {
		for _, r := range rs {
			if sameInst(r.owner, o) {
				n += r.claims
			}
		}
		return n
	}
	why := Gap
	for _, a := range rs {
		for _, b := range rs {
			if a == b || m.agree(a, b, tol, now) || a.from > at || b.from > at || m.end(a) < at || m.end(b) < at {
				continue
			}
			if min(m.end(a), m.end(b))-max(a.from, b.from) <= tol {
				continue
			}
			if count(a.owner) >= 3 && count(b.owner) >= 3 {
				return Shared
			}
			why = Conflict
		}
	}
	return why
}
