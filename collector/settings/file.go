package settings

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	known "tributary/proto/settings"
	"tributary/service/config"
)

// MaxFileBytes bounds a settings file.
const MaxFileBytes = 256 << 10

const maxRules = 1000

// file is what a user writes. Rules hold in their order: of two that speak of the same exporter and key the later one wins.
type file struct {
	Rules []rule `yaml:"rules"`
}

// rule says what some exporters are to do. What it does not name it leaves alone.
type rule struct {
	Hosts       []string `yaml:"hosts"` // patterns of host names, as in db-*; left out: all exporters
	FilterKeep  []string `yaml:"filter_keep"`
	FilterDrop  []string `yaml:"filter_drop"`
	SampleRate  string   `yaml:"sample_rate"`
	SampleSeed  string   `yaml:"sample_seed"`
	ActiveEvery string   `yaml:"active_every"`
	BatchAge    string   `yaml:"batch_age"`
	Transports  []string `yaml:"transports"`
}

// Set is a settings file that was understood. The zero Set asks nothing of anybody.
type Set struct {
	generation uint64
	rules      []rule
}

// Parse reads a settings file; one mistake refuses all of it.
func Parse(name string, data []byte) (*Set, error) {
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("settings file %s is larger than %d bytes", name, MaxFileBytes)
	}
	var f file
	if err := config.Decode("settings file", name, data, &f); err != nil {
		return nil, err
	}
	if f.Rules == nil {
		return nil, fmt.Errorf("settings file %s has no rules: write rules: [] to ask nothing of anybody", name)
	}
	if len(f.Rules) > maxRules {
		return nil, fmt.Errorf("settings file %s has %d rules, at most %d are allowed", name, len(f.Rules), maxRules)
	}
	for i := range f.Rules {
		if err := f.Rules[i].check(); err != nil {
			return nil, fmt.Errorf("settings file %s, rule %d: %w", name, i+1, err)
		}
	}
	sum := sha256.Sum256(data)
	return &Set{generation: max(1, binary.BigEndian.Uint64(sum[:])), rules: f.Rules}, nil
}

func (r *rule) check() error {
	if r.Hosts != nil && len(r.Hosts) == 0 {
		return errors.New("hosts is an empty list: leave it out for all exporters")
	}
	for _, pattern := range r.Hosts {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return fmt.Errorf("hosts: %.64q is not a pattern such as db-*", pattern)
		}
	}
	asked := r.values()
	if len(asked) == 0 {
		return errors.New("it sets nothing")
	}
	for key, value := range asked {
		if err := known.Check(key, value); err != nil {
			return err
		}
	}
	return nil
}

// values are what a rule sets.
func (r *rule) values() map[string]string {
	values := make(map[string]string)
	for key, value := range map[string]string{
		known.FilterKeep: strings.Join(r.FilterKeep, ","), known.FilterDrop: strings.Join(r.FilterDrop, ","), known.SampleRate: r.SampleRate,
		known.SampleSeed: r.SampleSeed, known.ActiveEvery: r.ActiveEvery, known.BatchAge: r.BatchAge, known.Transports: strings.Join(r.Transports, ","),
	} {
		if value != "" {
			values[key] = value
		}
	}
	return values
}

func (r *rule) selects(host string) bool {
	return len(r.Hosts) == 0 || slices.ContainsFunc(r.Hosts, func(pattern string) bool {
		ok, _ := path.Match(pattern, host) // was checked
		return ok
	})
}

// For returns what the exporters of a host are to do.
func (s *Set) For(host string) map[string]string {
	values := make(map[string]string)
	for i := range s.rules {
		if s.rules[i].selects(host) {
			for key, value := range s.rules[i].values() {
				values[key] = value
			}
		}
	}
	return values
}
