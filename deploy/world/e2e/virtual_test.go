package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"tributary/deploy/world"
	"tributary/service/testenv"
)

// A virtual address that the client's host translates (nft, DNAT) to a server: the records have both, and the edge is one
// between workloads, the same from both sides.
func TestVirtualAddress(t *testing.T) {
	testenv.NeedCommand(t, "nft", "apt-get install nftables")
	r := newRig(t, hosts, false)
	r.serve()
	virtual := netip.AddrPortFrom(r.world.FloatingAddress(90), 80)
	real := netip.AddrPortFrom(r.world.IPv4("back"), portBack)
	rules := fmt.Sprintf("table ip virtual { chain out { type nat hook output priority -100; policy accept\nip daddr %s tcp dport %d dnat to %s\n}\n}\n",
		virtual.Addr(), virtual.Port(), real)
	r.shell("front", rules, "nft", "-f", "-")
	front := r.procs["front"]
	if err := front.Begin(world.Job{ID: "virtual", Every: 5 * time.Millisecond, Parallel: 4, Calls: []world.Call{{To: virtual, Request: 100, Response: 1_000}}}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := front.Quiet(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.all(`role = 'client' AND local_workload = 'e2e/front'`, fmt.Sprintf(`remote_workload = 'e2e/back' AND remote_instance = 'back-1' AND peer_observed = 'yes' AND
		remote_addr = toIPv6('%s') AND remote_port = %d AND orig_remote_addr = toIPv6('%s') AND orig_remote_port = %d`, real.Addr(), real.Port(), virtual.Addr(), virtual.Port()))
	r.all(`role = 'server' AND local_workload = 'e2e/back'`, `remote_workload = 'e2e/front' AND peer_observed = 'yes' AND orig_remote_addr = toIPv6('::')`)
	edges := r.rows(`SELECT client_workload, server_workload, toString(server_port), toString(class) FROM edges_1m
		WHERE client_workload = 'e2e/front' OR server_workload = 'e2e/back' GROUP BY ALL`)
	if got, want := fmt.Sprint(edges), fmt.Sprintf("[[e2e/front e2e/back %d both]]", real.Port()); got != want {
		t.Errorf("the edges are %s, want %s", got, want)
	}
	r.checkBooks()
}

// all waits until the ends of connections that are meant, a hundred at least, are as they should be.
func (r *rig) all(meant, right string) {
	r.t.Helper()
	r.waitFor(0, soon, `SELECT toUInt64(countIf(`+right+`) < 100) + countIf(NOT (`+right+`)) FROM flows WHERE kind = 'closed' AND `+meant+` AND `+r.inWorld())
}
