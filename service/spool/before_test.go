package spool

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestClocksThatJumpLoseNothing(t *testing.T) {
	for name, step := range map[string]time.Duration{"a day ahead": 24 * time.Hour, "a day back": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newSim(1, 0)
				c := simulated(m, "a")
				a := start(t, c)
				synctest.Wait()
				a.append(6, 1000)
				c.Clock.Wall = func() time.Time { return time.Now().Add(step) }
				a.stop()
				c.Run = "b"
				b := start(t, c)
				synctest.Wait()
				time.Sleep(time.Minute)
				same(t, "in the same boot", len(b.all()), 6)
				b.stop()
				c.Run, c.BootID, c.Clock.Wall = "c", "boot-2", func() time.Time { return time.Now().Add(-24 * time.Hour) }
				d := start(t, c)
				synctest.Wait()
				time.Sleep(time.Minute)
				same(t, "after a boot with a clock that is behind", len(d.all()), 6)
				d.stop()
			})
		})
	}
}

// TestTheNextRunKnowsHowTheOneBeforeEnded: a run leaves its word at the whole seconds of the boot clock, whenever it began, so it is at most one second old.
func TestTheNextRunKnowsHowTheOneBeforeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newSim(1, 0)
		next := func(run string) (*running, Before) {
			r := start(t, simulated(fs, run))
			synctest.Wait()
			return r, r.Stats().Before
		}
		a, before := next("a")
		same(t, "before the first", before, Before{})
		a.append(2, 100)
		time.Sleep(10*time.Second + 300*time.Millisecond)
		fs.kill()
		a.stop()
		b, before := next("b")
		same(t, "killed", before, Before{Run: "a", Kept: time.Now().Truncate(time.Second)})
		fs.spoil() // what is sealed from here on is in memory only
		since := time.Now()
		b.append(1, 100)
		time.Sleep(10 * time.Second)
		fs.kill()
		b.stop()
		fs.heal()
		c, before := next("c")
		same(t, "killed with a broken disk", before.InOrder || before.Kept.After(since), false)
		c.stop()
		d, again := next("d")
		same(t, "the one between had no batch to tell it with", again, before)
		time.Sleep(10 * time.Second)
		fs.kill()
		d.stop()
		e, again := next("e")
		same(t, "nor had this one", again, before)
		e.append(1, 100)
		e.stop()
		f, before := next("f")
		same(t, "stopped", before, Before{Run: "e", Kept: time.Now(), InOrder: true})
		time.Sleep(2*time.Minute + 300*time.Millisecond)
		fs.kill()
		f.stop()
		_, before = next("g")
		same(t, "killed after a long silence", before, Before{Run: "f", Kept: time.Now().Truncate(time.Second)})
	})
}

// TestTheWordIsWhatWasSealed: where records wait to be sealed the word is of them too, and what is in memory only takes them along.
func TestTheWordIsWhatWasSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newSim(1, 0)
		run := func(name string) (*running, Config, Before) {
			c := simulated(fs, name)
			c.Unsealed = 3 * time.Second
			r := start(t, c)
			synctest.Wait()
			return r, c, r.Stats().Before
		}
		end := func(r *running) {
			fs.kill()
			r.stop()
		}
		a, c, _ := run("a")
		a.Sealed(c.Clock.Boot())
		began := time.Now()
		time.Sleep(10 * time.Second)
		end(a)
		b, c, before := run("b")
		same(t, "nothing was sealed", before, Before{Run: "a", Kept: began})
		b.append(1, 100)
		b.Sealed(c.Clock.Boot() - 200*time.Millisecond)
		sealed := time.Now().Add(-200 * time.Millisecond)
		time.Sleep(10 * time.Second)
		end(b)
		d, c, before := run("d")
		same(t, "sealed once", before, Before{Run: "b", Kept: sealed})
		d.append(1, 100) // it has told
		fs.spoil()
		time.Sleep(10 * time.Second)
		d.append(1, 100)
		fs.heal() // the word can be left, the batch is in memory until the disk is tried again
		d.Sealed(c.Clock.Boot())
		last := time.Now().Add(-c.Unsealed)
		synctest.Wait()
		end(d)
		_, _, before = run("e")
		same(t, "in memory only", before, Before{Run: "d", Kept: last})
	})
}

// TestTheWallClockIsSetBetweenRuns: on one boot the word of the run before is understood by the clock that nobody can set.
func TestTheWallClockIsSetBetweenRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newSim(1, 0)
		first := start(t, simulated(fs, "a"))
		synctest.Wait()
		first.append(1, 100)
		time.Sleep(10*time.Second + 300*time.Millisecond)
		fs.kill()
		first.stop()
		for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
			c := simulated(fs, "b")
			c.Clock.Wall = func() time.Time { return time.Now().Add(by) }
			b := start(t, c)
			synctest.Wait()
			same(t, "set by "+by.String(), b.Stats().Before, Before{Run: "a", Kept: time.Now().Add(by).Truncate(time.Second)})
			same(t, "what it keeps", b.Stats().Pending, Count{1, 10})
			fs.kill()
			b.stop()
		}
	})
}
