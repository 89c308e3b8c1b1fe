package app

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"tributary/exporter/config"
	"tributary/exporter/identity"
	"tributary/exporter/netns"
	"tributary/exporter/probe"
)

// host is what an exporter says about where it runs.
type host struct {
	name       string
	bootID     string
	exporterID string
}

func readHost() (host, error) {
	name, err := os.Hostname()
	if err != nil {
		return host{}, fmt.Errorf("read the host's name: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return host{}, fmt.Errorf("read the boot id: %w", err)
	}
	run := make([]byte, 8)
	_, _ = rand.Read(run) // crypto/rand never fails
	return host{name: name, bootID: strings.TrimSpace(string(boot)), exporterID: name + "-" + hex.EncodeToString(run)}, nil
}

// scopeNetns returns the network namespace to which capture is restricted, 0 for none.
func scopeNetns(scope string) (uint32, error) {
	if scope != config.ScopeNetns {
		return 0, nil
	}
	return ownNetns()
}

// ownNetns is the inode number of the network namespace that the exporter is in.
func ownNetns() (uint32, error) {
	inum, ok := netns.Inum(netns.Own)
	if !ok {
		return 0, fmt.Errorf("find the own network namespace: %s cannot be read", netns.Own)
	}
	return inum, nil
}

// scopeCgroup returns the cgroup to which capture is restricted, 0 for none.
func scopeCgroup(c config.Config) (uint64, error) {
	if c.Scope != config.ScopeCgroup {
		return 0, nil
	}
	id, err := identity.CgroupID(c.Cgroup)
	if err != nil {
		return 0, fmt.Errorf("--scope cgroup: find the cgroup %q (--cgroup): %w", c.Cgroup, err)
	}
	return id, nil
}

// probeOptions are what the configuration says about capture; the scope is looked up on this host.
func probeOptions(c config.Config) (probe.Options, error) {
	netns, err := scopeNetns(c.Scope)
	if err != nil {
		return probe.Options{}, err
	}
	cgroup, err := scopeCgroup(c)
	if err != nil {
		return probe.Options{}, err
	}
	return probe.Options{
		RingBytes: uint32(c.RingBytes), OpenSockets: uint32(c.OpenSockets), NetnsInum: netns, CgroupID: cgroup,
		ActiveEvery: c.Capture.ActiveEvery, FailedConnects: c.FailedConnects,
	}, nil
}
