package filter

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"tributary/exporter/event"
)

func ev(local, remote string, kind event.Kind, role event.Role, state event.TCPState) *event.Event {
	l, r := netip.MustParseAddrPort(local), netip.MustParseAddrPort(remote)
	return &event.Event{
		Kind: kind, Role: role, LastState: state, LocalAddr: l.Addr().As16(), RemoteAddr: r.Addr().As16(), LocalPort: l.Port(), RemotePort: r.Port(), Start: 1e9,
	}
}

func rules(t testing.TB, texts ...string) []Rule {
	t.Helper()
	var out []Rule
	for _, text := range texts {
		r, err := ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestRules(t *testing.T) {
	web := ev("10.0.0.1:40000", "10.1.0.2:443", event.KindClosed, event.RoleClient, event.StateLastAck)
	syn := ev("[fd00::1]:40000", "[fd00::2]:80", event.KindActive, event.RoleClient, event.StateSynSent)
	for text, want := range map[string][2]bool{ // web of shop/web, syn of nobody
		"prefix=10.1.0.0/16":                     {true, false},
		"prefix=::ffff:10.1.0.0/112":             {true, false},
		"local_prefix=10.1.0.0/16":               {false, false},
		"remote_prefix=10.1.0.2":                 {true, false},
		"prefix=10.0.0.0/8|fd00::/8":             {true, true},
		"port=443":                               {true, false},
		"port=40000":                             {true, true},
		"remote_port=79-81|443":                  {true, true},
		"local_port=443":                         {false, false},
		"workload=shop/*":                        {true, false},
		"workload=*/web|x/y":                     {true, false},
		"workload=shop":                          {false, false},
		"role=client":                            {true, true},
		"role=server|unknown":                    {false, false},
		"state=closed":                           {true, false},
		"state=active":                           {false, true},
		"state=syn_sent|failed":                  {false, true},
		"state=last_ack":                         {true, false},
		"port=443 role=client workload=shop/we?": {true, false},
		"port=443 role=server":                   {false, false},
		"  port=443   role=client ":              {true, false},
	} {
		f, err := New(Settings{Keep: rules(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		v1, _ := f.Judge(web, "shop/web", 0)
		v2, _ := f.Judge(syn, "", 0)
		if got := [2]bool{v1 == Kept, v2 == Kept}; got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestBadRules(t *testing.T) {
	for text, say := range map[string]string{
		"": "would match everything", "port": "is not key=value", "port=": "is not key=value", "prot=80": "is none of", "remote_workload=a/b": "is none of",
		"middle_port=80": "is none of the keys", "port=http": "is no port", "port=70000": "is no port", "port=81-80": "did you mean 80-81",
		"port=80 port=81": "port=A|B", "prefix=10.0.0.0/33": "no address or prefix", "prefix=10.0.0.1/8": "did you mean 10.0.0.0/8", "prefix=fe80::1%eth0": "no address",
		"role=peer": "is not client", "state=listen": "no record has the state", "state=time_wait": "no record", "state=open": "no record", "workload=[": "is no pattern",
		"workload=" + strings.Repeat("x", 300): "is no pattern", "port=" + strings.Repeat("1|", 70) + "1": "values of port",
	} {
		if _, err := ParseRule(text); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%.40q: %v, want %q", text, err, say)
		}
	}
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct{ keep, drop, say string }{
		{"port=80", "port=1-100", "keeps nothing"},
		{"local_port=80 role=client", "port=80", "keeps nothing"},
		{"prefix=10.1.0.0/16", "prefix=10.0.0.0/8", "keeps nothing"},
		{"workload=shop/web state=failed", "workload=shop/*", "keeps nothing"},
		{"state=failed", "state=failed|closed", "keeps nothing"},
		{"prefix=10.0.0.0/8", "prefix=10.1.0.0/16", ""},
		{"port=80", "port=80 role=server", ""},
		{"port=80", "local_port=80", ""},
		{"workload=shop/*", "workload=shop/web", ""},
		{"state=failed|closed", "state=failed", ""},
		{"role=client", "port=80", ""},
	} {
		s := Settings{Keep: rules(t, c.keep), Drop: rules(t, c.drop)}
		err := s.Check()
		if (err == nil) != (c.say == "") || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("keep %q, drop %q: %v", c.keep, c.drop, err)
		}
	}
	if _, err := New(Settings{SampleRate: maxSampleRate + 1}); err == nil {
		t.Error("the rate was accepted")
	}
	if _, err := New(Settings{Drop: make([]Rule, maxRules+1)}); err == nil {
		t.Error("the rules were accepted")
	}
}

// TestToldToTheEnd: the last record of a connection that was told is kept, others are not.
func TestToldToTheEnd(t *testing.T) {
	f, err := New(Settings{Drop: rules(t, "port=443")})
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[event.Kind]Verdict{event.KindActive: Filtered, event.KindClosed: Kept, event.KindFailed: Kept} {
		e := ev("10.0.0.1:1", "10.0.0.2:443", kind, event.RoleClient, event.StateEstablished)
		if got, _ := f.Judge(e, "", 1); got != want {
			t.Errorf("told, kind %d: %v", kind, got)
		}
		if got, _ := f.Judge(e, "", 0); got != Filtered {
			t.Errorf("not told, kind %d: %v", kind, got)
		}
	}
}

// TestSampling: one of ten, the same at both ends, failures all; a change is for connections that begin later.
func TestSampling(t *testing.T) {
	f, err := New(Settings{SampleRate: 10, SampleSeed: 7})
	if err != nil {
		t.Fatal(err)
	}
	const n = 100_000
	kept := 0
	for i := range n {
		a, b := fmt.Sprintf("10.0.%d.%d:%d", i/250%250, i%250, 30000+i%30000), "10.9.9.9:443"
		client, server := ev(a, b, event.KindClosed, event.RoleClient, event.StateLastAck), ev(b, a, event.KindClosed, event.RoleServer, event.StateFinWait2)
		v, rate := f.Judge(client, "", 0)
		if w, _ := f.Judge(server, "", 0); v != w {
			t.Fatalf("%s: the ends disagree", a)
		}
		if v == Kept {
			kept++
			if rate != 10 {
				t.Fatalf("rate %d", rate)
			}
		}
		failed := ev(a, b, event.KindFailed, event.RoleClient, event.StateSynSent)
		waiting := ev(a, b, event.KindActive, event.RoleClient, event.StateSynSent)
		for _, e := range []*event.Event{failed, waiting} {
			if v, rate := f.Judge(e, "", 0); v != Kept || rate != 1 {
				t.Fatal("what was not established is sampled")
			}
		}
	}
	if d := math.Abs(float64(kept) - n/10); d > 5*math.Sqrt(n*0.09) {
		t.Errorf("%d of %d were kept", kept, n)
	}
	if err := f.Set(Settings{SampleRate: 1}, 5e9); err != nil {
		t.Fatal(err)
	}
	before, later := 0, 0
	for i := range 1000 {
		e := ev(fmt.Sprintf("10.0.0.1:%d", i), "10.9.9.9:443", event.KindClosed, event.RoleClient, event.StateLastAck)
		if v, _ := f.Judge(e, "", 0); v == Kept {
			before++
		}
		if v, rate := f.Judge(e, "", 4); v != Kept || rate != 4 {
			t.Fatalf("told for 4 connections, then %v for %d", v, rate)
		}
		e.Start = 5e9
		if v, rate := f.Judge(e, "", 0); v == Kept && rate == 1 {
			later++
		}
	}
	if later != 1000 || before > 200 {
		t.Errorf("%d of those that began before, %d of those that began later", before, later)
	}
	for i := range uint64(3 * maxRates) {
		if err := f.Set(Settings{SampleRate: uint32(2 + i%2)}, 6e9+i); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(f.state.Load().rates); got != maxRates {
		t.Errorf("%d rates are remembered", got)
	}
}

// TestHashStays: exporters of different versions must agree.
func TestHashStays(t *testing.T) {
	e := ev("10.0.0.1:40000", "[fd00::2]:443", event.KindClosed, event.RoleClient, event.StateLastAck)
	if got := Hash(e, 42); got != 0x6400c657255989cc {
		t.Errorf("%#x", got)
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add("prefix=10.0.0.0/8 port=443|80-90 role=client workload=a/* state=failed")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text)
		if err != nil {
			return
		}
		again, err := ParseRule(r.String())
		if err != nil || again.String() != r.String() {
			t.Errorf("%q reads back as %q, %v", text, again.text, err)
		}
		if !r.covers(&r) {
			t.Errorf("%q does not cover itself", text)
		}
		r.matches(&subject{ev("10.0.0.1:1", "10.0.0.2:443", event.KindClosed, 1, 1), "a/b", netip.Addr{}, netip.Addr{}})
	})
}

func BenchmarkJudge(b *testing.B) {
	f, err := New(Settings{Keep: rules(b, "prefix=10.0.0.0/8", "workload=shop/*"), Drop: rules(b, "port=9100|9200", "role=server state=active"), SampleRate: 2})
	if err != nil {
		b.Fatal(err)
	}
	e := ev("10.0.0.1:40000", "10.1.0.2:443", event.KindClosed, event.RoleClient, event.StateLastAck)
	b.ReportAllocs()
	for b.Loop() {
		f.Judge(e, "shop/web", 0)
	}
}
