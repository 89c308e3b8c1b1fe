package session

import (
	"net/netip"
	"testing"

	"tributary/proto/flowv1"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true},
		{"*", "a/b", true},
		{"", "", true},
		{"", "a", false},
		{"shop/*", "shop/web", true},
		{"shop/*", "shopping/web", false},
		{"*/web", "shop/web", true},
		{"*/web", "shop/web2", false},
		{"a*b*c", "a1b2c", true},
		{"a*b*c", "a1c", false},
		{"a*a", "a", false},
		{"spiffe://x/*/agent", "spiffe://x/host/1/agent", true},
		{"**", "x", true},
		{"shop/web", "shop/web", true},
		{"shop/web", "shop/we", false},
	} {
		if got := matches(c.pattern, c.s); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.s, got)
		}
	}
}

func TestGrants(t *testing.T) {
	p := netip.MustParsePrefix
	rules := Grants{
		{Identity: "spiffe://corp/host/*", Networks: []string{"default"}, Prefixes: []netip.Prefix{p("10.1.0.0/16"), p("fd00::/8")}, Workloads: []string{"shop/*"}},
		{Identity: "gateway", Workloads: []string{"edge/*"}},
	}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	host, gateway, both := []string{"spiffe://corp/host/7"}, []string{"gateway"}, []string{"gateway", "spiffe://corp/host/7"}
	for name, c := range map[string]struct {
		who                     []string
		network, addr, workload string
		want                    bool
	}{
		"granted":                     {host, "default", "10.1.2.3", "shop/web", true},
		"IPv6":                        {host, "default", "fd00::1", "shop/web", true},
		"another prefix":              {host, "default", "10.2.2.3", "shop/web", false},
		"another network":             {host, "lab", "10.1.2.3", "shop/web", false},
		"another workload":            {host, "default", "10.1.2.3", "edge/lb", false},
		"everywhere":                  {gateway, "lab", "192.0.2.1", "edge/lb", true},
		"not by mixing rules":         {both, "default", "10.2.2.3", "shop/web", false},
		"nobody":                      {nil, "default", "10.1.2.3", "shop/web", false},
		"whose name only begins so":   {[]string{"gateway2"}, "default", "10.1.2.3", "edge/lb", false},
		"one of two names is granted": {both, "x", "10.2.2.3", "edge/lb", true},
	} {
		if got := rules.Of(c.who).Allows(c.network, netip.MustParseAddr(c.addr).As16(), c.workload); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if !Grants(nil).Of(nil).Allows("n", [16]byte{}, "w") {
		t.Error("without rules not everything is allowed")
	}
	if (Grants{{Workloads: []string{"x"}}}).Check() == nil {
		t.Error("a rule without identity is taken")
	}
}

// TestRefusedClaims name nobody and disturb nobody, and the address says why it has no name.
func TestRefusedClaims(t *testing.T) {
	a := newNode(t)
	honest := a.open("x", 0)
	tell(t, honest, set(true, claim(1, "shop/web", 0)), 0)
	s, err := a.Open(helloOf("evil"), t0, Peer{Grant: Grants{{Identity: "evil", Workloads: []string{"evil/*"}}}.Of([]string{"evil"})})
	if err != nil {
		t.Fatal(err)
	}
	heard := &results{}
	if err := s.Ownership(set(true, claim(1, "shop/web", 0), claim(1, "shop/api", 0), claim(2, "shop/db", 0), claim(3, "evil/x", 0)), t0, heard); err != nil {
		t.Fatal(err)
	}
	if heard.claims["not_allowed"] != 3 || heard.claims[Accepted] != 1 {
		t.Errorf("claims: %v", heard.claims)
	}
	mark(t, honest, 10*second)
	mark(t, s, 10*second)
	for last, want := range map[byte]string{1: "shop/web", 2: "no_evidence", 3: "evil/x"} {
		if got := a.owner(last, 5*second, 10*second); got != want {
			t.Errorf("address %d: %s", last, got)
		}
	}
	if !a.Refused("n", addrOf(2)) || a.Refused("n", addrOf(3)) || a.Refused("m", addrOf(2)) {
		t.Error("what was refused is not remembered right")
	}
	for _, m := range a.wire.said {
		if c, ok := m.(*flowv1.ExporterChanges); ok && c.GetExporterId() == "evil" {
			for _, step := range c.GetSteps() {
				for _, c := range step.GetOwnership().GetClaims() {
					if c.GetWorkload() != "evil/x" {
						t.Errorf("other nodes are told of %s", c.GetWorkload())
					}
				}
			}
		}
	}
	for i := range 3 * maxRefused {
		a.noteRefused(key{network: "n", from: uint16(i), addr: [16]byte{byte(i), byte(i >> 8), byte(i >> 16)}})
	}
	if a.refused.Len() > maxRefused {
		t.Error("without a bound")
	}
}

type results struct{ claims map[string]int }

func (r *results) Claim(_ *flowv1.Claim, result string) {
	if r.claims == nil {
		r.claims = map[string]int{}
	}
	r.claims[result]++
}

func (r *results) Release(string) {}
