package nat

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"

	"tributary/exporter/netns"
)

// A network namespace's rules can translate something if there is a chain of nftables of the type nat, which a rule needs for it, or a nat table of iptables' older kind.
// What translates without rules (IPVS, Open vSwitch, BPF) is not found.

// translates says whether nftables' rules can.
func translates(config *netlink.Config) (bool, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, config)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }() // nothing was written
	has, err := hasNATChain(conn)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // a kernel without nftables
		return false, nil
	}
	return has, err
}

func hasNATChain(conn *netlink.Conn) (has bool, err error) {
	request, err := netfilter.MarshalNetlink(netfilter.Header{
		SubsystemID: unix.NFNL_SUBSYS_NFTABLES, MessageType: unix.NFT_MSG_GETCHAIN, Flags: netlink.Request | netlink.Dump,
	}, nil)
	if err != nil {
		return false, err
	}
	chains, err := conn.Execute(request)
	if err != nil {
		return false, fmt.Errorf("list chains: %w", err)
	}
	for i := range chains {
		const header = 4 // struct nfgenmsg
		attributes, err := netlink.NewAttributeDecoder(chains[i].Data[min(header, len(chains[i].Data)):])
		if err != nil {
			return false, fmt.Errorf("list chains: %w", err)
		}
		for attributes.Next() {
			has = has || attributes.Type() == unix.NFTA_CHAIN_TYPE && attributes.String() == "nat"
		}
		if err := attributes.Err(); err != nil {
			return false, fmt.Errorf("list chains: %w", err)
		}
	}
	return has, nil
}

var legacyNames = [...]string{"/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"}

// hasLegacy says whether this kernel has iptables' older kind, which tells nobody of its changes: what our own namespace has not, none has.
func hasLegacy() bool {
	return slices.ContainsFunc(legacyNames[:], func(file string) bool { _, err := os.Stat(file); return err == nil })
}

// legacyTables says whether a namespace has a nat table of iptables' older kind; of what may not be read it is assumed.
func legacyTables(space netns.Namespace) (has bool, err error) {
	if !hasLegacy() {
		return false, nil
	}
	err = netns.Do(space, func() error {
		for _, file := range legacyNames {
			names, err := os.ReadFile(file)
			has = has || errors.Is(err, os.ErrPermission) || slices.Contains(strings.Fields(string(names)), "nat")
		}
		return nil
	})
	return has, err
}
