package nat

import (
	"net/netip"
	"testing"

	lru "github.com/hashicorp/golang-lru/v2"
)

// A server has clients behind a masquerade and others: that one of these was not translated a moment ago says nothing of those.
func TestTranslatedConnectionStaysSo(t *testing.T) {
	flows, err := lru.New[flowKey, Way](8)
	if err != nil {
		t.Fatal(err)
	}
	local, client := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.1.0.9:4000")
	e := End{Sock: 1, Opened: 2, AtNs: 100, Netns: 7, Server: true, Local: local, Remote: netip.MustParseAddrPort("10.0.0.254:999")}
	table := &Table{flows: flows, plain: map[plainKey]uint64{{7, true, local}: 200}}
	flows.Add(flowKey{1, 2}, Way{Peer: client})
	for _, last := range []bool{false, true} {
		e.Last = last
		if got := table.Find(&e).Peer; got != client {
			t.Errorf("last %t: the other end is %v, want %v", last, got, client)
		}
	}
	if flows.Len() != 0 {
		t.Error("a connection that has ended is remembered")
	}
}
