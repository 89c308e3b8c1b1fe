package nat

import (
	"encoding/binary"
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
	g := newGateway(t)
	gate, inside, outside := g.gate, g.inside, g.outside
	want := func(what string, shared ...string) {
		t.Helper()
		g.sharing.letGo(time.Now().Add(time.Hour))
		got := g.among()
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
