package probe

import (
	"net"
	"testing"
	"time"

	"tributary/bpf"
)

// TestSlotsAndHash: what finds its slot taken is followed in the hash table, is walked over, ends with the same record, and nothing of it stays.
func TestSlotsAndHash(t *testing.T) {
	s := newSpace(t)
	const pairs, ends = 300, 600
	c := newCapture(t, Options{OpenSockets: 1024, ActiveFirst: 1, ActiveEvery: time.Hour}, s.inum)
	l := s.listen("127.0.0.1:0")
	var conns []*net.TCPConn
	for i := range pairs {
		client, server := s.pair(l)
		send(t, client, server, 1000+i)
		conns = append(conns, client, server)
	}
	slots, hashed := followed(t, c.probe)
	if slots == 0 || slots > 64 || uint64(slots)+hashed != ends {
		t.Errorf("%d in slots and %d hashed", slots, hashed)
	}
	waitFor(t, func() bool { return counted(t, c).Active >= ends })
	for _, conn := range conns {
		conn.Close()
	}
	sums, ended, active := sumFlows(t, c.endsButMissed(ends))
	missed := int(counted(t, c).EndsMissed) // this kernel hides one in some thousands
	if len(ended)+missed != ends || active < ends-missed {
		t.Errorf("%d ends and %d active records, %d ends missed", len(ended), active, missed)
	}
	for i := range pairs {
		client, server := port(conns[2*i].LocalAddr()), port(l.Addr())
		if k := [2]uint16{client, server}; ended[k] && sums[k] != [2]uint64{1000 + uint64(i), 0} {
			t.Errorf("client %d: %d", i, sums[k])
		}
		if k := [2]uint16{server, client}; ended[k] && sums[k] != [2]uint64{0, 1000 + uint64(i)} {
			t.Errorf("server %d: %d", i, sums[k])
		}
	}
	if slots, hashed := followed(t, c.probe); slots != 0 || hashed != 0 {
		t.Errorf("%d stay in slots and %d hashed", slots, hashed)
	}
	if k := counted(t, c); k.Opened != ends || k.Removed != ends || k.MapFull != 0 {
		t.Errorf("counters: %+v", k)
	}
}

// followed counts the entries of both kinds.
func followed(t *testing.T, p *Probe) (slots int, hashed uint64) {
	t.Helper()
	var index uint32
	var open bpf.CaptureOpenSocket
	entries := p.objects.OpenSlots.Iterate()
	for entries.Next(&index, &open) {
		if open.Sock != 0 {
			slots++
		}
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	if err := p.objects.HashedSockets.Get(&hashed); err != nil {
		t.Fatal(err)
	}
	return slots, hashed
}

func TestSlotsOf(t *testing.T) {
	for _, c := range []struct{ openSockets, slots, shift uint32 }{
		{1, 0, 0}, {1023, 0, 0}, {1024, 64, 26}, {100_000, 4096, 20}, {262_144, 16384, 18}, {16 << 20, 1 << 20, 12},
	} {
		if slots, shift := slotsOf(c.openSockets); slots != c.slots || shift != c.shift {
			t.Errorf("%d: %d slots, shift %d", c.openSockets, slots, shift)
		}
	}
}
