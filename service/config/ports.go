package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Ports is a range of ports, inclusive, written "30000-30099" or "443"; the zero value stands for all of them.
type Ports struct{ From, To uint16 }

// UnmarshalText reads "443" or "30000-30099".
func (p *Ports) UnmarshalText(text []byte) error {
	first, last, isRange := strings.Cut(string(text), "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	to, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if err1 != nil || err2 != nil || from == 0 || from > to {
		return errors.New("not a port or a range such as 30000-30099")
	}
	p.From, p.To = uint16(from), uint16(to)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (p Ports) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%d-%d", p.From, p.To), nil
}

// All reports whether it stands for all ports.
func (p Ports) All() bool { return p == Ports{} }

// Contain reports whether the port is one of them.
func (p Ports) Contain(port uint16) bool { return p.All() || port >= p.From && port <= p.To }

// Overlap reports whether both are ranges with a port in common, or the same.
func (p Ports) Overlap(q Ports) bool {
	return !p.All() && !q.All() && p.From <= q.To && q.From <= p.To || p == q
}
