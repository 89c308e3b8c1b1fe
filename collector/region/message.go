package region

import (
	"errors"
	"fmt"
	"unique"

	"tributary/collector/ownership"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

const (
	maxTolerance = 60_000_000_000 // ns
	maxNameBytes = 512
)

// whys are the wire's reasons by the table's.
var whys = [...]flowv1.ResolveWhy{
	ownership.Named: flowv1.ResolveWhy_RESOLVE_WHY_NAMED, ownership.NoEvidence: flowv1.ResolveWhy_RESOLVE_WHY_NO_EVIDENCE,
	ownership.Gap: flowv1.ResolveWhy_RESOLVE_WHY_GAP, ownership.Conflict: flowv1.ResolveWhy_RESOLVE_WHY_CONFLICT,
	ownership.Shared: flowv1.ResolveWhy_RESOLVE_WHY_SHARED_ADDRESS, ownership.External: flowv1.ResolveWhy_RESOLVE_WHY_EXTERNAL,
	ownership.Pending: flowv1.ResolveWhy_RESOLVE_WHY_PENDING, ownership.Clock: flowv1.ResolveWhy_RESOLVE_WHY_CLOCK,
}

func whyFrom(w flowv1.ResolveWhy) (ownership.Why, bool) {
	for why, wire := range whys {
		if wire == w {
			return ownership.Why(why), true
		}
	}
	return 0, false
}

func encode(qs []question) *flowv1.ResolveRequest {
	r := &flowv1.ResolveRequest{Questions: make([]*flowv1.ResolveQuestion, len(qs))}
	for i := range qs {
		q := &qs[i]
		addr := q.addr.As16()
		r.Questions[i] = &flowv1.ResolveQuestion{Network: q.network, Addr: addr[:], Port: uint32(q.port), AtNs: q.at, ToleranceNs: q.tolerance}
	}
	return r
}

// check says what is wrong with a response: then it is no answer at all.
func check(qs []question, r *flowv1.ResolveResponse) error {
	if len(r.GetAnswers()) != len(qs) {
		return fmt.Errorf("%d answers to %d questions", len(r.GetAnswers()), len(qs))
	}
	for i, a := range r.GetAnswers() {
		why, ok := whyFrom(a.GetWhy())
		switch {
		case !ok:
			return fmt.Errorf("an answer for a reason that is not known: %d", a.GetWhy())
		case (why == ownership.Named) != (a.GetWorkload() != ""), a.GetWait() && why != ownership.Pending:
			return errors.New("an answer that contradicts itself")
		case a.GetFromNs() <= a.GetUntilNs() && (a.GetFromNs() != 0 || a.GetUntilNs() != 0) && (a.GetFromNs() > qs[i].at || a.GetUntilNs() < qs[i].at):
			return errors.New("an answer for another time")
		}
		for _, name := range []string{a.GetWorkload(), a.GetInstance(), a.GetZone(), a.GetRegion(), a.GetRelease()} {
			if len(name) > maxNameBytes || flow.Sanitize(name) != name {
				return errors.New("an answer with a name that is too long, or has control characters")
			}
		}
	}
	return nil
}

// decode is for an answer that check has let through. region is where it comes from.
func decode(m *flowv1.ResolveAnswer, region string) ownership.Answer {
	why, _ := whyFrom(m.GetWhy())
	a := ownership.Answer{Why: why, Wait: m.GetWait(), Edge: m.GetEdge(), From: m.GetFromNs(), Until: m.GetUntilNs()}
	if why != ownership.Named {
		return a
	}
	keep := func(s string) string { return unique.Make(s).Value() }
	a.Owner = &ownership.Owner{
		Workload: keep(m.GetWorkload()), Instance: keep(m.GetInstance()), Zone: keep(m.GetZone()), Region: keep(m.GetRegion()), Release: keep(m.GetRelease()),
		Assigned: m.GetAssigned(),
	}
	if a.Owner.Region == "" {
		a.Owner.Region = region
	}
	return a
}
