// Package listeners writes what exporters say about listening sockets into the store: listeners_1m, from which the view listeners shows
// how each stands now.
//
// The last word of each minute is kept and written within Every; words that cannot be written wait, at most MaxWaiting, and the oldest are
// dropped, counted: exporters repeat what still holds every 10 minutes. A collector that is killed loses the words of Every. Note
// copies nothing and does not block: its listeners must not change afterwards. It must have validated them.
package listeners

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// Config is what a Store needs to know. Zero values mean the defaults.
type Config struct {
	Every      time.Duration // between writes; 5 s
	MaxWaiting int           // words that wait; 100,000
}

// key is a listener in a minute, as in the store.
type key struct {
	exporter, netns string
	addr            [16]byte
	port            uint32
	minute          int64
}

// word is what an exporter said.
type word struct {
	host     string
	listener *flowv1.Listener
}

// Store collects words. It is safe for concurrent use.
type Store struct {
	config  Config
	store   *schema.Client
	log     *slog.Logger
	now     func() time.Time
	written prometheus.Counter
	dropped prometheus.Counter
	errors  prometheus.Counter

	mu      sync.Mutex
	waiting map[key]word
}

// New returns a store that writes nothing until Run.
func New(config Config, server schema.Server, reg prometheus.Registerer, log *slog.Logger) *Store {
	if config.Every == 0 {
		config.Every = 5 * time.Second
	}
	if config.MaxWaiting == 0 {
		config.MaxWaiting = 100_000
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tributary_collector_listeners_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	return &Store{
		config: config, store: schema.NewClient(server, 1), log: log.With("component", "listeners"), now: time.Now, waiting: map[key]word{},
		written: counter("rows_written_total", "Rows written to listeners_1m."),
		dropped: counter("rows_dropped_total", "Words about listeners given up: too many waited for the store, or their time was not to be believed."),
		errors:  counter("errors_total", "Writes that failed; they are tried again."),
	}
}

// Words of a time outside of these, beside the present, are not believed.
const (
	oldest = 24 * time.Hour
	newest = time.Hour
)

// Note takes what an exporter on a host says.
func (s *Store) Note(exporter, host string, listeners []*flowv1.Listener) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range listeners {
		if age := now.Sub(time.Unix(0, l.GetReadTimeNs())); age > oldest || age < -newest {
			s.dropped.Inc()
			continue
		}
		k := key{exporter, l.GetNetns(), [16]byte(l.GetLocalAddr()), l.GetLocalPort(), l.GetReadTimeNs() / int64(time.Minute)}
		s.keep(k, word{host, l})
	}
}

// keep needs mu.
func (s *Store) keep(k key, w word) {
	have, ok := s.waiting[k]
	if ok && have.listener.GetReadTimeNs() >= w.listener.GetReadTimeNs() {
		return
	}
	if !ok && len(s.waiting) >= s.config.MaxWaiting {
		keys := slices.SortedFunc(maps.Keys(s.waiting), func(a, b key) int { return cmp.Compare(a.minute, b.minute) })
		for _, k := range keys[:len(keys)/10+1] { // a tenth at once: finding the oldest is not cheap
			delete(s.waiting, k)
			s.dropped.Inc()
		}
	}
	s.waiting[k] = w
}

// Run writes until ctx ends, and then what still waits, if the store takes it within a second.
func (s *Store) Run(ctx context.Context) {
	defer s.store.Close()
	schema.WriteEvery(ctx, s.config.Every, func(ctx context.Context, _ bool) { s.write(ctx) })
}

func (s *Store) write(ctx context.Context) {
	s.mu.Lock()
	taken := s.waiting
	s.waiting = map[key]word{}
	s.mu.Unlock()
	if len(taken) == 0 {
		return
	}
	if err := s.insert(ctx, taken); err != nil {
		s.errors.Inc()
		s.log.Error("listeners are not written; trying again", "reason", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		for k, w := range taken {
			s.keep(k, w)
		}
		return
	}
	s.written.Add(float64(len(taken)))
}

type row struct {
	Minute           int64      `json:"minute"`
	Exporter         string     `json:"exporter_id"`
	Host             string     `json:"host"`
	Network          string     `json:"network"`
	Netns            string     `json:"netns"`
	LocalAddr        netip.Addr `json:"local_addr"`
	LocalPort        uint32     `json:"local_port"`
	LocalWorkload    string     `json:"local_workload"`
	LocalInstance    string     `json:"local_instance"`
	LocalZone        string     `json:"local_zone"`
	LocalRegion      string     `json:"local_region"`
	LocalRelease     string     `json:"local_release"`
	LocalEvidence    string     `json:"local_evidence"`
	LocalWhy         string     `json:"local_why"`
	CgroupID         uint64     `json:"cgroup_id"`
	PID              uint32     `json:"pid"`
	UID              uint32     `json:"uid"`
	Comm             string     `json:"comm"`
	Sockets          uint32     `json:"sockets"`
	Since            storedTime `json:"since_ns"`
	SinceObserved    bool       `json:"since_observed"`
	Ended            storedTime `json:"ended_ns"`
	LastAccepted     storedTime `json:"last_accepted_ns"`
	Accepted         uint64     `json:"accepted"`
	AcceptOverflows  uint64     `json:"accept_overflows"`
	SynOverflows     uint64     `json:"syn_overflows"`
	Drops            uint64     `json:"drops"`
	AcceptQueue      uint32     `json:"accept_queue"`
	AcceptQueueLimit uint32     `json:"accept_queue_limit"`
	SynQueue         uint32     `json:"syn_queue"`
	ReadTime         storedTime `json:"read_time_ns"`
}

// storedTime is ns since 1970, in JSON as ClickHouse reads a DateTime64(9).
type storedTime int64

// MarshalJSON implements json.Marshaler.
func (t storedTime) MarshalJSON() ([]byte, error) {
	return []byte(time.Unix(0, int64(t)).UTC().Format(`"2006-01-02 15:04:05.000000000"`)), nil
}

func rowOf(k key, w word) row {
	l := w.listener
	return row{
		k.minute * 60, k.exporter, w.host, l.GetNetwork(), l.GetNetns(), netip.AddrFrom16(k.addr), k.port,
		l.GetLocalWorkload(), l.GetLocalInstance(), l.GetLocalZone(), l.GetLocalRegion(), l.GetLocalRelease(),
		flow.EvidenceNames.Name(uint32(l.GetLocalEvidence())), flow.WhyNames.Name(uint32(l.GetLocalWhy())),
		l.GetCgroupId(), l.GetPid(), l.GetUid(), l.GetComm(), l.GetSockets(),
		storedTime(l.GetSinceNs()), l.GetSinceObserved(), storedTime(l.GetEndedNs()), storedTime(l.GetLastAcceptedNs()),
		l.GetAccepted(), l.GetAcceptOverflows(), l.GetSynOverflows(), l.GetDrops(), l.GetAcceptQueue(), l.GetAcceptQueueLimit(), l.GetSynQueue(),
		storedTime(l.GetReadTimeNs()),
	}
}

// insert writes words. A repeat replaces itself.
func (s *Store) insert(ctx context.Context, words map[key]word) error {
	return schema.Insert(ctx, s.store, "listeners_1m", func(yield func(row) bool) {
		for k, w := range words {
			if !yield(rowOf(k, w)) {
				return
			}
		}
	})
}
