package identity

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func FuzzNotification(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWADDR), append([]byte{2, 24, 0, 0, 1, 0, 0, 0}, binary.NativeEndian.AppendUint32([]byte{8, 0, 2, 0}, 0x0100000a)...))
	f.Add(uint16(unix.RTM_DELNSID), []byte{0, 0, 0, 0, 8, 0, 1, 0, 3, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, kind uint16, data []byte) { parseMessage(kind, data) })
}

func TestParseMessage(t *testing.T) {
	v4 := []byte{8, 0, unix.IFA_LOCAL, 0, 10, 0, 0, 1}
	peer := []byte{8, 0, unix.IFA_ADDRESS, 0, 10, 0, 0, 2}
	head := func(flags byte) []byte { return []byte{unix.AF_INET, 24, flags, 0, 3, 0, 0, 0} }
	wide := binary.NativeEndian.AppendUint32([]byte{8, 0, unix.IFA_FLAGS, 0}, unix.IFA_F_TENTATIVE|unix.IFA_F_NOPREFIXROUTE)
	one := ifaddr{3, addr("10.0.0.1")}
	for _, c := range []struct {
		name string
		kind uint16
		data []byte
		want addrEvent
		ok   bool
	}{
		{"added", unix.RTM_NEWADDR, slices.Concat(head(0), peer, v4), addrEvent{ifaddr: one, present: true}, true},
		{"removed", unix.RTM_DELADDR, slices.Concat(head(0), v4), addrEvent{ifaddr: one}, true},
		{"deprecated", unix.RTM_NEWADDR, slices.Concat(head(unix.IFA_F_DEPRECATED), v4), addrEvent{ifaddr: one}, true},
		{"tentative", unix.RTM_NEWADDR, slices.Concat(head(0), wide, v4), addrEvent{ifaddr: one}, true},
		{"without address", unix.RTM_NEWADDR, head(0), addrEvent{}, false},
		{"short", unix.RTM_NEWADDR, head(0)[:7], addrEvent{}, false},
		{"attribute too long", unix.RTM_NEWADDR, slices.Concat(head(0), []byte{9, 0, unix.IFA_LOCAL, 0, 1, 2, 3, 4}), addrEvent{}, false},
		{"namespace gone", unix.RTM_DELNSID, []byte{0, 0, 0, 0, 8, 0, nsfsAttrID, 0, 5, 0, 0, 0}, addrEvent{nsid: 5}, true},
	} {
		got, ok := parseMessage(c.kind, c.data)
		c.want.kind = c.kind
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v, %v", c.name, got, ok)
		}
	}
}
