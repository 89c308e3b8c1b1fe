package reachability

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// The phases of a failure: before and after the connection was established.
const (
	phaseConnect = "connect"
	phaseData    = "data"
)

// usual is what the ledger says of a path before it began to fail.
type usual struct {
	Path
	Attempts    uint64  `json:"attempts"`
	Successes   uint64  `json:"successes"`
	Replies     uint64  `json:"replies"`
	Failures    uint64  `json:"failures"`
	Minutes     uint64  `json:"minutes"` // in which there were attempts
	SampleRate  uint64  `json:"sample_rate"`
	LastSuccess float64 `json:"last_success"` // unix seconds, 0 for none
}

// rate is attempts a minute, in the minutes that had any.
func (u usual) rate() float64 {
	if u.Minutes == 0 {
		return 0
	}
	return float64(u.Attempts) / float64(u.Minutes)
}

// Answers to "is it a regression?".
type finding string

const (
	isRegression finding = "regression"
	notYet       finding = "not_yet" // too few failures, or for too short a time
	neverWorked  finding = "never_worked"
	released     finding = "released"   // the server's addresses were given up on purpose
	lostSight    finding = "lost_sight" // successes may be there that are not seen
	works        finding = "works"
)

const (
	// enoughFailures without a success between them, where failures are not usual.
	enoughFailures = 3
	// chance is how likely failures may be an accident, where failures are usual. Each success is followed by a run of them that may be one, and there may be
	// thousands in an hour.
	chance = 1e-5
	// rarely failing paths need no more than enoughFailures.
	rarely = 0.05
	// patience: one attempt that has waited so long stands for enough of them. Its SYN was sent four times.
	patience = 12 * time.Second
	// fewFailures are enough of a path with few attempts after twice the time.
	fewFailures = 2
	// leastWorked successes make a path one that worked.
	leastWorked = 3
	// leastComplete of a client's records must be there.
	leastComplete = 0.9
)

// failing is the phase in which a path fails, and how.
type failing struct {
	phase string
	fails map[string]uint64
	first int64
}

func (f failing) count() (n uint64) {
	for _, k := range f.fails {
		n += k
	}
	return n
}

// broken are all phases in which a path fails, connect before data: where nothing is established any more, that is the reason, whichever failed first.
type broken []failing

// first is when the first attempt failed.
func (b broken) first() int64 {
	return slices.MinFunc(b, func(x, y failing) int { return cmp.Compare(x.first, y.first) }).first
}

func (b broken) count() (n uint64) {
	for _, f := range b {
		n += f.count()
	}
	return n
}

// inData says that attempts fail after they were established.
func (b broken) inData() bool { return b[len(b)-1].phase == phaseData }

// cause is the most frequent failure of the first phase.
func (b broken) cause() string {
	fails := b[0].fails
	cause := slices.MinFunc(slices.Collect(maps.Keys(fails)), func(x, y string) int { return cmp.Or(cmp.Compare(fails[y], fails[x]), cmp.Compare(x, y)) })
	if cause == "connect.no_answer" && fails["connect.unreachable"] > 0 {
		return "connect.unreachable" // routers say so only now and then (icmp_ratelimit), and not everybody waits for their word
	}
	return cause
}

// regresses says in which phases the path has failed for so long, beyond chance.
func (l *look) regresses(after time.Duration, u usual, complete float64, now time.Time) (b broken) {
	for _, f := range l.candidates(now, after) {
		if l.judge(f, u, complete, now) == isRegression {
			b = append(b, f)
		}
	}
	return b
}

// candidates are the phases in which the path fails, so far that it is worth to ask what is usual.
func (l *look) candidates(now time.Time, after time.Duration) []failing {
	var out []failing
	for _, f := range []failing{{phaseConnect, l.ConnectFails, l.ConnectFirst}, {phaseData, l.DataFails, l.DataFirst}} {
		lasts := time.Duration(now.UnixNano() - f.first)
		if len(f.fails) > 0 && lasts >= after && (f.count() >= enoughFailures || l.Waited >= int64(patience) || (f.count() >= fewFailures && lasts >= 2*after)) {
			out = append(out, f)
		}
	}
	return out
}

