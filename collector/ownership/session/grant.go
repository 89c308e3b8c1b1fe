package session

import (
	"fmt"
	"net/netip"
	"strings"
)

// Rule grants claims to those whose certificate has an identity. A list that is empty grants everything of its kind. In patterns, * stands for any
// characters.
type Rule struct {
	Identity  string         `yaml:"identity" usage:"pattern of a certificate's identity: its SPIFFE ID, or where it has none a DNS name or its common name"`
	Networks  []string       `yaml:"networks" usage:"patterns of networks"`
	Prefixes  []netip.Prefix `yaml:"prefixes" usage:"prefixes of addresses"`
	Workloads []string       `yaml:"workloads" usage:"patterns of workloads"`
}

// Grants are all rules. Without any, everybody may claim everything.
type Grants []Rule

// Check says what is wrong with the rules.
func (g Grants) Check() error {
	for i, r := range g {
		if r.Identity == "" {
			return fmt.Errorf("claims_allowed[%d]: identity is missing; \"*\" stands for everybody", i)
		}
		for _, p := range r.Prefixes {
			if !p.IsValid() {
				return fmt.Errorf("claims_allowed[%d]: a prefix is empty", i)
			}
		}
	}
	return nil
}

// Of returns what the rules grant to somebody with these identities; nil means everything.
func (g Grants) Of(identities []string) *Grant {
	if len(g) == 0 {
		return nil
	}
	out := &Grant{}
	for _, r := range g {
		for _, id := range identities {
			if matches(r.Identity, id) {
				out.rules = append(out.rules, r)
				break
			}
		}
	}
	return out
}

// Grant is what one exporter may claim.
type Grant struct{ rules []Rule }

// Allows says whether an address of a network may be a workload's by the word of this exporter. A nil grant allows everything.
func (g *Grant) Allows(network string, addr [16]byte, workload string) bool {
	if g == nil {
		return true
	}
	a := netip.AddrFrom16(addr).Unmap()
	for i := range g.rules {
		r := &g.rules[i]
		if anyMatches(r.Networks, network) && anyMatches(r.Workloads, workload) && anyContains(r.Prefixes, a) {
			return true
		}
	}
	return false
}

// Identified says whether one of somebody's identities fits one of the patterns.
func Identified(patterns, identities []string) bool {
	for _, id := range identities {
		if len(patterns) > 0 && anyMatches(patterns, id) {
			return true
		}
	}
	return false
}

func anyMatches(patterns []string, s string) bool {
	for _, p := range patterns {
		if matches(p, s) {
			return true
		}
	}
	return len(patterns) == 0
}

func anyContains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return len(prefixes) == 0
}

// matches: the pattern's parts between its stars stand in s, in order, the first at the beginning and the last at the end.
func matches(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	parts := strings.Split(rest, "*")
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}
