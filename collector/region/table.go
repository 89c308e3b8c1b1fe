package region

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"tributary/proto/flow"
	"tributary/service/config"
)

const (
	maxFileBytes = 4 << 20
	maxRegions   = 256
	maxName      = 128
)

// Entry is one region of the file.
type Entry struct {
	Region     string         `yaml:"region" usage:"its name"`
	Network    string         `yaml:"network" usage:"address space of the prefixes; default: default"`
	Prefixes   []netip.Prefix `yaml:"prefixes" usage:"the addresses that belong to it; the longest prefix of all regions decides"`
	Collectors []string       `yaml:"collectors" usage:"host:port of its collectors' gRPC listeners; none for the region of this collector"`
	ServerName string         `yaml:"server_name" usage:"name in its collectors' certificates; default: the host"`
}

type document struct {
	Regions []Entry `yaml:"regions" usage:"every region, this one may be left out"`
}

// Parse reads the file: YAML, unknown keys are errors. own is this collector's region.
func Parse(name string, data []byte, own string) ([]Entry, error) {
	var d document
	if err := config.Decode("regions", name, data, &d); err != nil {
		return nil, err
	}
	if len(d.Regions) > maxRegions {
		return nil, fmt.Errorf("regions %s: more than %d", name, maxRegions)
	}
	owner, first := map[string]string{}, map[string]*Entry{}
	for i := range d.Regions {
		e := &d.Regions[i]
		if e.Network == "" {
			e.Network = "default"
		}
		if f := first[e.Region]; f == nil {
			first[e.Region] = e
		} else if len(e.Collectors) == 0 && e.ServerName == "" {
			e.Collectors, e.ServerName = f.Collectors, f.ServerName // a region in several networks
		} else if !slices.Equal(e.Collectors, f.Collectors) || e.ServerName != f.ServerName {
			return nil, fmt.Errorf("regions %s: %s has other collectors in another entry", name, e.Region)
		}
		if err := e.check(own); err != nil {
			return nil, fmt.Errorf("regions %s: %w", name, err)
		}
		for j, p := range e.Prefixes {
			e.Prefixes[j] = p.Masked()
			key := e.Network + " " + p.Masked().String()
			if other, ok := owner[key]; ok && other != e.Region {
				return nil, fmt.Errorf("regions %s: %s is given to %s and to %s", name, p, other, e.Region)
			}
			owner[key] = e.Region
		}
	}
	return d.Regions, nil
}

func (e *Entry) check(own string) error {
	for _, s := range []string{e.Region, e.Network, e.ServerName} {
		if len(s) > maxName || flow.Sanitize(s) != s {
			return fmt.Errorf("a name is longer than %d bytes, or has control characters", maxName)
		}
	}
	switch {
	case e.Region == "":
		return errors.New("a region has no name")
	case len(e.Prefixes) == 0:
		return fmt.Errorf("%s has no prefixes", e.Region)
	case e.Region != own && len(e.Collectors) == 0:
		return fmt.Errorf("%s has no collectors to ask", e.Region)
	}
	for _, c := range e.Collectors {
		if host, port, err := net.SplitHostPort(c); err != nil || host == "" || port == "" {
			return fmt.Errorf("%s: %q is not host:port", e.Region, c)
		}
	}
	for _, p := range e.Prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("%s: a prefix is empty, or an IPv4 address written as IPv6", e.Region)
		}
	}
	return nil
}

// table finds the region of an address. It is never changed once made.
type table struct {
	networks map[string]*bart.Table[*peer]
	peers    map[string]*peer
}

// find gives the region that an address belongs to; nil: this one, or nobody says.
func (t *table) find(network string, addr netip.Addr) *peer {
	prefixes := t.networks[network]
	if prefixes == nil {
		return nil
	}
	p, _ := prefixes.Lookup(addr)
	return p
}

// newTable makes a table. Regions that are asked at the same places as before keep their connection and what they are being asked.
func newTable(entries []Entry, own string, before map[string]*peer, start func(Entry) *peer) *table {
	t := &table{networks: map[string]*bart.Table[*peer]{}, peers: map[string]*peer{}}
	for _, e := range entries {
		prefixes := t.networks[e.Network]
		if prefixes == nil {
			prefixes = new(bart.Table[*peer])
			t.networks[e.Network] = prefixes
		}
		var p *peer
		if e.Region != own {
			if p = t.peers[e.Region]; p == nil {
				if p = before[e.Region]; p == nil || !slices.Equal(p.collectors, e.Collectors) || p.serverName != e.ServerName {
					p = start(e)
				}
				t.peers[e.Region] = p
			}
		}
		for _, prefix := range e.Prefixes {
			prefixes.Insert(prefix, p)
		}
	}
	return t
}
