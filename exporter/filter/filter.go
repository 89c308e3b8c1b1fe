package filter

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"

	"tributary/exporter/event"
)

// Settings say what is kept. The zero value keeps everything.
type Settings struct {
	Keep       []Rule // what is kept; empty: everything
	Drop       []Rule // what of it is left out
	SampleRate uint32 // one of so many established connections is kept; 0 and 1: all
	SampleSeed uint64 // the fleet's: exporters with the same seed keep the same connections
}

// maxSampleRate is one connection of a million.
const maxSampleRate = 1_000_000

// Check says in one sentence what is wrong with the settings.
func (s *Settings) Check() error {
	if len(s.Keep) > maxRules || len(s.Drop) > maxRules {
		return fmt.Errorf("%d and %d rules: at most %d to keep and %d to drop are allowed", len(s.Keep), len(s.Drop), maxRules, maxRules)
	}
	if s.SampleRate > maxSampleRate {
		return fmt.Errorf("the sample rate %d is above %d", s.SampleRate, maxSampleRate)
	}
	for i := range s.Keep {
		for j := range s.Drop {
			if s.Drop[j].covers(&s.Keep[i]) {
				return fmt.Errorf("the rule %q keeps nothing: %q drops all of it", s.Keep[i].text, s.Drop[j].text)
			}
		}
	}
	return nil
}

// Verdict says what becomes of a record.
type Verdict uint8

// The verdicts.
const (
	Kept       Verdict = iota
	Filtered           // left out by the rules
	SampledOut         // left out by sampling
	Verdicts
)

var verdictNames = [Verdicts]string{"kept", "filtered", "sampled_out"}

// String returns the name of the verdict.
func (v Verdict) String() string { return verdictNames[v] }

// Filter judges records. Judge may be called from one goroutine while others call Set.
type Filter struct {
	mu    sync.Mutex // one Set at a time
	state atomic.Pointer[state]
}

// state never changes once it is published.
type state struct {
	settings Settings
	rates    []rate // by time; the first holds from the beginning of time
}

// rate is the sampling that holds for connections that begin at a moment or later.
type rate struct {
	from uint64 // kernel time
	rate uint32
	seed uint64
}

// maxRates bounds the remembered changes of sampling; older connections than those are judged by the oldest.
const maxRates = 1024

// New returns a filter with these settings, which hold for connections that are open already.
func New(s Settings) (*Filter, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	f := &Filter{}
	f.state.Store(&state{settings: s, rates: []rate{{0, max(1, s.SampleRate), s.SampleSeed}}})
	return f, nil
}

// Settings returns what is in force. The rules must not be changed.
func (f *Filter) Settings() Settings { return f.state.Load().settings }

// Set puts settings in force for every record from now on, kernel time; sampling for connections that begin from now on. On an error nothing
// changes.
func (f *Filter) Set(s Settings, now uint64) error {
	if err := s.Check(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.state.Load()
	next := &state{settings: s, rates: old.rates}
	last := old.rates[len(old.rates)-1]
	if r := (rate{now, max(1, s.SampleRate), s.SampleSeed}); r.rate != last.rate || r.seed != last.seed {
		keep := old.rates[max(0, len(old.rates)+1-maxRates):]
		next.rates = append(append(make([]rate, 0, len(keep)+1), keep...), r)
	}
	f.state.Store(next)
	return nil
}

// Judge says whether a record is kept, and for how many connections like it the row stands. told is for how many the earlier records of its
// connection stand, 0 if none was kept: what was told, of a connection that waited for instance, is told on.
func (f *Filter) Judge(e *event.Event, workload string, told uint32) (Verdict, uint32) {
	s := f.state.Load()
	stands := max(1, told)
	if told == 0 && established(e) {
		r := s.rateAt(e.Start)
		if r.rate > 1 && Hash(e, r.seed) > math.MaxUint64/uint64(r.rate) {
			return SampledOut, 1
		}
		stands = r.rate
	}
	if told > 0 && e.Kind != event.KindActive || len(s.settings.Keep)+len(s.settings.Drop) == 0 {
		return Kept, stands
	}
	of := subject{e, workload, netip.AddrFrom16(e.LocalAddr).Unmap(), netip.AddrFrom16(e.RemoteAddr).Unmap()}
	if len(s.settings.Keep) > 0 && !anyMatches(s.settings.Keep, &of) || anyMatches(s.settings.Drop, &of) {
		return Filtered, 1
	}
	return Kept, stands
}

func anyMatches(rules []Rule, of *subject) bool {
	for i := range rules {
		if rules[i].matches(of) {
			return true
		}
	}
	return false
}

// established reports whether the record is of a connection that was established.
func established(e *event.Event) bool {
	return e.Kind == event.KindClosed ||
		e.Kind == event.KindActive && e.LastState != event.StateSynSent && e.LastState != event.StateSynRecv
}

func (s *state) rateAt(start uint64) rate {
	for i := len(s.rates) - 1; i > 0; i-- {
		if start >= s.rates[i].from {
			return s.rates[i]
		}
	}
	return s.rates[0]
}

// Hash is the same for both ends of a connection, on every machine and in every version; its values are spread evenly. It is not secret.
func Hash(e *event.Event, seed uint64) uint64 {
	a, b := endHash(&e.LocalAddr, e.LocalPort, seed), endHash(&e.RemoteAddr, e.RemotePort, seed)
	return mix(a+b) ^ mix(a^b) // both are blind to which end is ours
}

func endHash(addr *[16]byte, port uint16, seed uint64) uint64 {
	h := mix(seed ^ binary.BigEndian.Uint64(addr[:8]))
	h = mix(h ^ binary.BigEndian.Uint64(addr[8:]))
	return mix(h ^ uint64(port))
}

// mix is the finalizer of splitmix64 (Steele, Lea and Flood, 2014) after a rotation that keeps 0 from staying 0.
func mix(x uint64) uint64 {
	x = bits.RotateLeft64(x, 23) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
