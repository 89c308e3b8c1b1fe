package spool

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// model is what must be true of the batches of a schedule.
type model struct {
	t      *testing.T
	sim    *sim
	rng    *rand.Rand
	trace  []string
	sealed map[string]*fate
	flips  int
	now    *running
	run    int
}

// fate is what happened to one batch.
type fate struct {
	disk    bool // Append returned while the disk was well
	synced  bool // and a sync came after
	acked   bool
	handed  bool
	excused bool // its run could not keep it
	doubt   bool // the disk failed before it was synced, and a failed sync is not repeated
}

func (m *model) logf(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	for _, line := range m.trace {
		m.t.Log(line)
	}
	m.t.Fatalf(format, args...)
}

// boot starts the next run.
func (m *model) boot() {
	m.run++
	c := simulated(m.sim, fmt.Sprintf("run-%d", m.run))
	c.MaxBytes, c.SegmentBytes, c.CacheBytes = 8<<20, 4<<10, 2<<10
	c.MemoryBytes = 8 << 20 // so that nothing overflows
	m.now = start(m.t, c)
	synctest.Wait()
}

func (m *model) seal() {
	for range 1 + m.rng.IntN(6) {
		size := 20 + m.rng.IntN(1500)
		m.now.append(1, size)
		s := m.now.Stats()
		key := fmt.Sprintf("%s/%d", m.now.config.Run, m.now.seq)
		m.sealed[key] = &fate{disk: s.State == DiskOK && s.InMemory.Batches == 0, doubt: m.sim.fail != nil}
		m.logf("sealed %s %d disk=%v", key, size, m.sealed[key].disk)
	}
}

// sleep lets time pass, in which what is on disk is synced.
func (m *model) sleep() {
	d := time.Duration(m.rng.IntN(2500)) * time.Millisecond
	before := m.now.Stats()
	time.Sleep(d)
	synctest.Wait()
	m.logf("slept %v", d)
	s := m.now.Stats()
	if d <= 1500*time.Millisecond || m.sim.fail != nil {
		return
	}
	for key, f := range m.sealed {
		if s.State == DiskOK && s.InMemory.Batches == 0 && m.current(key) {
			f.disk = true // the disk had space again
		}
		f.synced = f.synced || f.disk && !f.doubt && before.InMemory.Batches == 0
	}
}

func (m *model) current(key string) bool {
	var run int
	_, _ = fmt.Sscanf(key, "run-%d/", &run)
	return run == m.run
}

// send takes some batches and acknowledges some of them.
func (m *model) send(n int) (got int) {
	for ; got < n; got++ {
		b, ok := m.now.Next(1 << 30)
		if !ok {
			return got
		}
		key := fmt.Sprintf("%s/%d", b.Run, b.Seq)
		f := m.sealed[key]
		if f == nil {
			m.fail("%s was handed out and never sealed", key)
		}
		m.now.check(b)
		f.handed = true
		if m.rng.IntN(4) > 0 {
			m.now.Ack(b.Run, b.Seq, b.Seq)
			f.acked = true
		}
	}
	return got
}

// crash ends the run in one of two ways, and checks nothing yet: the next runs must find what is due.
func (m *model) crash() {
	m.now.balanced()
	cut := m.rng.IntN(2) == 0
	if cut {
		m.sim.cut()
	} else {
		m.sim.kill()
	}
	m.now.stop() // its writes fail
	m.logf("crash, power cut: %v", cut)
	for key, f := range m.sealed {
		lost := !f.synced && (cut || !f.disk)
		f.excused = f.excused || lost && (m.current(key) || cut)
		if !lost {
			continue
		}
		f.disk = false
	}
	m.sim.heal()
	m.boot()
}

// spoil makes every write fail until heal.
func (m *sim) spoil() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = unix.EIO
}

func (m *sim) heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity, m.fail, m.stuck = 0, nil, 0
}

func (m *model) step() {
	switch m.rng.IntN(14) {
	case 0, 1, 2, 3:
		m.seal()
	case 4, 5, 6:
		m.sleep()
	case 7, 8:
		m.send(m.rng.IntN(8))
	case 9:
		m.now.Restart()
	case 10:
		m.sim.mu.Lock()
		m.sim.capacity = m.sim.used() + m.rng.IntN(4000)
		m.sim.mu.Unlock()
		m.logf("disk fills")
	case 11:
		m.sim.heal()
		m.logf("disk heals")
	case 12:
		m.crash()
	case 13:
		m.fault()
	}
}

func (m *model) fault() {
	switch m.rng.IntN(3) {
	case 0:
		if m.sim.flip() {
			m.flips++
			m.logf("bit flipped")
		}
	case 1:
		m.sim.spoil()
		for _, f := range m.sealed {
			f.doubt = f.doubt || !f.synced
		}
		m.logf("disk fails")
	case 2:
		m.now.stop()
		m.logf("stopped")
		for key, f := range m.sealed {
			if m.current(key) && !f.disk {
				f.excused = true // unless it went to disk at the end
			}
			f.synced = f.synced || f.disk && !f.doubt && m.sim.fail == nil
		}
		m.sim.heal()
		m.boot()
	}
}

// end drains everything and judges.
func (m *model) end() {
	m.sim.heal()
	time.Sleep(10 * time.Second)
	synctest.Wait()
	m.now.Restart()
	for range 100 {
		m.send(1000)
		m.now.Restart()
	}
	s := m.now.balanced()
	if s.Pending.Batches != 0 {
		m.fail("%d batches are still pending: %+v", s.Pending.Batches, s)
	}
	missing := 0
	for key, f := range m.sealed {
		if !f.handed && !f.acked && !f.excused {
			m.logf("missing: %s", key)
			missing++
		}
	}
	if missing > m.flips {
		m.fail("%d sealed and kept batches are missing, %d bits were flipped", missing, m.flips)
	}
	m.now.stop()
}

func schedule(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		m := &model{t: t, sim: newSim(seed, 0), rng: rand.New(rand.NewPCG(seed, 1)), sealed: map[string]*fate{}}
		m.boot()
		for range 60 {
			m.step()
		}
		m.end()
	})
}

// TestCrashSchedules runs seeded schedules of crashes, power cuts, full and failing disks and flipped bits. To repeat one:
// -run TestCrashSchedules/seed=17.
func TestCrashSchedules(t *testing.T) {
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= schedules && !t.Failed(); seed = next.Add(1) {
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { schedule(t, seed) })
			}
		})
	}
	wg.Wait()
}

const schedules = 2000
