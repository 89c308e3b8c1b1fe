package ownership

import (
	"math"
	"time"
)

const (
	// fastest is how long an exporter's fastest message of a minute may take. A clock that is off by less counts as right: the tolerance of
	// look-ups has room for two such clocks.
	fastest = int64(40 * time.Millisecond)
	// youngSlack is the least slack of an exporter with fewer than youngMarks readings: its fastest message may not have come yet.
	youngSlack = int64(250 * time.Millisecond)
	youngMarks = 4
	windowLen  = 32 // readings
	windows    = 8  // remembered, the present one included: an error is held against old claims for minutes after it was mended
	// widestSlack bounds what the ranges of an exporter are widened by. A clock that is off by more says nothing about the time asked for.
	widestSlack = int64(30 * time.Second)
	latestClock = 1 << 62
)

// clock estimates the error of an exporter's clock from the times at which it says to have sent its messages: the least of (our clock at arrival -
// its clock at sending) is the delay of the fastest message minus the error. It belongs to writers.
type clock struct {
	readings int
	recent   [youngMarks]int64
	least    [windows]int64
	present  int   // window
	ahead    int64 // as estimated last
}

// estimate is what the readings say.
type estimate struct {
	ahead int64 // how far the clock runs ahead; negative: behind
	slack int64 // how far off times of this exporter may be
	// wrong is how far off the clock is, without what may be delay: one that is ahead shows at once, one that is behind looks like a late
	// message until there are a few.
	wrong int64
}

// note takes one reading.
func (c *clock) note(received, sent int64) estimate {
	d := received - sent
	if c.readings%windowLen == 0 {
		if c.readings > 0 {
			c.present = (c.present + 1) % windows
		}
		c.least[c.present] = d
	}
	c.least[c.present] = min(c.least[c.present], d)
	c.recent[c.readings%youngMarks] = d
	c.readings++
	// The present window may be short: the one before it speaks for it too. All others speak for their time.
	least := c.least[c.present]
	if c.readings > windowLen {
		least = min(least, c.least[(c.present+windows-1)%windows])
	}
	worst := abs(least)
	for i := range min(windows, (c.readings-1)/windowLen+1) {
		if i != c.present {
			worst = max(worst, abs(c.least[i]))
		}
	}
	e := estimate{ahead: -least, slack: max(worst, c.latest())} // the latest: late messages, or a clock that was set back
	if least < 0 || c.readings >= youngMarks {
		e.wrong = worst
	}
	if e.slack <= fastest {
		e.ahead, e.slack, e.wrong = 0, 0, 0
	}
	if c.readings < youngMarks {
		e.slack = max(e.slack, youngSlack)
	}
	return e
}

// latest is the least of the last few readings.
func (c *clock) latest() int64 {
	least := c.recent[0]
	for _, d := range c.recent[1:min(c.readings, youngMarks)] {
		least = min(least, d)
	}
	return least
}

func abs(v int64) int64 { return max(v, -v) }

// noteClock brings the slack of an exporter up to date. The caller holds the lock.
func (t *Table) noteClock(x uint32, received, sent int64) {
	s := t.exporters.at(x)
	if sent == 0 {
		return
	}
	e := s.clock.note(received, sent)
	s.clock.ahead = e.ahead
	// The whole table's before the exporter's own: readers look at the former first.
	widened := min(e.slack, widestSlack)
	if widened > t.mostSlack.Load() {
		t.mostSlack.Store(widened)
	}
	barred := e.wrong > int64(t.cfg.MaxClockError)
	if barred && !s.barred.Load() {
		t.stats.refused[BadClock].Add(uint64(t.exporters.refs[x]))
	}
	s.barred.Store(barred)
	s.slack.Store(widened)
	s.vouch()
	c := ClockError{time.Duration(e.slack), barred}
	id := s.who.Load().id
	switch old, ok := t.clocks.Load(id); {
	case c == ClockError{}:
		t.clocks.Delete(id)
	case !ok || old != c:
		t.clocks.Store(id, c)
	}
}

// vouch writes the watermark in our clock, for the horizon. It belongs to writers.
func (s *exporterSlot) vouch() {
	v := s.verified.Load() - s.clock.ahead
	if s.barred.Load() {
		v = math.MaxInt64
	}
	s.vouched.Store(v)
}

// clockOK says whether a reading can be one: hostile ones must not overflow.
func clockOK(ns int64) bool { return ns >= 0 && ns < latestClock }

// ClockError is what is thought of an exporter's clock.
type ClockError struct {
	// Slack is by how much more than usual its times may be off: 0 if that is within 40 ms or unknown. It widens the tolerance of every
	// look-up that touches the exporter's ranges; callers add it to the tolerance of its records.
	Slack time.Duration
	// Bad: the clock is off by more than MaxClockError, and the exporter's claims name nobody until minutes after it was set right.
	Bad bool
}

// Clock is what is thought of an exporter's clock now.
func (t *Table) Clock(exporter string) ClockError {
	if v, ok := t.clocks.Load(exporter); ok {
		return v.(ClockError)
	}
	return ClockError{}
}

// measureSlack finds the most slack of all exporters anew. The caller holds the lock.
func (t *Table) measureSlack() {
	var most int64
	for _, x := range t.exporterIDs {
		most = max(most, t.exporters.at(x).slack.Load())
	}
	t.mostSlack.Store(most)
}
