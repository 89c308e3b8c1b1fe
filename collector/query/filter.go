package query

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"tributary/proto/flow"
)

// Filters choose records, as flags that may be repeated: values of the same flag are alternatives, different flags all hold, and --not
// turns the next flag around. Values are always bound to the statement, never written into it.
type Filters struct {
	list []filter
	not  bool // the next one is turned around
}

// filter is one flag with its values.
type filter struct {
	kind   *filterKind
	not    bool
	values []string
}

// filterKind is a flag that filters.
type filterKind struct {
	name, usage string
	condition   string                        // of one value, which is {0}; {1} is a second one
	bind        func(string) ([]bound, error) // a value, checked
}

// bound is a value and its ClickHouse type.
type bound struct{ value, typ string }

// Client and server of a record by its role; a record of unknown role counts its local end as the client.
const (
	clientSide = "if(role = 'server', remote_%[1]s, local_%[1]s)"
	serverSide = "if(role = 'server', local_%[1]s, remote_%[1]s)"
)

func filterKinds() []*filterKind {
	from := func(column string) string { return fmt.Sprintf(clientSide, column) }
	to := func(column string) string { return fmt.Sprintf(serverSide, column) }
	const in = " BETWEEN {0} AND {1}"
	return []*filterKind{
		{"workload", "workload of either end", "local_workload = {0} OR remote_workload = {0}", bindText},
		{"from-workload", "workload of the client", from("workload") + " = {0}", bindText},
		{"to-workload", "workload of the server", to("workload") + " = {0}", bindText},
		{"ip", "address or prefix (10.0.0.0/8) of either end", "local_addr" + in + " OR remote_addr" + in, bindPrefix},
		{"from-ip", "address or prefix of the client", from("addr") + in, bindPrefix},
		{"to-ip", "address or prefix of the server", to("addr") + in, bindPrefix},
		{"port", "port of either end", "local_port = {0} OR remote_port = {0}", bindPort},
		{"from-port", "port of the client", from("port") + " = {0}", bindPort},
		{"to-port", "port of the server", to("port") + " = {0}", bindPort},
		{"kind", "active, closed, failed or rollup", "toString(kind) = {0}", bindEnum(flow.KindNames)},
		{"reason", "close_reason: refused, timeout, rst_remote, …", "toString(close_reason) = {0}", bindEnum(flow.CloseReasonNames)},
		{"evidence", "what named either end: claim, mirror, cgroup, …", "toString(local_evidence) = {0} OR toString(remote_evidence) = {0}", bindEnum(flow.EvidenceNames)},
		{"why", "why either end has no name: gap, no_evidence, external, …", "toString(local_why) = {0} OR toString(remote_why) = {0}", bindEnum(flow.WhyNames)},
	}
}

func bindText(v string) ([]bound, error) { return []bound{{v, "String"}}, nil }

func bindPort(v string) ([]bound, error) {
	if _, err := strconv.ParseUint(v, 10, 16); err != nil {
		return nil, fmt.Errorf("%q is no port", v)
	}
	return []bound{{v, "UInt16"}}, nil
}

func bindEnum(names flow.Enum) func(string) ([]bound, error) {
	return func(v string) ([]bound, error) {
		if !slices.Contains(names, v) {
			return nil, fmt.Errorf("%q is none of %s", v, strings.Join(names, ", "))
		}
		return []bound{{v, "String"}}, nil
	}
}

// bindPrefix gives the first and the last address, IPv4 mapped as in the columns.
func bindPrefix(v string) ([]bound, error) {
	p, err := netip.ParsePrefix(v)
	if err != nil {
		addr, err := netip.ParseAddr(v)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an IP address nor a prefix (10.0.0.0/8)", v)
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	first, last := p.Masked().Addr().As16(), p.Masked().Addr().As16()
	for i := bits; i < 128; i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	return []bound{{netip.AddrFrom16(first).String(), "IPv6"}, {netip.AddrFrom16(last).String(), "IPv6"}}, nil
}

// add takes a flag's value: one, or several with commas.
func (f *Filters) add(k *filterKind, text string) error {
	values := strings.Split(text, ",")
	for _, v := range values {
		if _, err := k.bind(v); err != nil {
			return err
		}
	}
	f.list = append(f.list, filter{k, f.not, values})
	f.not = false
	return nil
}

// sql returns a condition and its parameters.
func (f *Filters) sql() (string, map[string]string, error) {
	if f.not {
		return "", nil, errors.New("--not turns the next filter around, and none follows")
	}
	params := map[string]string{}
	byKind := map[string][]string{}
	var order []string
	for _, one := range f.list {
		key := one.kind.name
		if one.not {
			key = "not " + key
		}
		if byKind[key] == nil {
			order = append(order, key)
		}
		for _, v := range one.values {
			values, err := one.kind.bind(v)
			if err != nil {
				return "", nil, err
			}
			text := one.kind.condition
			for i, b := range values {
				name := fmt.Sprintf("f%d", len(params))
				params[name] = b.value
				text = strings.ReplaceAll(text, fmt.Sprintf("{%d}", i), "{"+name+":"+b.typ+"}")
			}
			byKind[key] = append(byKind[key], text)
		}
	}
	parts := []string{"1"}
	for _, key := range order {
		text := "(" + strings.Join(byKind[key], " OR ") + ")"
		if strings.HasPrefix(key, "not ") {
			text = "NOT " + text
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " AND "), params, nil
}

// workloads are the names that records are asked for by.
func (f *Filters) workloads() []string {
	var out []string
	for _, one := range f.list {
		if strings.HasSuffix(one.kind.name, "workload") && !one.not {
			out = append(out, one.values...)
		}
	}
	return out
}

// flags adds the filters to a command.
func (f *Filters) flags(set *pflag.FlagSet) {
	for _, k := range filterKinds() {
		set.Var(&filterFlag{f, k}, k.name, k.usage)
	}
	set.Var((*notFlag)(f), "not", "turn the next filter around")
	set.Lookup("not").NoOptDefVal = "true"
}

type filterFlag struct {
	all  *Filters
	kind *filterKind
}

// Set implements pflag.Value.
func (f *filterFlag) Set(text string) error { return f.all.add(f.kind, text) }

// String implements pflag.Value.
func (f *filterFlag) String() string { return "" }

// Type implements pflag.Value.
func (f *filterFlag) Type() string { return "value" }

type notFlag Filters

// Set implements pflag.Value.
func (f *notFlag) Set(text string) (err error) {
	f.not, err = strconv.ParseBool(text)
	return err
}

// String implements pflag.Value.
func (f *notFlag) String() string { return "false" }

// Type implements pflag.Value.
func (f *notFlag) Type() string { return "bool" }
