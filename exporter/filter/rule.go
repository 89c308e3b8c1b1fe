package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"tributary/exporter/event"
	"tributary/proto/flow"
)

// Bounds of what a user may give.
const (
	maxRules   = 64 // in each list
	maxValues  = 64 // of a key
	maxPattern = 256
)

// Rule matches records of which every part holds. Its text is key=value parts with spaces between them; a value is one or several
// with | between them, of which one must hold:
//
//	prefix, local_prefix, remote_prefix   an address or a prefix; prefix: of either end
//	port, local_port, remote_port         a port or FROM-TO; port: of either end
//	workload                              the local one; * stands for anything but a slash
//	role                                  client, server, unknown
//	state                                 the record's kind (active, closed, failed), or its last_state (syn_sent, …)
type Rule struct {
	text     string
	prefix   ends[netip.Prefix]
	port     ends[ports]
	workload []string
	role     []event.Role
	kind     []event.Kind
	state    []event.TCPState
}

// ends are the values for either end, or for one of them.
type ends[T any] struct{ any, local, remote []T }

type ports struct{ from, to uint16 }

// String returns the rule as it was written.
func (r Rule) String() string { return r.text }

// MarshalText implements encoding.TextMarshaler.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rule) UnmarshalText(text []byte) error {
	parsed, err := ParseRule(string(text))
	if err == nil {
		*r = parsed
	}
	return err
}

// ParseRule reads a rule's text.
func ParseRule(text string) (Rule, error) {
	fields := strings.Fields(text)
	r := Rule{text: strings.Join(fields, " ")}
	if len(fields) == 0 {
		return r, errors.New("a rule without a part would match everything")
	}
	seen := map[string]bool{}
	for _, field := range fields {
		key, list, ok := strings.Cut(field, "=")
		values := strings.Split(list, "|")
		switch {
		case !ok || list == "":
			return r, fmt.Errorf("rule %q: %q is not key=value, such as port=443", text, field)
		case seen[key]:
			return r, fmt.Errorf("rule %q has %s twice; several values are written %s=A|B", text, key, key)
		case len(values) > maxValues:
			return r, fmt.Errorf("rule %.60q has %d values of %s; %d are allowed", text, len(values), key, maxValues)
		}
		seen[key] = true
		for _, value := range values {
			if err := r.add(key, value); err != nil {
				return r, fmt.Errorf("rule %q: %w", text, err)
			}
		}
	}
	return r, nil
}

// add takes one value of a key.
func (r *Rule) add(key, value string) error {
	end, is, oneSided := strings.Cut(key, "_")
	if !oneSided {
		end, is = "", key
	}
	switch {
	case is == "prefix":
		return place(&r.prefix, end, key, value, parsePrefix)
	case is == "port":
		return place(&r.port, end, key, value, parsePorts)
	case key == "workload":
		if _, err := path.Match(value, ""); err != nil || len(value) > maxPattern {
			return fmt.Errorf("workload %.60q is no pattern such as shop/* of at most %d bytes", value, maxPattern)
		}
		r.workload = append(r.workload, value)
		return nil
	case key == "role":
		n := slices.Index(flow.RoleNames, value)
		if n < 0 {
			return fmt.Errorf("role %q is not client, server or unknown", value)
		}
		r.role = append(r.role, event.Role(n))
		return nil
	case key == "state":
		return r.addState(value)
	}
	return fmt.Errorf("%q is none of prefix, local_prefix, remote_prefix, port, local_port, remote_port, workload, role, state", key)
}

func place[T any](to *ends[T], end, key, value string, parse func(string) (T, error)) error {
	list := map[string]*[]T{"": &to.any, "local": &to.local, "remote": &to.remote}[end]
	if list == nil {
		return fmt.Errorf("%q is none of the keys; both ends have local_ and remote_", key)
	}
	v, err := parse(value)
	if err == nil {
		*list = append(*list, v)
	}
	return err
}

func (r *Rule) addState(value string) error {
	if n := slices.Index(flow.KindNames, value); n >= int(event.KindActive) && n <= int(event.KindFailed) {
		r.kind = append(r.kind, event.Kind(n))
		return nil
	}
	switch n := event.TCPState(max(0, slices.Index(flow.LastStateNames, value))); n {
	case event.StateUnknown, event.StateListen, event.StateTimeWait, event.StateNewSynRecv:
		return fmt.Errorf("no record has the state %q: active, closed, failed, or one of last_state such as syn_sent or established", value)
	default:
		r.state = append(r.state, n)
		return nil
	}
}

func parsePrefix(value string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(value)
	if a, aerr := netip.ParseAddr(value); aerr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil:
		return p, fmt.Errorf("%q is no address or prefix, such as 10.0.0.0/8 or fd00::/8", value)
	case p.Masked() != p:
		return p, fmt.Errorf("%s has bits behind its length: did you mean %s?", value, p.Masked())
	case p.Addr().Is4In6() && p.Bits() >= 96:
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96), nil
	}
	return p, nil
}

func parsePorts(value string) (ports, error) {
	first, last, isRange := strings.Cut(value, "-")
	if !isRange {
		last = first
	}
	from, err := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if errors.Join(err, err2) != nil {
		return ports{}, fmt.Errorf("%q is no port or range such as 443 or 8000-8099", value)
	}
	if from > to {
		return ports{}, fmt.Errorf("no port is in %s: did you mean %s-%s?", value, last, first)
	}
	return ports{uint16(from), uint16(to)}, nil
}

// subject is what rules look at, made once a record.
type subject struct {
	event         *event.Event
	workload      string
	local, remote netip.Addr
}

func (r *Rule) matches(s *subject) bool {
	e := s.event
	return match(&r.prefix, s.local, s.remote, netip.Prefix.Contains) && match(&r.port, e.LocalPort, e.RemotePort, ports.contain) &&
		(r.role == nil || slices.Contains(r.role, e.Role)) && r.matchesState(e) && r.matchesWorkload(s.workload)
}

func (p ports) contain(port uint16) bool { return port >= p.from && port <= p.to }

// match reports whether every list that there is has a value that contains its end; the list for either end, one of them.
func match[T, V any](of *ends[T], local, remote V, contains func(T, V) bool) bool {
	holds := func(list []T, v V) bool {
		return slices.ContainsFunc(list, func(t T) bool { return contains(t, v) })
	}
	return (of.any == nil || holds(of.any, local) || holds(of.any, remote)) && (of.local == nil || holds(of.local, local)) &&
		(of.remote == nil || holds(of.remote, remote))
}

func (r *Rule) matchesState(e *event.Event) bool {
	return r.kind == nil && r.state == nil || slices.Contains(r.kind, e.Kind) || slices.Contains(r.state, e.LastState)
}

func (r *Rule) matchesWorkload(workload string) bool {
	if r.workload == nil {
		return true
	}
	for _, pattern := range r.workload {
		if ok, _ := path.Match(pattern, workload); ok {
			return true
		}
	}
	return false
}
