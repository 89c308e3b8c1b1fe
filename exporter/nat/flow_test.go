package nat

import (
	"net/netip"
	"testing"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A server has clients behind a masquerade and others: that one of these was not translated a moment ago says nothing of those.
func TestTranslatedConnectionStaysSo(t *testing.T) {
	flows, err := simplelru.NewLRU[flowKey, Way](8, nil)
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

// One look that found nothing tracked answers for the connections of one namespace before it, and if it was into that namespace alone, for those over
// loopback. For all others there must be a question.
func TestEmptyAnswersForFew(t *testing.T) {
	flows, err := simplelru.NewLRU[flowKey, Way](8, nil)
	if err != nil {
		t.Fatal(err)
	}
	near, far := netip.MustParseAddrPort("127.0.0.1:80"), netip.MustParseAddrPort("10.0.0.1:80")
	for name, c := range map[string]struct {
		empty    empty
		netns    uint32
		at       uint64
		local    netip.AddrPort
		answered bool
	}{
		"loopback":                     {empty{7, 200, true}, 7, 200, near, true},
		"beyond, of both namespaces":   {empty{7, 200, false}, 7, 100, far, true},
		"beyond, of loopback only":     {empty{7, 200, true}, 7, 100, far, false},
		"later":                        {empty{7, 200, false}, 7, 201, near, false},
		"of another namespace":         {empty{7, 200, false}, 8, 100, near, false},
		"nothing was looked at so far": {empty{}, 7, 100, near, false},
	} {
		table := &Table{flows: flows, plain: map[plainKey]uint64{}, empty: c.empty}
		table.Pause(true) // a question counts as skipped
		table.Find(&End{Netns: c.netns, AtNs: c.at, Local: c.local, Remote: far})
		if s := table.Stats(); (s.Skipped == 0) != c.answered {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