// judge says what a phase that fails is, complete being the share of the client's records that is there.
func (l *look) judge(f failing, u usual, complete float64, now time.Time) finding {
	worked := u.Successes + l.Established
	if f.phase == phaseData {
		worked = u.Replies + l.Replied
	}
	n := f.count()
	switch {
	case worked < leastWorked:
		return neverWorked
	case l.Unowned > 0 && n == f.fails["connect.refused"]:
		return released // the machine answers, and is nobody's any more
	case complete < leastComplete:
		return lostSight
	}
	rate := max(u.SampleRate, l.SampleRate)
	if share := seenShare(l.failingShare(f.phase, u), rate); share > rarely && n < needed(share) {
		return notYet
	}
	if rate > 1 {
		// Failures are never sampled: if attempts go on as usual, as many as usual must fail.
		expected := u.rate() / 60 * time.Duration(now.UnixNano()-f.first).Seconds()
		if float64(n) < expected/2 || u.Minutes == 0 {
			return lostSight
		}
	}
	return isRegression
}

// failingShare is which part of the attempts fails while the path works: as a rule, or in the minute before the last success, whichever is more.
func (l *look) failingShare(phase string, u usual) float64 {
	lately := l.ConnectMixed
	if phase == phaseData {
		lately = l.DataMixed
	}
	return max(float64(u.Failures)/float64(max(1, u.Attempts)), float64(lately.Bad)/float64(max(1, lately.Good+lately.Bad)))
}

// seenShare is which part of the attempts that are seen has failed: of those that went well only one of rate is.
func seenShare(share float64, rate uint64) float64 {
	return share / (share + (1-share)/float64(max(1, rate)))
}

// needed is how many failures in a row are no accident where a share of attempts fails anyway.
func needed(share float64) uint64 {
	if share >= 0.999 {
		return math.MaxUint64
	}
	return max(enoughFailures, uint64(math.Ceil(math.Log(chance)/math.Log(share))))
}

// Why a regression ended.
const (
	whyHealed   = "healed"
	whyNobody   = "nobody_tries"
	whyGone     = "client_gone"
	whyReleased = "released"
)

const (
	// quietFor is how long nobody has to try until an open regression is closed for that.
	quietFor = 15 * time.Minute
	// recentEnough attempts of the last minute, of which nearly all succeed, close one even where some still fail.
	recentEnough  = 5
	recentFailing = 0.1
	// maxTimes bounds by how much longer a path has to work that has come back several times.
	maxTimes = 6
)

// over says whether an open regression has ended, and why; after is how long its path must have worked.
func (r *Regression) over(l *look, after time.Duration, now time.Time) (why string, is bool) {
	if l == nil || l.Tried == 0 {
		return whyNobody, now.Sub(r.LastSeen) > quietFor
	}
	if n := l.ConnectFails["connect.refused"]; l.Unowned > 0 && n > 0 && len(l.ConnectFails) == 1 {
		return whyReleased, true
	}
	for range min(r.Times, maxTimes) - 1 {
		after *= 2
	}
	ok := l.ConnectOK
	if r.inData() {
		ok = l.DataOK
	}
	succeeds := len(l.ConnectFails) == 0 && len(l.DataFails) == 0 && ok > r.BrokeAt.UnixNano()
	if succeeds && l.LastFail < ok && now.UnixNano()-l.LastFail >= int64(after) {
		return whyHealed, true
	}
	if sum := l.RecentOK + l.RecentFails; succeeds && sum >= recentEnough && float64(l.RecentFails) <= recentFailing*float64(sum) && now.Sub(r.OpenedAt) > 2*after {
		return whyHealed, true
	}
	return "", false
}

// inData says that the connection stood when it failed.
func (r *Regression) inData() bool {
	return r.Verdict == VerdictReset || r.Verdict == VerdictNoReply || r.Verdict == VerdictEarlyClose
}
