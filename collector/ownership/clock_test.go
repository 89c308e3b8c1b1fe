package ownership

import (
	"testing"
	"time"
)

// TestClockEstimate feeds an exporter's readings, one a second, and asks what is thought of its clock after each stretch.
func TestClockEstimate(t *testing.T) {
	const ms = time.Millisecond
	type stretch struct {
		readings    int
		late        time.Duration // arrival by our clock - sending by its clock
		slack       time.Duration
		bad         bool
		description string
	}
	for name, cases := range map[string][]stretch{
		"right": {
			{3, 5 * ms, 250 * ms, false, "too young to say"},
			{1, 5 * ms, 0, false, "fine"},
			{1, 3 * time.Second, 0, false, "one late message"},
			{3, 3 * time.Second, 3 * time.Second, false, "late, or set back: nobody knows yet"},
			{1, 5 * ms, 0, false, "it was late"},
		},
		"ahead": {
			{1, -5 * time.Second, 5 * time.Second, true, "no message arrives before it was sent"},
			{20, 4 * ms, 5 * time.Second, true, "set right, but not long ago"},
			{32 * 9, 4 * ms, 0, false, "long ago"},
		},
		"behind": {
			{3, 5 * time.Second, 5 * time.Second, false, "may be delay"},
			{1, 5 * time.Second, 5 * time.Second, true, "is none"},
			{1, 4 * ms, 0, false, "was delay after all"},
		},
		"a little off": {{10, 200 * ms, 200 * ms, false, "wider"}, {10, 190 * ms, 190 * ms, false, "the fastest counts"}},
		"set back while running": {
			{40, 5 * ms, 0, false, "fine"},
			{3, 5 * time.Second, 0, false, "late"},
			{1, 5 * time.Second, 5 * time.Second, false, "wide at once"},
			{64, 5 * time.Second, 5 * time.Second, true, "bad within two windows"},
		},
	} {
		tab, at := New(Config{}), sec(0)
		for _, c := range cases {
			for range c.readings {
				at += second
				if err := tab.Seen("x", "h", at-int64(c.late), at); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := tab.Clock("x"), (ClockError{c.slack, c.bad}); got != want {
				t.Errorf("%s, %s: %+v, want %+v", name, c.description, got, want)
			}
		}
	}
}

// TestClockRefused: the ranges of a clock that is far off name nobody, stand against other names, are counted and shown, and count again
// minutes after the clock was set right.
func TestClockRefused(t *testing.T) {
	w := world{t, New(Config{})}
	ask := func(at, now float64) Answer {
		return w.View(sec(now)).Lookup(w.Network("n"), addr("10.0.0.1"), 0, sec(at), second/2)
	}
	mark := func(x string, now, ahead float64) {
		m := &Watermark{Exporter: x, Host: "h-" + x, VerifiedTo: sec(now + ahead), ReceivedAt: sec(now), ClockNs: sec(now + ahead)}
		if err := w.Watermark(m); err != nil {
			t.Fatal(err)
		}
	}
	w.claim("a", web, 0)
	for now := range 10 {
		mark("a", float64(now), 5)
		mark("b", float64(now), 0)
	}
	if got := ask(4, 9); got.Why != Clock || got.Wait || got.Owner != nil {
		t.Errorf("named by a clock that is off: %+v", got)
	}
	if horizon := w.View(sec(9)).Horizon(); horizon != sec(9) {
		t.Errorf("a bad clock moves the horizon to %d, want %d", horizon, sec(9))
	}
	w.claim("a", web, 9.5) // again
	s := w.Stats()
	if s.BadClocks != 1 || s.Refused[BadClock] != 1 || s.Slack != 5*time.Second {
		t.Errorf("%d bad clocks, %d claims refused, slack %s: want 1, 1 and 5s", s.BadClocks, s.Refused[BadClock], s.Slack)
	}
	if r := w.View(sec(9)).Ranges(w.Network("n"), addr("10.0.0.1"), sec(0), sec(9)); len(r) != 1 || !r[0].BadClock || r[0].ClockError != 5*time.Second {
		t.Errorf("whois shows %+v", r)
	}
	w.claim("b", api, 3) // who is it?
	if got := ask(4, 9); got.Why == Named {
		t.Errorf("named although another claims it too: %+v", got)
	}
	w.release("b", 9.4)
	for now := 10; now < 10+32*9; now++ {
		mark("a", float64(now), 0)
		mark("b", float64(now), 0)
	}
	if got := ask(100, 290); got.Owner == nil || *got.Owner != web {
		t.Errorf("a clock that is right again names nobody: %+v", got)
	}
	for _, ns := range []int64{-1, latestClock} {
		if err := w.Watermark(&Watermark{Exporter: "a", VerifiedTo: sec(300), ReceivedAt: sec(300), ClockNs: ns}); err == nil {
			t.Errorf("a clock reading of %d was taken", ns)
		}
	}
}

// TestClockSlack: an exporter that is 200 ms off is believed 200 ms less.
func TestClockSlack(t *testing.T) {
	w := world{t, New(Config{})}
	w.claim("a", web, 0)
	for now := range 20 {
		m := &Watermark{Exporter: "a", Host: "h-a", VerifiedTo: sec(float64(now) - 0.2), ReceivedAt: sec(float64(now)), ClockNs: sec(float64(now) - 0.2)}
		if err := w.Watermark(m); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[float64]Why{0.6: Gap, 0.8: Named, 10: Named, 18.05: Named, 18.2: Pending} {
		if got := w.View(sec(19)).Lookup(w.Network("n"), addr("10.0.0.1"), 0, sec(at), second/2); got.Why != want {
			t.Errorf("at %.2f: %s, want %s", at, got.Why, want)
		}
	}
}
