package reachability

import (
	"cmp"
	"slices"
	"time"
)

// What has one cause is told once. A server that fails is the usual cause, and then its name is; a client that fails to reach several
// servers whose other clients do well is the other. What a regression belongs to is decided when it opens and stays: an alert does not
// change its name.

const (
	ofServer = "server:"
	ofClient = "client:"
	// suspectAfter is how long another path must have failed to be taken into account.
	suspectAfter = 3 * time.Second
)

// group says of new regressions what their cause is.
func (s *state) group(opened []*Regression, now time.Time) {
	slices.SortFunc(opened, func(a, b *Regression) int {
		return cmp.Or(a.BrokeAt.Compare(b.BrokeAt), cmp.Compare(a.String(), b.String()))
	})
	for _, r := range opened {
		r.CauseOf = ""
	}
	for _, r := range opened {
		switch {
		case s.isCause(ofServer + r.Server):
			r.CauseOf = ofServer + r.Server
		case s.isCause(ofClient+r.Client) || r.Verdict == VerdictNoPort || r.Verdict == VerdictPolicy || s.clientAlone(r.Client, now):
			r.CauseOf = ofClient + r.Client
		default:
			r.CauseOf = ofServer + r.Server
		}
	}
}

func (s *state) isCause(name string) bool {
	for _, r := range s.open {
		if r.CauseOf == name {
			return true
		}
	}
	return false
}

// clientAlone says that a client fails to reach several servers, and nobody else does.
func (s *state) clientAlone(client string, now time.Time) bool {
	servers := map[string]bool{}
	for path, l := range s.looks {
		if path.Client == client && (s.open[path] != nil || l.suspect(now)) {
			servers[path.Server] = true
		}
	}
	if len(servers) < 2 {
		return false
	}
	others := false
	for path, l := range s.looks {
		if path.Client == client || !servers[path.Server] {
			continue
		}
		if l.suspect(now) {
			return false
		}
		others = others || l.RecentOK > 0
	}
	return others
}

func (l *look) suspect(now time.Time) bool { return len(l.candidates(now, suspectAfter)) > 0 }
