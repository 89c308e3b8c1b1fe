package world

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// identityFile is the exporter's identity file, as far as a world needs it.
type identityFile struct {
	Zone      string             `yaml:"zone"`
	Networks  []identityNetwork  `yaml:"networks"`
	Workloads []identityWorkload `yaml:"workloads"`
}

type identityNetwork struct {
	CIDR    string `yaml:"cidr"`
	Network string `yaml:"network"`
}

type identityWorkload struct {
	Workload  string   `yaml:"workload"`
	Instance  string   `yaml:"instance,omitempty"`
	Release   string   `yaml:"release,omitempty"`
	Netns     string   `yaml:"netns,omitempty"`
	Addresses []string `yaml:"addresses,omitempty"`
}

// Network is the name of the address space of the world's inside.
func (w *World) Network() string { return fmt.Sprintf("lab-%d", w.Run()) }

// OutsideNetwork is the address space that the hosts outside are in. This host's kernel sees their sockets too, so they need one
// of their own: what they record must not name the other end of what the inside records, as nobody records the real
// outside.
func (w *World) OutsideNetwork() string { return fmt.Sprintf("outside-%d", w.Run()) }

// Identity is the identity file (DESIGN §12) that describes this world to an exporter.
func (w *World) Identity() ([]byte, error) {
	nets := networksOf(w.Run())
	file := identityFile{Zone: "lab-1a"}
	for _, p := range []netip.Prefix{nets.inside4, nets.inside6} {
		file.Networks = append(file.Networks, identityNetwork{p.String(), w.Network()})
	}
	for _, p := range []netip.Prefix{nets.outside4, nets.outside6} {
		file.Networks = append(file.Networks, identityNetwork{p.String(), w.OutsideNetwork()})
	}
	for _, h := range w.hosts {
		if h.Workload == "" {
			continue
		}
		entry := identityWorkload{Workload: h.Workload, Instance: h.Instance, Release: h.Release}
		if h.ByAddress {
			entry.Addresses = []string{w.IPv4(h.Name).String(), w.IPv6(h.Name).String()}
		} else {
			entry.Netns = w.NamespacePath(h.Name)
		}
		file.Workloads = append(file.Workloads, entry)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(file); err != nil {
		return nil, fmt.Errorf("identity file: %w", err)
	}
	return out.Bytes(), enc.Close()
}

// WriteIdentity puts the identity file into the world's directory and returns its path. An exporter that watches it sees
// the old file or the new one, never half of one.
func (w *World) WriteIdentity() (string, error) {
	content, err := w.Identity()
	if err != nil {
		return "", err
	}
	path := filepath.Join(w.Dir(), "identity.yaml")
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return "", fmt.Errorf("identity file: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("identity file: %w", err)
	}
	return path, nil
}
