package main

import (
	"math/rand/v2"
	"runtime"
	"sort"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tributary/collector/ownership"
)

const (
	block     = 64
	port      = 443
	asked     = epoch + 900*second // inside the last range of every address
	tolerance = second / 10
)

// together looks up as package attribute does.
func (w *world) together(asks []ownership.Key) [5]float64 {
	return five(len(asks), func() { w.pass(asks) })
}

func (w *world) pass(asks []ownership.Key) {
	found := make([]ownership.Found, block)
	v := w.table.View(asked + 100*second)
	for len(asks) > 0 {
		v.Find(asks[:block], found)
		for i := range found {
			a := v.LookupFound(&found[i], port, asked, tolerance)
			w.sink.take(&a)
		}
		asks = asks[block:]
	}
}

func (w *world) alone(asks []ownership.Key) [5]float64 {
	return five(len(asks), func() {
		v := w.table.View(asked + 100*second)
		for i := range asks {
			a := v.Lookup(asks[i].Network, asks[i].Addr, port, asked, tolerance)
			w.sink.take(&a)
		}
	})
}

// floor is what a read from a random place of so many bytes costs: each after the last, and independent of each other.
func floor(bytes int) (one, all float64) {
	words := make([]uint64, bytes/8)
	for i := range words {
		words[i] = uint64(i) * 0x9e3779b97f4a7c15
	}
	places := make([]uint32, 1<<20)
	for i := range places {
		places[i] = uint32(rand.IntN(len(words)))
	}
	var s sink
	all = five(len(places), func() {
		for _, p := range places {
			s.sum += words[p]
		}
	})[2]
	one = five(len(places), func() {
		last := uint64(0)
		for _, p := range places {
			last = words[(uint64(p)+last&1)%uint64(len(words))]
		}
		s.sum += last
	})[2]
	runtime.KeepAlive(&s)
	return one, all
}

// slowdown is how much longer look-ups take beside a writer: by the clock, as median, least and most of the rounds, and in processor time of the thread that looks
// up. What the clock says more than the processor is that both had to share one, or others were at work.
type slowdown struct {
	clock, least, most, processor float64
	claims                        float64 // a second
}

// written lets addresses change hands while look-ups go on. Reads with and without a writer take turns, so that the machine's moods meet both.
func (w *world) written(asks []ownership.Key) slowdown {
	const rounds = 9
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var quiet, busy, quietCPU, busyCPU, ratios []float64
	claims, took := 0, time.Duration(0)
	for range rounds {
		clock, cpu := w.timed(asks)
		quiet, quietCPU = append(quiet, clock), append(quietCPU, cpu)
		var stop atomic.Bool
		done := make(chan int)
		go func() { done <- w.write(&stop) }()
		started := time.Now()
		beside, cpu := w.timed(asks)
		busy, busyCPU, ratios = append(busy, beside), append(busyCPU, cpu), append(ratios, beside/clock)
		stop.Store(true)
		claims += <-done
		took += time.Since(started)
	}
	sort.Float64s(ratios)
	return slowdown{
		clock: median(busy) / median(quiet), least: ratios[0], most: ratios[rounds-1], processor: median(busyCPU) / median(quietCPU),
		claims: float64(claims) / took.Seconds(),
	}
}

func median(of []float64) float64 {
	sort.Float64s(of)
	return of[len(of)/2]
}

// timed is what three passes take, in seconds, by the clock and of this thread's processor.
func (w *world) timed(asks []ownership.Key) (clock, cpu float64) {
	started, before := time.Now(), processorTime()
	for range 3 {
		w.pass(asks)
	}
	return time.Since(started).Seconds(), (processorTime() - before).Seconds()
}

// processorTime is that of the calling thread.
func processorTime() time.Duration {
	var at unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at) // it exists on every kernel this runs on
	return time.Duration(at.Nano())
}

// write makes 100,000 claims and 10,000 watermarks a second until it is told to stop, and says how many claims it made.
func (w *world) write(stop *atomic.Bool) (claims int) {
	started := time.Now()
	for !stop.Load() {
		for due := int(time.Since(started).Microseconds() / 10); claims < due; claims++ {
			w.now += 10_000
			if err := w.claim(w.rng.IntN(len(w.addrs)), w.now); err != nil {
				panic(err) // the table has room for all that this program claims
			}
			if claims%10 == 0 {
				x := w.names[claims/10%exporters]
				_ = w.table.Watermark(&ownership.Watermark{Exporter: x, Host: x, VerifiedTo: w.now, ReceivedAt: w.now})
			}
		}
		time.Sleep(100 * time.Microsecond)
	}
	return claims
}
