package listeners

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/proto/flowv1"
)

func TestMain(m *testing.M) { schematest.Main(m) }

func newStore(t *testing.T, config Config, s schema.Server) *Store {
	t.Helper()
	l := New(config, s, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(l.store.Close)
	return l
}

func listener(port uint32, read time.Time, accepted uint64) *flowv1.Listener {
	return &flowv1.Listener{
		Network: "default", Netns: "7", LocalAddr: []byte{10: 0xff, 11: 0xff, 12: 10, 15: 1}, LocalPort: port, LocalWorkload: "shop/api",
		LocalEvidence: flowv1.Evidence_EVIDENCE_NETNS, Pid: 12, Comm: "api", Sockets: 1, SinceNs: read.Add(-time.Hour).UnixNano(), SinceObserved: true,
		Accepted: accepted, AcceptOverflows: 3, ReadTimeNs: read.UnixNano(),
	}
}

// TestListeners: words come out of order and twice; the newest of each minute is kept and the newest of all is shown while it listens.
func TestListeners(t *testing.T) {
	s := schematest.Migrated(t)
	one := newStore(t, Config{}, s)
	now := time.Now().UTC().Truncate(time.Minute)
	ended := listener(81, now, 1)
	ended.EndedNs = now.UnixNano()
	one.Note("e1", "h1", []*flowv1.Listener{listener(80, now.Add(-90*time.Second), 1), listener(80, now, 5), listener(80, now.Add(-time.Second), 4), ended})
	one.Note("e1", "h1", []*flowv1.Listener{listener(82, now.Add(-40*time.Minute), 9)}) // nothing was heard of it since
	one.write(t.Context())
	one.Note("e0", "h1", []*flowv1.Listener{listener(80, now.Add(-time.Minute), 2)}) // an earlier run
	one.write(t.Context())
	one.write(t.Context()) // nothing waits
	got := schematest.Query(t, s, "SELECT host, netns, local_addr, local_port, local_workload, local_evidence, local_why, comm, accepted, accept_overflows, since_ns < read_time_ns, last_accepted_ns FROM "+s.Database+".listeners")
	if diff := cmp.Diff("h1\t7\t::ffff:10.0.0.1\t80\tshop/api\tnetns\tnamed\tapi\t5\t3\t1\t1970-01-01 00:00:00.000000000\n", got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := schematest.Query(t, s, "SELECT local_port, accepted FROM "+s.Database+".listeners_1m FINAL ORDER BY ALL"); got != "80\t1\n80\t2\n80\t4\n80\t5\n81\t1\n82\t9\n" {
		t.Errorf("listeners_1m: %s", got)
	}
}

func TestStoreAway(t *testing.T) {
	s := newStore(t, Config{MaxWaiting: 10}, schema.Server{URL: "http://127.0.0.1:1", Database: "d"})
	s.now = func() time.Time { return time.Unix(24*60, 0) }
	for i := range 25 {
		s.Note("e", "h", []*flowv1.Listener{listener(80, time.Unix(int64(i)*60, 0), 0)})
	}
	s.Note("e", "h", []*flowv1.Listener{listener(80, time.Unix(1<<33, 0), 0), listener(80, time.Unix(-1<<20, 0), 0)})
	s.write(t.Context())
	if errs, dropped := testutil.ToFloat64(s.errors), testutil.ToFloat64(s.dropped); errs != 1 || int(dropped)+len(s.waiting) != 27 || len(s.waiting) > 10 {
		t.Errorf("%g errors, %g dropped, %d wait", errs, dropped, len(s.waiting))
	}
}
