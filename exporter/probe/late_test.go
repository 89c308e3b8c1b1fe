package probe

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/exporter/event"
	"tributary/service/testenv"
)

// walkedAfter is when the walk comes to a connection: long after the half second that these live, on a busy machine too.
const walkedAfter = 4 * time.Second

// TestEndsThatNoProgramSaw: the walk records them from the closed socket, as if they had been seen. Capture is
// switched off meanwhile, as a kernel does that keeps programs out of a softirq.
func TestEndsThatNoProgramSaw(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedCommand(t, "nft", "apt-get install nftables")
	c := newCapture(t, Options{ActiveFirst: walkedAfter, ActiveEvery: time.Hour, SynFirst: walkedAfter, SynEvery: time.Hour})
	before := counted(t, c)
	for name, unanswered := range map[string]struct {
		do   func(a sock)
		want want
	}{
		"FIN":  {sock.shut, want{role: cl, reason: event.CloseTimeout, tx: 13, errno: unix.ETIMEDOUT, state: event.StateFinWait1}},
		"data": {func(a sock) { a.send(1000) }, want{role: cl, reason: event.CloseTimeout, tx: 1013, errno: unix.ETIMEDOUT, state: event.StateEstablished}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c)
			a, b := w.pair(tcpOpt(unix.TCP_USER_TIMEOUT, 300))
			transfer(a, b, 13)
			w.block(w.b)
			unanswered.do(a)
			w.check(c.probe.capture(false))
			if err := a.await(unix.POLLERR); err != unix.ETIMEDOUT {
				t.Fatal(err)
			}
			w.check(c.probe.capture(true))
			mine := func(e event.Event) bool { return e.NetnsCookie == w.a.cookie }
			events := c.wait(func(events []event.Event) bool { return slices.ContainsFunc(events, mine) })
			e := events[slices.IndexFunc(events, mine)]
			if err := unanswered.want.compare(w, &e); err != nil {
				t.Errorf("%s\n\t%s", err, &e)
			}
			a.close()
			b.close()
		})
	}
	after := counted(t, c)
	// the rest of the host can have more
	if late := after.EndsLate - before.EndsLate; late < 2 {
		t.Errorf("%d late ends of 2", late)
	}
	if after.Ends != after.Submitted+after.EndsLate+after.RingFull {
		t.Errorf("the ends do not add up: %+v", after)
	}
}

// TestEndWithoutATrace: where the program has taken the error, nothing says how the connection ended.
func TestEndWithoutATrace(t *testing.T) {
	testenv.NeedRoot(t)
	c := newCapture(t, Options{ActiveFirst: walkedAfter, ActiveEvery: time.Hour})
	w := newWorld(t, c)
	a, b := w.pair()
	transfer(a, b, 13)
	linger(b)
	w.check(c.probe.capture(false))
	b.close()
	a.ended(unix.ECONNRESET)
	w.check(c.probe.capture(true))
	mine := func(e event.Event) bool { return e.NetnsCookie == w.a.cookie }
	events := c.wait(func(events []event.Event) bool { return slices.ContainsFunc(events, mine) })
	e := events[slices.IndexFunc(events, mine)]
	if err := (want{role: cl, reason: event.CloseUnknown, tx: 13, state: event.StateClose}).compare(w, &e); err != nil {
		t.Errorf("%s\n\t%s", err, &e)
	}
	a.close()
}

// TestConnectAgainAfterAnUnseenEnd: the entry of the socket's first connection is in the way of its second. The
// first is lost, which is counted; the second is whole.
func TestConnectAgainAfterAnUnseenEnd(t *testing.T) {
	testenv.NeedRoot(t)
	const never = time.Hour
	c := newCapture(t, Options{ActiveFirst: never, ActiveEvery: never, SynFirst: never, SynEvery: never})
	before := counted(t, c)
	again := scenario{"again", func(w *world) {
		l := w.listener("10.177.0.2:0")
		first, peer := w.pairAt(l)
		linger(peer)
		w.check(c.probe.capture(false))
		peer.close()
		first.ended(unix.ECONNRESET)
		w.check(disconnect(first.fd))
		w.check(c.probe.capture(true))
		first.connectAgain(l, 77)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 77},
		{role: sv, reason: event.CloseFinRemote, rx: 77},
	}}
	again.run(newWorld(t, c), c)
	if after := counted(t, c); after.EndsMissed == before.EndsMissed {
		t.Error("the first connection's end is not counted as missed")
	}
}

func counted(t *testing.T, c *capture) Counters {
	t.Helper()
	k, err := c.probe.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return k
}
