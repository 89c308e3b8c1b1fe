package region

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tributary/collector/ownership"
	"tributary/proto/flowv1"
)

func TestParse(t *testing.T) {
	good := "regions:\n  - {region: us, prefixes: [10.64.0.0/10, 'fd64::/16'], collectors: ['us.example:4747']}\n" +
		"  - {region: us, network: lab, prefixes: [10.0.0.0/8]}\n  - {region: eu, prefixes: [10.64.5.0/24]}\n"
	entries, err := Parse("f", []byte(good), "eu")
	if err != nil {
		t.Fatal(err)
	}
	tab := newTable(entries, "eu", nil, func(e Entry) *peer { return &peer{name: e.Region, collectors: e.Collectors} })
	for question, want := range map[string]string{
		"default 10.64.0.1": "us", "default 10.64.5.1": "", "default 10.65.5.1": "us", "default fd64::1": "us", "default 10.0.0.1": "", "lab 10.64.5.1": "us",
		"else 10.64.0.1": "", "default ::ffff:10.64.0.1": "us",
	} {
		network, addr, _ := strings.Cut(question, " ")
		got := ""
		if p := tab.find(network, ownership.AddrFrom(netip.MustParseAddr(addr)).Netip()); p != nil {
			got = p.name
		}
		if got != want {
			t.Errorf("%s: %q, want %q", question, got, want)
		}
	}
	for bad, want := range map[string]string{
		"regions: [{region: us, prefixes: [10.0.0.0/8]}]":                                                                                 "no collectors",
		"regions: [{region: us, collectors: ['a:1']}]":                                                                                    "no prefixes",
		"regions: [{prefixes: [10.0.0.0/8], collectors: ['a:1']}]":                                                                        "no name",
		"regions: [{region: us, prefixes: [10.0.0.0/8], collectors: [a]}]":                                                                "host:port",
		"regions: [{region: us, prefixes: [10.0.0.0/8], collectors: [':1']}]":                                                             "host:port",
		"regions: [{region: us, prefixes: [10.0.0.0/40], collectors: ['a:1']}]":                                                           "",
		"regions: [{region: us, prefixes: ['::ffff:10.0.0.0/104'], collectors: ['a:1']}]":                                                 "IPv4",
		"regions: [{region: us, prefixes: [10.0.0.0/8], collectors: ['a:1'], colectors: []}]":                                             "colectors",
		"regions: [{region: \"a\\u0007\", prefixes: [10.0.0.0/8], collectors: ['a:1']}]":                                                  "control",
		"regions: [{region: us, prefixes: [10.0.0.0/8], collectors: ['a:1']}, {region: as, prefixes: [10.1.0.0/8], collectors: ['b:1']}]": "given to",
		"regions: [{region: us, prefixes: [10.0.0.0/8], collectors: ['a:1']}, {region: us, prefixes: [11.0.0.0/8], collectors: ['b:1']}]": "other collectors",
		"regions: [": "",
	} {
		if _, err := Parse("f", []byte(bad+"\n"), "eu"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestHostileAnswers: what does not answer the question is no answer at all.
func TestHostileAnswers(t *testing.T) {
	q := []question{{at: 100}}
	named := flowv1.ResolveWhy_RESOLVE_WHY_NAMED
	for name, as := range map[string][]*flowv1.ResolveAnswer{
		"none": nil, "two": {{Why: 2}, {Why: 2}}, "no reason": {{}}, "a strange reason": {{Why: 99}}, "named nobody": {{Why: named}},
		"unnamed somebody": {{Why: 2, Workload: "w"}}, "named, wait": {{Why: named, Workload: "w", Wait: true}},
		"another time": {{Why: named, Workload: "w", FromNs: 101, UntilNs: 200}}, "long": {{Why: named, Workload: strings.Repeat("w", 600)}},
		"control": {{Why: named, Workload: "w", Zone: "\x1b[2J"}},
	} {
		if err := check(q, &flowv1.ResolveResponse{Answers: as}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	for _, a := range []*flowv1.ResolveAnswer{{Why: named, Workload: "w"}, {Why: named, Workload: "w", FromNs: 1, UntilNs: 100}, {Why: 7, Wait: true}} {
		if err := check(q, &flowv1.ResolveResponse{Answers: []*flowv1.ResolveAnswer{a}}); err != nil {
			t.Errorf("%v: %v", a, err)
		}
	}
}

// TestMalformedQuestions are refused whole.
func TestMalformedQuestions(t *testing.T) {
	good := func() *flowv1.ResolveQuestion {
		return &flowv1.ResolveQuestion{Network: "n", Addr: make([]byte, 16), AtNs: 1}
	}
	for name, spoil := range map[string]func(*flowv1.ResolveQuestion){
		"short address": func(q *flowv1.ResolveQuestion) { q.Addr = q.Addr[:4] }, "port": func(q *flowv1.ResolveQuestion) { q.Port = 70000 },
		"no time": func(q *flowv1.ResolveQuestion) { q.AtNs = 0 }, "tolerance": func(q *flowv1.ResolveQuestion) { q.ToleranceNs = 1 << 60 },
		"network": func(q *flowv1.ResolveQuestion) { q.Network = "a\nb" },
	} {
		q := good()
		if spoil(q); malformed(&flowv1.ResolveRequest{Questions: []*flowv1.ResolveQuestion{good(), q}}) == "" {
			t.Errorf("%s was taken", name)
		}
	}
	if malformed(&flowv1.ResolveRequest{Questions: make([]*flowv1.ResolveQuestion, maxQuestions+1)}) == "" {
		t.Error("too many were taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("regions: [{region: us, prefixes: [10.0.0.0/8], collectors: ['a:1']}]\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if entries, err := Parse("f", data, "eu"); err == nil {
			newTable(entries, "eu", nil, func(e Entry) *peer { return &peer{name: e.Region} })
		}
	})
}

// A region that is asked at other places is the same region: whether it is down stays known. One that is gone leaves nothing behind.
func TestTheMetricOfARegion(t *testing.T) {
	entry := Entry{Region: "us", Network: "default", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/10")}, Collectors: []string{"a:4747"}}
	r, err := NewSimulated(Config{Region: "eu", Wake: func() {}}, Simulation{Breaker: func() Breaker { return nil }}, []Entry{entry}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	r.metrics.down.WithLabelValues("us").Set(1) // it was, at its old places
	entry.Collectors = []string{"b:4747"}
	r.use([]Entry{entry})
	if n := testutil.CollectAndCount(r.metrics.down); n != 1 || testutil.ToFloat64(r.metrics.down) != 0 {
		t.Errorf("%d series after the region has moved, want one that is 0", n)
	}
	r.use(nil)
	if n := testutil.CollectAndCount(r.metrics.down); n != 0 {
		t.Errorf("%d series of regions that are gone", n)
	}
}
