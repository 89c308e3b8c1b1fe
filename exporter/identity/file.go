package identity

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"tributary/service/config"
)

const (
	maxFileBytes = 4 << 20
	maxName      = 256
	maxEntries   = 10_000
	maxAddresses = 65_536 // of the whole file
)

// file is the identity file (DESIGN §12).
type file struct {
	Zone      string            `yaml:"zone"`
	Region    string            `yaml:"region"`
	Release   string            `yaml:"release"`
	Labels    map[string]string `yaml:"labels"`
	Networks  []fileNetwork     `yaml:"networks"`
	Workloads []entry           `yaml:"workloads"`
}

type fileNetwork struct {
	CIDR    netip.Prefix `yaml:"cidr"`
	Network string       `yaml:"network"`
}

// entry is one workload and what tells its sockets from others.
type entry struct {
	Workload  string       `yaml:"workload"`
	Instance  string       `yaml:"instance"`
	Zone      string       `yaml:"zone"`
	Region    string       `yaml:"region"`
	Release   string       `yaml:"release"`
	Netns     string       `yaml:"netns"`
	Cgroup    string       `yaml:"cgroup"`
	Unit      string       `yaml:"unit"`
	Container string       `yaml:"container"`
	Addresses []netip.Addr `yaml:"addresses"`
	Ports     config.Ports `yaml:"ports"`
}

// parse reads an identity file. name is what errors call it.
func parse(name string, data []byte) (*file, error) {
	f := &file{}
	if err := config.Decode("identity file", name, data, f); err != nil {
		return nil, err
	}
	if err := f.validate(); err != nil {
		return nil, fmt.Errorf("identity file %s: %w", name, err)
	}
	return f, nil
}

func (f *file) validate() error {
	if err := checkTexts("", "zone", f.Zone, "region", f.Region, "release", f.Release); err != nil {
		return err
	}
	for k, v := range f.Labels {
		if err := checkTexts("labels: ", "name", k, "value", v); err != nil {
			return err
		}
	}
	if len(f.Networks) > maxEntries || len(f.Workloads) > maxEntries {
		return fmt.Errorf("more than %d networks or workloads", maxEntries)
	}
	seen := map[netip.Prefix]bool{}
	for i, n := range f.Networks {
		where := fmt.Sprintf("networks[%d]: ", i)
		if !n.CIDR.IsValid() || n.Network == "" {
			return fmt.Errorf("%scidr and network are both needed", where)
		}
		if err := checkTexts(where, "network", n.Network); err != nil {
			return err
		}
		cidr := unmapPrefix(n.CIDR)
		if seen[cidr] {
			return fmt.Errorf("%s%s is there twice", where, cidr)
		}
		seen[cidr] = true
		f.Networks[i].CIDR = cidr
	}
	return f.validateWorkloads()
}

func (f *file) validateWorkloads() error {
	selectors := map[string]int{}
	byAddress := map[netip.Addr][]int{}
	addresses := 0
	for i := range f.Workloads {
		e := &f.Workloads[i]
		where := fmt.Sprintf("workloads[%d]: ", i)
		if err := e.validate(where); err != nil {
			return err
		}
		for _, s := range []string{"netns " + e.Netns, "cgroup " + e.Cgroup, "unit " + e.Unit, "container " + e.Container} {
			if strings.HasSuffix(s, " ") {
				continue
			}
			if j, twice := selectors[s]; twice {
				return fmt.Errorf("%s%s is that of workloads[%d] already", where, clip(s), j)
			}
			selectors[s] = i
		}
		if addresses += len(e.Addresses); addresses > maxAddresses {
			return fmt.Errorf("more than %d addresses", maxAddresses)
		}
		for _, a := range e.Addresses {
			for _, j := range byAddress[a] {
				if e.Ports.Overlap(f.Workloads[j].Ports) {
					return fmt.Errorf("%s%s is an address of workloads[%d] already; only different ports can share it", where, a, j)
				}
			}
			byAddress[a] = append(byAddress[a], i)
		}
	}
	return nil
}

func (e *entry) validate(where string) error {
	if err := CheckWorkload(e.Workload); err != nil {
		return fmt.Errorf("%s%w", where, err)
	}
	if err := checkTexts(where, "instance", e.Instance, "zone", e.Zone, "region", e.Region, "release", e.Release, "unit", e.Unit, "container", e.Container); err != nil {
		return err
	}
	if e.Netns == "" && e.Cgroup == "" && e.Unit == "" && e.Container == "" && len(e.Addresses) == 0 {
		return fmt.Errorf("%s%s needs addresses, netns, cgroup, container or unit", where, e.Workload)
	}
	if !e.Ports.All() && len(e.Addresses) == 0 {
		return fmt.Errorf("%sports are part of an address: %s needs addresses too", where, e.Workload)
	}
	if err := e.validatePaths(where); err != nil {
		return err
	}
	for i, a := range e.Addresses {
		a = a.Unmap().WithZone("")
		if !claimable(a) {
			return fmt.Errorf("%s%s means nothing outside its namespace, or is no host's address", where, a)
		}
		e.Addresses[i] = a
	}
	return nil
}

func (e *entry) validatePaths(where string) error {
	for _, p := range []*string{&e.Netns, &e.Cgroup} {
		if *p == "" {
			continue
		}
		if len(*p) > 4096 || !path.IsAbs(*p) || !clean(*p) {
			return fmt.Errorf("%s%q is not an absolute path", where, clip(*p))
		}
		*p = path.Clean(*p)
	}
	if e.Cgroup == "/" {
		return fmt.Errorf("%sthe root cgroup holds every process and is no evidence", where)
	}
	if strings.ContainsAny(e.Container, "/ ") {
		return fmt.Errorf("%scontainer %q is not the id of a container, or its beginning", where, clip(e.Container))
	}
	if e.Unit != "" && (strings.Contains(e.Unit, "/") || !strings.Contains(e.Unit, ".")) {
		return fmt.Errorf("%sunit %q is not a unit such as nginx.service", where, clip(e.Unit))
	}
	return nil
}

// claimable tells addresses that mean something outside their namespace.
func claimable(a netip.Addr) bool {
	return a.IsValid() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsUnspecified()
}

// CheckWorkload says why a workload's name is not one: namespace/name, printable and without spaces.
func CheckWorkload(name string) error {
	namespace, rest, ok := strings.Cut(name, "/")
	switch {
	case name == "":
		return fmt.Errorf("workload is missing")
	case len(name) > maxName:
		return fmt.Errorf("workload is longer than %d bytes", maxName)
	case !ok || namespace == "" || rest == "" || strings.Contains(rest, "/") || !clean(name) || strings.ContainsFunc(name, unicode.IsSpace):
		return fmt.Errorf("workload %q is not namespace/name", clip(name))
	}
	return nil
}

// checkTexts takes pairs of key and value.
func checkTexts(where string, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if v := pairs[i+1]; len(v) > maxName || !clean(v) {
			return fmt.Errorf("%s%s %q is longer than %d bytes or not printable", where, pairs[i], clip(v), maxName)
		}
	}
	return nil
}

func clean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// clip bounds what an error repeats of the input.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// unmapPrefix turns an IPv4-mapped prefix into an IPv4 one and clears the host bits.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}
