// Package settings knows the settings that a collector may send to its exporters: their keys, which are those of the exporter's own
// configuration, and the form of their values, which is that of its environment. Both sides check with it, so that a collector refuses a bad
// file at once and an exporter never trusts one. It is pure and applies nothing.
package settings

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The keys.
const (
	FilterKeep  = "filter_keep"  // rules of what is recorded, with commas between them
	FilterDrop  = "filter_drop"  // rules of what is left out of it
	SampleRate  = "sample_rate"  // one of so many established connections is recorded
	SampleSeed  = "sample_seed"  // exporters with the same seed sample the same connections
	ActiveEvery = "active_every" // between two records of a connection that stays open
	BatchAge    = "batch_age"    // how long a row waits for its batch to fill
	Transports  = "transports"   // ways to the collector, best first
)

// Keys lists the keys.
func Keys() []string {
	return []string{FilterKeep, FilterDrop, SampleRate, SampleSeed, ActiveEvery, BatchAge, Transports}
}

// MaxValueBytes bounds a value.
const MaxValueBytes = 4096

// Check says in one sentence why a setting cannot be applied by any exporter of this version.
func Check(key, value string) error {
	var err error
	switch {
	case len(value) > MaxValueBytes:
		return fmt.Errorf("%s is longer than %d bytes", key, MaxValueBytes)
	case key == FilterKeep, key == FilterDrop:
		_, err = ParseRules(key, value)
	case key == SampleRate:
		_, err = ParseSampleRate(value)
	case key == SampleSeed:
		_, err = ParseSampleSeed(value)
	case key == ActiveEvery:
		_, err = ParseActiveEvery(value)
	case key == BatchAge:
		_, err = ParseBatchAge(value)
	case key == Transports:
		_, err = ParseTransports(value)
	default:
		return fmt.Errorf("there is no setting %.64q; there are: %s", key, strings.Join(Keys(), ", "))
	}
	return err
}

// ParseRules takes a list of rules apart: each of key=value parts with spaces between them. Which keys and values there are the exporter knows.
func ParseRules(key, value string) ([]string, error) {
	if value == "" {
		return nil, nil
	}
	rules := strings.Split(value, ",")
	for i, rule := range rules {
		rules[i] = strings.TrimSpace(rule)
		parts := strings.Fields(rule)
		if len(parts) == 0 || slices.ContainsFunc(parts, func(part string) bool { name, is, _ := strings.Cut(part, "="); return name == "" || is == "" }) {
			return nil, fmt.Errorf("%s %.64q is not a rule such as \"port=443 role=client\"", key, rule)
		}
	}
	return rules, nil
}

// ParseSampleRate reads a number from 1, which is all, to a million.
func ParseSampleRate(value string) (uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n < 1 || n > 1_000_000 {
		return 0, fmt.Errorf("%s %.64q is not a number from 1 to 1000000", SampleRate, value)
	}
	return uint32(n), nil
}

// ParseSampleSeed reads a number of 64 bits.
func ParseSampleSeed(value string) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s %.64q is not a number from 0 to %d", SampleSeed, value, uint64(math.MaxUint64))
	}
	return n, nil
}

// ParseActiveEvery reads a time from 5s to 1h.
func ParseActiveEvery(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 5*time.Second || d > time.Hour {
		return 0, fmt.Errorf("%s %.64q is not a time between 5s and 1h", ActiveEvery, value)
	}
	return d, nil
}

// ParseBatchAge reads a time from 10ms to 1m.
func ParseBatchAge(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 10*time.Millisecond || d > time.Minute {
		return 0, fmt.Errorf("%s %.64q is not a time between 10ms and 1m", BatchAge, value)
	}
	return d, nil
}

// ParseTransports reads a comma-separated list without repetitions of grpc and https, perhaps after udp.
func ParseTransports(value string) ([]string, error) {
	var ways []string
	for _, way := range strings.Split(value, ",") {
		way = strings.TrimSpace(way)
		if way != "grpc" && way != "https" && (way != "udp" || len(ways) > 0) {
			return nil, fmt.Errorf("%s %.64q is not a list of grpc and https, best first, nor one with udp before them", Transports, value)
		}
		if slices.Contains(ways, way) {
			return nil, fmt.Errorf("%s names %s twice", Transports, way)
		}
		ways = append(ways, way)
	}
	return ways, nil
}
