package ownership

import (
	"slices"
	"sort"
	"time"
)

// model is the slow, obviously right table: slices, strings, and the rules of DESIGN §8 as sentences.
type model struct {
	cfg    Config
	ranges []*mrange
	wm     map[string]*mmark
	lost   map[mkey]int64
}

type mkey struct {
	net  string
	addr Addr
}

type mrange struct {
	key      mkey
	exporter string
	host     string
	owner    Owner
	p0, p1   uint16
	from, to int64
	isOpen   bool
	released bool
	over     int64 // when its owner was surely gone; open if nobody knows
	claims   int
}

type mmark struct {
	verified, advanced int64
	late               []int64 // of each message with a clock reading: our clock at arrival - its clock at sending
}

func newModel(cfg Config) *model {
	return &model{cfg: cfg.withDefaults(), wm: map[string]*mmark{}, lost: map[mkey]int64{}}
}

func (m *model) end(r *mrange) int64 {
	if !r.isOpen {
		return r.to
	}
	return max(r.from, m.wm[r.exporter].verified)
}

// over is when a range's owner was surely gone: of an open one nobody knows.
func (m *model) over(r *mrange) int64 {
	if r.isOpen {
		return open
	}
	return r.over
}

func (m *model) mark(exporter string) *mmark {
	if m.wm[exporter] == nil {
		m.wm[exporter] = &mmark{}
	}
	return m.wm[exporter]
}

func (m *model) seen(exporter string, now int64) {
	if w := m.mark(exporter); w.verified == 0 && w.advanced == 0 {
		w.advanced = now
	}
}

// ms is what times of ranges are cut to.
func ms(ns int64) int64 { return ns / 1e6 * 1e6 }

func (m *model) claim(given *Claim, now int64) bool {
	c := *given
	c.From = ms(c.From)
	if given.From <= 0 || given.From > now+int64(m.cfg.MaxAhead) {
		return false
	}
	m.seen(c.Exporter, now)
	var current *mrange
	from := c.From
	for _, r := range m.ranges {
		if r.key != (mkey{c.Network, c.Addr}) || r.exporter != c.Exporter || r.p0 != c.PortFrom || r.p1 != c.PortTo {
			continue
		}
		if r.owner == c.Owner && (c.From == r.from || c.From > r.from && c.From < m.end(r) || r.isOpen && c.From > r.from && c.From == m.end(r)) {
			r.claims = min(r.claims+1, maxClaims)
			return true
		}
		if r.isOpen {
			current = r
		} else {
			from = max(from, r.to)
		}
	}
	if current != nil && c.From < current.from {
		return current.owner == c.Owner
	}
	if current != nil {
		current.to = min(from, m.end(current))
		current.isOpen = false
		current.released = current.released || current.owner != c.Owner
		current.over = overAt(current.to, from)
	}
	m.ranges = append(m.ranges, &mrange{
		key: mkey{c.Network, c.Addr}, exporter: c.Exporter, host: c.Host, owner: c.Owner, p0: c.PortFrom,
		p1: c.PortTo, from: from, isOpen: true, claims: 1, over: open,
	})
	return true
}

func (m *model) release(r *Release, now int64) bool {
	if r.At <= 0 && !r.Absent || r.At > now+int64(m.cfg.MaxAhead) {
		return false
	}
	for _, g := range m.ranges {
		if g.isOpen && g.key == (mkey{r.Network, r.Addr}) && g.exporter == r.Exporter && g.p0 == r.PortFrom && g.p1 == r.PortTo {
			if ms(r.At) < g.from && !r.Absent {
				return false
			}
			at := max(ms(r.At), g.from)
			g.to, g.isOpen, g.released, g.over = at, false, true, overAt(at, ms(now))
			if r.Absent {
				g.over = max(g.over, overAt(at, at+1024*int64(time.Millisecond)))
			}
			if r.Shared {
				g.over = open
			}
			return true
		}
	}
	return false
}

