package nat

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

// A gateway stands for those behind it: for clients by a masquerade, for a server by a port that leads to it. It does not for its own connections, nor
// for those that it only forwards.
func TestSharedAddresses(t *testing.T) {
	gate, inside, outside := newPlace(t), newPlace(t), newPlace(t)
	wire(inside, gate, "wi", "10.178.1.2/24 fd78:1::2/64", "10.178.1.1/24 fd78:1::1/64")
	wire(outside, gate, "wo", "10.178.2.2/24 fd78:2::2/64", "10.178.2.1/24 10.178.2.9/24 fd78:2::1/64")
	inside.run("", "ip", "route", "add", "default", "via", "10.178.1.1")
	inside.run("", "ip", "-6", "route", "add", "default", "via", "fd78:1::1")
	outside.run("", "ip", "route", "add", "10.178.1.0/24", "via", "10.178.2.1")
	for _, file := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		gate.do(func() error { return os.WriteFile(file, []byte("1"), 0) })
	}
	s := NewSharing(Options{Own: outside.inum, Path: func(inum, _ uint32) string {
		if inum == gate.inum {
			return gate.path()
		}
		return ""
	}})
	own := []netip.Addr{
		netip.MustParseAddr("10.178.1.1"), netip.MustParseAddr("10.178.2.1"), netip.MustParseAddr("10.178.2.9"), netip.MustParseAddr("fd78:1::1"), netip.MustParseAddr("fd78:2::1"),
	}
	want := func(what string, shared ...string) {
		t.Helper()
		var got []string
		outside.do(func() error {
			clear(s.pause)
			for _, a := range s.Among(gate.inum, own) {
				got = append(got, a.String())
			}
			return nil
		})
		slices.Sort(got)
		if !slices.Equal(got, shared) {
			t.Errorf("%s: %v, want %v", what, got, shared)
		}
	}
	want("nothing is tracked")
	gate.run("table inet t { chain p { type filter hook forward priority 0; ct state new accept\n}\n}\n", "nft", "-f", "-")
	outside.listen("10.178.2.2:80")
	outside.listen("[fd78:2::2]:80")
	inside.listen("10.178.1.2:8080")
	inside.dial("10.178.2.2:80")
	gate.dial("10.178.2.2:80")
	want("forwarded, and its own")
	gate.run("table inet n { chain o { type nat hook postrouting priority 100; policy accept\nmeta nfproto ipv6 oifname wo masquerade\n}\n}\n", "nft", "-f", "-")
	inside.dial("[fd78:2::2]:80")
	want("a masquerade", "fd78:2::1")
	gate.run("table ip m { chain o { type nat hook postrouting priority 101; policy accept\noifname wo masquerade\n}\n}\n", "nft", "-f", "-")
	gate.dial("10.178.2.2:80")
	want("its own connection under a masquerade", "fd78:2::1")
	c := inside.dial("10.178.2.2:80")
	want("both families", "10.178.2.1", "fd78:2::1")
	c.Close()
	want("after the end of the connection", "10.178.2.1", "fd78:2::1")
	gate.run("table ip d { chain i { type nat hook prerouting priority -100; policy accept\nip daddr 10.178.2.9 tcp dport 80 dnat to 10.178.1.2:8080\n}\n}\n", "nft", "-f", "-")
	outside.dial("10.178.2.9:80")
	want("a port that leads inside", "10.178.2.1", "10.178.2.9", "fd78:2::1")
}

// TestSharingIsBounded: what took time is not asked again at once, and what cannot be asked is left alone.
func TestSharingIsBounded(t *testing.T) {
	host := newPlace(t)
	s := NewSharing(Options{Own: host.inum, Path: func(uint32, uint32) string { return "" }})
	own := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	host.do(func() error {
		s.Among(host.inum, own)
		s.Among(1, own)
		return nil
	})
	if !time.Now().Before(s.pause[1]) || time.Until(s.pause[1]) < retry-time.Second {
		t.Errorf("a namespace that cannot be entered is asked again at %v", s.pause[1])
	}
	if until := s.pause[host.inum]; until.IsZero() || time.Until(until) > listPatience {
		t.Errorf("the own one is left alone until %v", until)
	}
	s.opts.OwnOnly = true
	if s.Among(2, own); len(s.pause) != 2 {
		t.Error("a sidecar asks in other namespaces")
	}
}

func FuzzEntries(f *testing.F) {
	attributes := netlink.NewAttributeEncoder()
	attributes.ByteOrder = binary.BigEndian
	attributes.Uint32(ctaStatus, uint32(conntrack.StatusSrcNAT))
	for _, tuple := range []uint16{ctaTupleOrig, ctaTupleReply} {
		attributes.Nested(tuple, func(in *netlink.AttributeEncoder) error {
			in.Nested(ctaTupleIP, func(ip *netlink.AttributeEncoder) error {
				ip.Bytes(ctaIPv4Src, []byte{10, 0, 0, 1})
				ip.Bytes(ctaIPv4Dst, []byte{10, 0, 0, 2})
				return nil
			})
			return nil
		})
	}
	body, err := attributes.Encode()
	if err != nil {
		f.Fatal(err)
	}
	message := binary.NativeEndian.AppendUint32(nil, uint32(20+len(body)))
	message = append(message, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, unix.AF_INET, 0, 0, 0)
	f.Add(append(message, body...))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = entries(data, conntrack.StatusSrcNAT, func(addresses, addresses) bool { return true })
	})
}
