package ownership

import "testing"

// TestRecordIs: a record is that of its own key and of no other, however alike: one bit more in one half of the address, what differs in one half
// standing in the other, IPv4 as a narrow and as a wide key.
func TestRecordIs(t *testing.T) {
	var keys []Key
	for _, net := range []NetworkID{1, 2, 0xf, narrowNet - 1, narrowNet, narrowNet + 1, 1<<32 - 1} {
		for _, hi := range []uint64{0, 1, 2, 1 << 63, 0xfd00 << 48, 0xfd00<<48 | 1, 0xfd00<<48 | 2} {
			for _, lo := range []uint64{0, 1, 2, 3, 5, 0xffff, 10<<24 | 1, 0xffff<<32 | 1, 0xffff<<32 | 3, 0xffff<<32 | 10<<24, 0xfffe<<32 | 1, 1 << 63} {
				keys = append(keys, Key{net, Addr{hi, lo}})
			}
		}
	}
	for _, own := range keys {
		e := entry{net: uint32(own.Network), addr: own.Addr, pieces: []piece{{from: second, to: open, owner: 1, exporter: 1}}}
		r := make(record, longestRec)
		for i, w := range e.pack(nil) {
			r[i].Store(w)
		}
		if net, addr := r.key(); net != uint32(own.Network) || addr != own.Addr {
			t.Fatalf("%+v comes back as %d %+v", own, net, addr)
		}
		for _, k := range keys {
			if (*front)(r).is(&k) != (k == own) {
				t.Fatalf("the record of %+v is that of %+v: %t", own, k, (*front)(r).is(&k))
			}
		}
	}
}