func (m *model) watermark(w *Watermark) {
	if w.VerifiedTo <= 0 {
		return
	}
	if w.ClockNs != 0 {
		k := m.mark(w.Exporter)
		k.late = append(k.late, w.ReceivedAt-w.ClockNs)
	}
	if w.VerifiedTo > w.ReceivedAt+int64(m.cfg.MaxAhead) {
		return
	}
	if k := m.mark(w.Exporter); ms(w.VerifiedTo) > k.verified {
		k.verified, k.advanced = ms(w.VerifiedTo), max(k.advanced, w.ReceivedAt)
	}
}

func (m *model) expire(now int64) {
	var kept []*mrange
	has := map[string]bool{}
	alive := map[mkey]bool{}
	for _, r := range m.ranges {
		if (!r.isOpen || m.dead(r, now)) && m.end(r) < now-int64(m.cfg.Retention) {
			m.lost[r.key] = max(m.lost[r.key], (m.end(r)/second+1)*second)
			continue
		}
		kept = append(kept, r)
		has[r.exporter], alive[r.key] = true, true
	}
	m.ranges = kept
	for k := range m.lost {
		if !alive[k] {
			delete(m.lost, k)
		}
	}
	for x, w := range m.wm {
		if !has[x] && w.advanced < now-int64(m.cfg.DeadAfter) {
			delete(m.wm, x)
		}
	}
}

func (m *model) alive(r *mrange, now int64) bool {
	return m.wm[r.exporter].advanced >= now-int64(m.cfg.Standstill)
}

func (m *model) dead(r *mrange, now int64) bool {
	return m.wm[r.exporter].advanced < now-int64(m.cfg.DeadAfter)
}

type manswer struct {
	owner Owner
	why   Why
	wait  bool
	kind  string // around, edge, nowhere
	who   *mrange
}

func (m *model) lookup(net string, addr Addr, port uint16, at, tol, now int64) manswer {
	var ported, whole []*mrange
	known := false
	for _, r := range m.ranges {
		if r.key != (mkey{net, addr}) {
			continue
		}
		known = true
		if r.p0 == 0 {
			whole = append(whole, r)
		} else if r.p0 <= port && port <= r.p1 {
			ported = append(ported, r)
		}
	}
	if !known && !addr.Netip().IsPrivate() {
		return manswer{why: External}
	}
	if !known && now < m.cfg.QuietUntil {
		return manswer{why: Pending}
	}
	if known && at-tol < m.lost[mkey{net, addr}] {
		return manswer{why: NoEvidence}
	}
	p, w := m.set(ported, at, tol, now), m.set(whole, at, tol, now)
	switch {
	case len(ported) == 0:
		return w
	case p.kind == "around":
		return p
	case p.kind == "edge":
		if w.who != nil && !m.agree(p.who, w.who, tol, now) || len(m.looseBefore(whole, p.who, at, tol, now)) > 0 {
			return manswer{why: Gap}
		}
		return p
	case w.kind != "nowhere", p.why == NoEvidence:
		return w
	}
	return p
}

