package reachability

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Verdict is why a path fails, as far as both ends' records and counters show it.
type Verdict string

// The verdicts.
const (
	VerdictNoListener  Verdict = "no_listener"       // refused, and nothing listens there
	VerdictRejected    Verdict = "rejected"          // refused, though something listens: a firewall's reset
	VerdictDropped     Verdict = "dropped"           // no answer, and the server's machine, well observed, saw nothing
	VerdictNoAnswer    Verdict = "no_answer"         // no answer, and nobody observes the server's machine
	VerdictOverflow    Verdict = "listener_overflow" // the program does not accept as fast as others connect
	VerdictUnreachable Verdict = "unreachable"       // a router or the own machine says that there is no way
	VerdictReset       Verdict = "reset"             // established, then reset
	VerdictNoReply     Verdict = "no_reply"          // established, and no byte comes back
	VerdictEarlyClose  Verdict = "early_close"       // established, and closed in order before there was an answer: TLS, a proxy, a limit
	VerdictNoPort      Verdict = "no_port"           // the client has no port left
	VerdictPolicy      Verdict = "policy"            // the client's own machine forbids it
)

// serverSide is what the server's end shows of a path since it fails.
type serverSide struct {
	Known    bool // an exporter is known to observe the server's machine
	Healthy  bool // and it was heard after the path began to fail
	Answered uint64
	// Connections of this client that the server's machine recorded.
	FromClient, WithReply, NotAccepted, ResetByServer uint64
	// Listening says whether something listens on the port; Listens whether that is known.
	Listens, Listening bool
	Overflows          uint64
}

// verdict says why a path fails: by the most frequent failure, in the light of the server's side.
func verdict(b broken, s serverSide) (Verdict, string) {
	if s.overflows(b) {
		return VerdictOverflow, "the kernel of the server's machine turns connections away because the program does not accept them" + s.overflowCount()
	}
	_, name, _ := strings.Cut(b.cause(), ".")
	switch name {
	case "refused":
		return s.refused()
	case "no_answer":
		return s.unanswered()
	case "unreachable":
		return VerdictUnreachable, "attempts end with “unreachable”, or at once: a router, a firewall or the client's own machine says that there is no way to the address"
	case "reset":
		return VerdictReset, "connections are established and then reset" + s.whoResets()
	case "no_reply":
		return VerdictNoReply, "connections are established and no byte comes back" + s.whoIsSilent()
	case "early_close":
		return VerdictEarlyClose, "connections are established and closed in order before the usual answer, as after a failed TLS handshake" + s.whoAnswers()
	case "no_port":
		return VerdictNoPort, "the client's machine has no free local port for it"
	case "policy":
		return VerdictPolicy, "the client's own machine forbids the connection"
	}
	return VerdictNoAnswer, "attempts fail"
}

// awaitedFor is how long the word of a server's machine is waited for: an exporter that is well speaks every few seconds.
const awaitedFor = heardWithin

// awaits says that the verdict depends on whether the server's machine is alive, and that the word of it may still come.
func (s serverSide) awaits(b broken, now time.Time) bool {
	if !s.Known || s.Healthy || s.overflows(b) || now.UnixNano()-b.first() >= int64(awaitedFor) {
		return false
	}
	cause := b.cause()
	return cause == "connect.no_answer" || cause == "connect.refused"
}

// overflows: the queue of the listener counts what it turned away, or holds connections nobody accepts while others get no answer.
func (s serverSide) overflows(b broken) bool {
	unanswered := b[0].fails["connect.no_answer"] > 0
	return unanswered && (s.Overflows > 0 || s.NotAccepted > 0)
}

// betterKnown says that a verdict in other words than before is more than other figures.
func betterKnown(before, now string) bool {
	words := func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}
	return strings.Map(words, before) != strings.Map(words, now)
}

func (s serverSide) overflowCount() string {
	if s.Overflows == 0 {
		return fmt.Sprintf(" (%d established ones wait)", s.NotAccepted)
	}
	return fmt.Sprintf(" (%d turned away)", s.Overflows)
}

func (s serverSide) refused() (Verdict, string) {
	switch {
	case s.Listens && s.Listening && s.Known && !s.Healthy:
		return VerdictNoListener, "attempts are refused; a program listened on the port when the server's exporter was heard last, before the break"
	case s.Listens && s.Listening:
		return VerdictRejected, "attempts are refused though a program listens on the port: something between answers in its place, a firewall's reset"
	case !s.Listens && s.Answered > 0:
		return VerdictRejected, fmt.Sprintf("attempts are refused while %d other connections to the same port are answered: a firewall's reset", s.Answered)
	case s.Listens:
		return VerdictNoListener, "attempts are refused: nothing listens on the port any more"
	}
	return VerdictNoListener, "attempts are refused, and nobody else gets an answer: nothing seems to listen on the port"
}

func (s serverSide) unanswered() (Verdict, string) {
	switch {
	case s.Healthy && s.FromClient > 0:
		return VerdictDropped, "attempts get no answer; the server's machine saw some of them, so its answers are lost on the way back"
	case s.Healthy:
		return VerdictDropped, "attempts get no answer; the server's machine is up, its exporter is well, and it saw nothing: they are dropped on the way"
	case s.Known:
		return VerdictNoAnswer, "attempts get no answer, and the server's exporter is silent too: its machine may be down or cut off"
	}
	return VerdictNoAnswer, "attempts get no answer; nobody observes the server's machine, so it cannot be said where they end"
}

func (s serverSide) whoResets() string {
	switch {
	case !s.Healthy:
		return ""
	case s.ResetByServer > 0:
		return ": the server's machine resets them"
	case s.FromClient > 0:
		return ": the server did not, so something between does"
	}
	return ": the server's machine saw none of them, so something between answers in its place"
}

func (s serverSide) whoIsSilent() string {
	switch {
	case !s.Healthy:
		return ""
	case s.NotAccepted > 0:
		return ": the program does not accept them"
	case s.WithReply > 0:
		return ": the server answers, and its answers are lost on the way back"
	case s.FromClient > 0:
		return ": the server has them and says nothing"
	}
	return ": the server's machine saw none of them"
}

func (s serverSide) whoAnswers() string {
	if s.Healthy && s.FromClient == 0 {
		return ": the server's machine saw none of them, so something between answers in its place"
	}
	return ""
}
