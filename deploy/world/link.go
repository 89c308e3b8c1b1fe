package world

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "lan0"
	hostLink   = "eth0"
)

// Networks of a world. Everything is on one bridge: the outside reaches the inside without a router.
type networks struct {
	inside4, inside6   netip.Prefix
	outside4, outside6 netip.Prefix
}

// networksOf gives run 0 the addresses of the documentation (10.77.0.12 and fd77::12), and every other run its own.
func networksOf(run int) networks {
	n := byte(run)
	return networks{
		inside4:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, n, 0}), 24),
		inside6:  netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 7: n}), 64),
		outside4: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, 2 * n}), 31),
		outside6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 7: n}), 64),
	}
}

// all returns the four prefixes.
func (n networks) all() []netip.Prefix {
	return []netip.Prefix{n.inside4, n.inside6, n.outside4, n.outside6}
}

// addressesOf gives host number d one address of each family; the IPv6 one reads like the IPv4 one in decimal.
func (n networks) addressesOf(h Host) (v4, v6 netip.Addr) {
	p4, p6 := n.inside4, n.inside6
	if h.Outside {
		p4, p6 = n.outside4, n.outside6
	}
	a4, a6 := p4.Addr().As4(), p6.Addr().As16()
	a4[3] += h.Number
	a6[15] = h.Number/10%10<<4 | h.Number%10
	a6[14] = h.Number / 100
	return netip.AddrFrom4(a4), netip.AddrFrom16(a6)
}

// newBridge makes the bridge in the namespace of the LAN.
func newBridge(lan *namespace) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	if err := lan.link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	return lan.up(bridgeName)
}

// connect plugs a host's namespace into the bridge and gives it on-link routes to every network of the world.
func connect(lan, host *namespace, name string, nets networks) error {
	bridge, err := lan.link.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = interfaceName(name)
	attrs.MasterIndex = bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: hostLink, PeerNamespace: netlink.NsFd(int(host.handle))}
	if err := lan.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth of %s: %w", name, err)
	}
	if err := lan.up(attrs.Name); err != nil {
		return err
	}
	if err := host.up(hostLink); err != nil {
		return err
	}
	return addRoutes(host, nets)
}

func addRoutes(host *namespace, nets networks) error {
	l, err := host.link.LinkByName(hostLink)
	if err != nil {
		return fmt.Errorf("link %s: %w", hostLink, err)
	}
	for _, p := range nets.all() {
		route := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p)}
		if p.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		if err := host.link.RouteReplace(route); err != nil {
			return fmt.Errorf("route to %s: %w", p, err)
		}
	}
	return nil
}

// addAddress and delAddress work on single addresses (/32, /128): the networks are routes.
func addAddress(host *namespace, a netip.Addr) error {
	return onAddress(host, a, func(l netlink.Link, na *netlink.Addr) error { return host.link.AddrAdd(l, na) })
}

func delAddress(host *namespace, a netip.Addr) error {
	return onAddress(host, a, func(l netlink.Link, na *netlink.Addr) error { return host.link.AddrDel(l, na) })
}

func onAddress(host *namespace, a netip.Addr, f func(netlink.Link, *netlink.Addr) error) error {
	l, err := host.link.LinkByName(hostLink)
	if err != nil {
		return fmt.Errorf("link %s: %w", hostLink, err)
	}
	na := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
	if a.Is6() {
		na.Flags = unix.IFA_F_NODAD
	}
	if err := f(l, na); err != nil {
		return fmt.Errorf("address %s of %s: %w", a, host.name, err)
	}
	return nil
}

// forget makes a host ask anew who has an address.
func forget(host *namespace, a netip.Addr) error {
	l, err := host.link.LinkByName(hostLink)
	if err != nil {
		return fmt.Errorf("link %s: %w", hostLink, err)
	}
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	err = host.link.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family, IP: a.AsSlice()})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget neighbour %s in %s: %w", a, host.name, err)
	}
	return nil
}

// dropPort makes a host's firewall drop what comes in for a TCP port, without a word to the sender.
func dropPort(host *namespace, port uint16) error {
	return nft(host, fmt.Sprintf("table inet world {\n\tchain input {\n\t\ttype filter hook input priority 0;\n\t\ttcp dport %d drop\n\t}\n}\n", port))
}

// nft runs a script of nftables in a host.
func nft(host *namespace, script string) error {
	return host.in(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft in %s: %w: %s (Debian package nftables)", host.name, err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