// set judges ranges about one thing. Every line is one row of the table.
func (m *model) set(rs []*mrange, at, tol, now int64) manswer {
	lo, hi := at-tol, at+tol
	pick := func(f func(*mrange) bool) (out []*mrange) {
		for _, r := range rs {
			if f(r) {
				out = append(out, r)
			}
		}
		return out
	}
	touching := pick(func(r *mrange) bool { return m.begins(r) <= hi && m.ends(r) >= lo })
	unverified := pick(func(r *mrange) bool {
		return r.isOpen && m.alive(r, now) && !m.bad(r) && m.begins(r) <= hi && m.end(r)-m.slack(r) < hi
	})
	covering := pick(func(r *mrange) bool { return r.from+m.slack(r) <= lo && m.end(r)-m.slack(r) >= hi })
	evidenceMayCome := m.horizon(now) < hi
	name := func(r *mrange, kind string) manswer {
		if m.bad(r) {
			return manswer{why: Clock, kind: kind, who: r}
		}
		return manswer{owner: r.owner, kind: kind, who: r}
	}
	waiting := func(kind string) manswer { return manswer{why: Pending, wait: true, kind: kind} }

	allAgree := func(a, b []*mrange) bool {
		for _, x := range a {
			for _, y := range b {
				if x != y && !m.agree(x, y, tol, now) {
					return false
				}
			}
		}
		return true
	}
	if len(touching) > 0 {
		best := m.best(touching, at)
		one := allAgree(touching, touching)
		switch {
		case one && len(covering) > 0 && allAgree([]*mrange{best}, unverified):
			if why := m.doubt(rs, best, at, tol, now); why != Named {
				return manswer{why: why, kind: "around", who: best}
			}
			return name(best, "around")
		case len(unverified) > 0:
			a := waiting("around")
			a.who = best
			return a
		case !one:
			return manswer{why: m.contradiction(rs, at, tol, now), kind: "around", who: best}
		case m.bad(best):
			return manswer{why: Clock, kind: "around", who: best}
		case evidenceMayCome:
			a := waiting("edge")
			a.who = best
			return a
		case tol+m.slack(best) > 600*int64(time.Millisecond), len(pick(func(r *mrange) bool { return m.begins(r) <= hi && m.ends(r) >= lo && m.vouchesTo(r) >= hi })) == 0:
			return manswer{why: Gap, kind: "around", who: best}
		}
		if why := m.doubt(rs, best, at, tol, now); why != Named {
			return manswer{why: why, kind: "around", who: best}
		}
		if loose := m.looseBefore(rs, best, at, tol, now); len(loose) > 0 {
			for _, r := range loose {
				if r.isOpen && !m.dead(r, now) {
					return manswer{why: Pending, kind: "around", who: best}
				}
			}
			return manswer{why: Gap, kind: "around", who: best}
		}
		return name(best, "edge")
	}
	if len(unverified) > 0 {
		return waiting("around")
	}
	before := pick(func(r *mrange) bool { return m.ends(r) < lo })
	after := pick(func(r *mrange) bool { return m.begins(r) > hi })
	slices.Reverse(before) // of equal ones the later claim
	sort.SliceStable(before, func(i, j int) bool {
		a, b := before[i], before[j]
		if m.end(a) != m.end(b) {
			return m.end(a) > m.end(b)
		}
		return m.over(a) > m.over(b) || m.over(a) == m.over(b) && a.from > b.from
	})
	sort.SliceStable(after, func(i, j int) bool { return after[i].from < after[j].from })
	bridged := false
	if len(before) > 0 && len(after) > 0 {
		p, n := m.end(before[0]), after[0].from
		bridged = n-p < int64(m.cfg.Bridge)
		for _, r := range rs {
			if m.end(r) < p-tol || r.from > n+tol {
				continue
			}
			if !sameInst(r.owner, before[0].owner) || r.owner.Derived || r.owner.Instance == "" || r.released && m.ends(r) < lo {
				bridged = false
			}
		}
	}
	if len(before) > 0 && !bridged {
		for _, r := range before {
			if m.end(r) == m.end(before[0]) && r.isOpen && !m.dead(r, now) {
				return manswer{why: Pending, kind: "around"}
			}
		}
	}
	switch {
	case evidenceMayCome:
		return waiting("nowhere")
	case bridged:
		return name(before[0], "around")
	}
	if len(before) > 0 {
		// Nobody else may have been there, and the end was noticed at once but not before the moment.
		last := before[0]
		if last.released && last.over-last.to <= 512*int64(time.Millisecond) && last.over+m.slack(last) >= lo && tol+m.slack(last) <= 600*int64(time.Millisecond) {
			if len(m.looseOthers(rs, last, at, tol, now)) == 0 {
				if why := m.doubt(rs, last, at, tol, now); why != Named {
					return manswer{why: why, kind: "around"}
				}
				return name(last, "edge")
			}
		}
	}
	switch {
	case len(before) > 0 && len(after) > 0:
		return manswer{why: Gap, kind: "nowhere"}
	}
	return manswer{why: NoEvidence, kind: "nowhere"}
}

const modelStep = int64(500 * time.Millisecond)
