package nat

import (
	"os/exec"
	"slices"
	"testing"
)

// TestRulesThatTranslate: chains of nftables can that are of the type nat, in any family.
func TestRulesThatTranslate(t *testing.T) {
	for rules, want := range map[string]bool{
		"": false,
		"table inet f { chain c { type filter hook input priority 0; ct state new accept\n}\n}\n":   false,
		"table ip nat { chain nat { type filter hook input priority 0; ct state new accept\n}\n}\n": false,
		"table ip n { chain c { type nat hook postrouting priority 100\n}\n}\n":                     true,
		"table inet n { chain c { type nat hook output priority 100\n}\n}\n":                        true,
	} {
		p := newPlace(t)
		p.run(rules, "nft", "-f", "-")
		p.do(func() error {
			if got, err := translates(nil); err != nil || got != want {
				t.Errorf("%s: %t, %v", rules, got, err)
			}
			return nil
		})
	}
}

// TestLegacyMasquerade: what iptables' older kind translates is known of from the first connection on, too.
func TestLegacyMasquerade(t *testing.T) {
	if _, err := exec.LookPath("iptables-legacy"); err != nil || !hasLegacy() {
		t.Skip("no iptables-legacy here: apt-get install iptables, and a kernel with ip_tables")
	}
	g := newGateway(t)
	g.track()
	l := g.outside.listen("10.178.2.2:80")
	if got := g.among(); got != nil || g.sharing.watch != nil {
		t.Fatalf("without rules: %v, watched %t", got, g.sharing.watch != nil)
	}
	g.gate.run("", "iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "wo", "-j", "MASQUERADE")
	for i := range 100 {
		if got := g.arrival(l, "10.178.2.2:80"); !slices.Equal(got, []string{"10.178.2.1"}) {
			t.Errorf("connection %d: %v", i, got)
		}
	}
	if g.sharing.watch == nil {
		t.Error("nothing is watched")
	}
}
