package identity

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/vishvananda/netlink"
)

// networks maps addresses to address spaces. It never changes once it is published.
type networks struct {
	file    []subnet // longest prefix first
	bridges []subnet
	uplinks []netip.Prefix // of this host's interfaces that are no bridges
	network string
}

type subnet struct {
	prefix netip.Prefix
	name   string
}

// Network returns the address space that an address of a namespace is in (DESIGN §6): what the identity file says of it;
// <host>/<netns> for loopback and link-local addresses; <host>/<bridge> behind a bridge of this host that leads nowhere else,
// and in the default ranges of Docker and Podman; else the configured network. But for loopback and link-local addresses it does
// not depend on the namespace, so both ends of a connection across a bridge are in the same space. A connection that leaves such
// a bridge has its ends in two spaces: its far end is not found in the near end's, but where the near end is translated on its way out (exporter/app).
func (b *Book) Network(netnsIno uint32, addr [16]byte) string {
	n := b.spaces.Load()
	a := netip.AddrFrom16(addr).Unmap()
	if name, ok := longest(n.file, a); ok {
		return name
	}
	if a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() {
		return b.local.name(netnsIno)
	}
	if name, ok := longest(n.bridges, a); ok {
		return name
	}
	return n.network
}

// Here says whether an address is one of this host's own network namespaces: it is on an interface of one that is watched, or in an address space that
// ends at this host.
func (b *Book) Here(addr [16]byte) bool {
	a := netip.AddrFrom16(addr).Unmap()
	if a.IsLoopback() {
		return true
	}
	if _, behind := longest(b.spaces.Load().bridges, a); behind {
		return true
	}
	known := b.here.Load()
	if known == nil {
		return false
	}
	_, here := (*known)[addr]
	return here
}

// noteHere publishes the addresses that are present. The caller holds mu.
func (b *Book) noteHere() {
	here := map[[16]byte]struct{}{}
	for _, s := range b.presence.spaces {
		for a := range s.addrs {
			here[a.addr] = struct{}{}
		}
	}
	b.here.Store(&here)
}

func longest(list []subnet, a netip.Addr) (string, bool) {
	for i := range list {
		if list[i].prefix.Contains(a) {
			return list[i].name, true
		}
	}
	return "", false
}

// localNames are the names of what ends at a namespace, made once a namespace.
type localNames struct {
	host  string
	cache *lru.Cache[uint32, string]
}

func newLocalNames(host string) (*localNames, error) {
	cache, err := lru.New[uint32, string](4096)
	return &localNames{host, cache}, err
}

func (l *localNames) name(netns uint32) string {
	if name, ok := l.cache.Get(netns); ok {
		return name
	}
	name := l.host + "/" + strconv.FormatUint(uint64(netns), 10)
	l.cache.Add(netns, name)
	return name
}

// engineRanges are the networks that container engines give their default bridge on every host.
var engineRanges = [...]subnet{
	{netip.MustParsePrefix("172.17.0.0/16"), "docker0"},
	{netip.MustParsePrefix("10.88.0.0/16"), "podman0"},
}

// routedBridge matches the bridges of Kubernetes network plugins: they have no port to the outside either, but their prefixes
// are routed in the whole cluster.
var routedBridge = regexp.MustCompile(`^(cni[0-9]+|cbr[0-9]+|kube-bridge|weave|antrea-gw[0-9]+)$`)

// rebuildNetworks looks at the file and at the interfaces of the exporter's own namespace. If those cannot be listed, the
// known ones stay.
func (b *Book) rebuildNetworks() {
	n := &networks{network: b.opts.Network}
	for _, f := range b.file.Networks {
		n.file = append(n.file, subnet{f.CIDR, f.Network})
	}
	slices.SortStableFunc(n.file, longerFirst)
	if bridges, uplinks, err := interfaces(b.host); err == nil {
		n.bridges, n.uplinks = bridges, uplinks
	} else {
		b.log.Warn("the interfaces of this host cannot be listed, bridges are not told apart", "error", err)
		if old := b.spaces.Load(); old != nil {
			n.bridges, n.uplinks = old.bridges, old.uplinks
		}
	}
	for _, r := range engineRanges {
		taken := func(p netip.Prefix) bool { return p.Overlaps(r.prefix) }
		if !slices.ContainsFunc(n.uplinks, taken) {
			n.bridges = append(n.bridges, subnet{r.prefix, b.host + "/" + r.name})
		}
	}
	slices.SortStableFunc(n.bridges, longerFirst)
	b.spaces.Store(n)
}

func longerFirst(a, b subnet) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) }

// interfaces returns the prefixes behind bridges that lead nowhere else, and those of all other interfaces.
func interfaces(host string) (bridges []subnet, uplinks []netip.Prefix, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, nil, err
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, err
	}
	local := localBridges(links)
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok || a.IPNet == nil {
			continue
		}
		bits, _ := a.Mask.Size()
		prefix := unmapPrefix(netip.PrefixFrom(ip.Unmap(), bits))
		if !claimable(ip.Unmap()) || prefix.IsSingleIP() {
			continue
		}
		if name, ok := local[a.LinkIndex]; ok {
			bridges = append(bridges, subnet{prefix, host + "/" + name})
		} else {
			uplinks = append(uplinks, prefix)
		}
	}
	return bridges, uplinks, nil
}

// localBridges are the bridges whose ports are containers and virtual machines only.
func localBridges(links []netlink.Link) map[int]string {
	bridges := map[int]string{}
	for _, l := range links {
		if l.Type() == "bridge" && !routedBridge.MatchString(l.Attrs().Name) {
			bridges[l.Attrs().Index] = l.Attrs().Name
		}
	}
	for _, l := range links {
		switch l.Type() {
		case "veth", "tuntap", "dummy", "ifb":
		default:
			delete(bridges, l.Attrs().MasterIndex)
		}
	}
	return bridges
}
