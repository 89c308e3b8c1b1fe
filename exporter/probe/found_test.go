package probe

import (
	"io"
	"net"
	"testing"
	"time"

	"tributary/exporter/event"
	"tributary/service/testenv"
)

// TestFastOpenFoundInItsHandshake: a server's Fast Open connection is in the kernel's tables before its handshake ends. The inventory
// finds it, then comes the transition that else begins one.
func TestFastOpenFoundInItsHandshake(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedCommand(t, "nft", "apt-get install nftables")
	for name, accepted := range map[string]bool{"accepted": true, "waits to be accepted": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, &capture{cookies: map[uint64]bool{}})
			for _, space := range []*space{w.a, w.b} {
				w.start(space, -1) // the inventory finds namespaces by their processes
			}
			l := w.fastListener()
			w.nft(w.b, "input", "tcp flags & (syn|ack|rst) == ack drop")
			a := w.fastOpen(l, 321)
			accept := func() sock {
				b := l.accept()
				b.receive(321)
				return b
			}
			var b sock
			if accepted {
				b = accept()
			}
			c := newCapture(t, Options{ActiveEvery: time.Hour}, w.a.inum, w.b.inum)
			c.wait(func(events []event.Event) bool { return len(events) == 2 })
			w.open(w.b)
			a.send(50)
			a.state(uint8(event.StateEstablished))
			a.acknowledged()
			if !accepted {
				b = accept()
			}
			b.receive(50)
			finish(a, b)
			records := map[event.Role][]event.Event{}
			for _, e := range c.ends(2) {
				records[e.Role] = append(records[e.Role], e)
			}
			checkFound(t, records[event.RoleClient], [2]uint64{321, 0}, [2]uint64{50, 0})
			checkFound(t, records[event.RoleServer], [2]uint64{0, 321}, [2]uint64{0, 50})
			if k := counted(t, c); k.EndsMissed != 0 {
				t.Errorf("counters: %+v", k)
			}
		})
	}
}

// TestRestartInALongTransfer: counters of 32 bits would wrap before the restart, after it, and in all.
func TestRestartInALongTransfer(t *testing.T) {
	const before, after = 5<<29 + 2, 5<<29 + 10
	const back = 12345
	s := newSpace(t)
	s.server("127.0.0.1:0") // the inventory finds namespaces by their processes
	l := s.listen("127.0.0.1:0")
	var client, server *net.TCPConn
	t.Run("until the restart", func(t *testing.T) {
		newCapture(t, Options{}, s.inum)
		client, server = s.pair(l)
		stream(t, client, server, before)
		stream(t, server, client, back)
	})
	c := newCapture(t, Options{ActiveEvery: time.Hour}, s.inum)
	c.wait(func(events []event.Event) bool { return len(events) == 2 })
	stream(t, client, server, after)
	exchange(t, client, server, 0, 2*back, client, server)
	records := map[event.Role][]event.Event{}
	for _, e := range c.ends(2) {
		records[e.Role] = append(records[e.Role], e)
	}
	checkFound(t, records[event.RoleClient], [2]uint64{before, back}, [2]uint64{after, 2 * back})
	checkFound(t, records[event.RoleServer], [2]uint64{back, before}, [2]uint64{2 * back, after})
}

// stream sends so much that it is not to be kept.
func stream(t *testing.T, from, to *net.TCPConn, n int64) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(from, zeros{}, n)
		done <- err
	}()
	buf := make([]byte, 1<<20)
	for left := n; left > 0; {
		got, err := to.Read(buf[:min(left, int64(len(buf)))])
		if err != nil {
			t.Fatal(err)
		}
		left -= int64(got)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// checkFound checks the two records of an end that the inventory found: bytes sent and received before and since.
func checkFound(t *testing.T, records []event.Event, before, since [2]uint64) {
	t.Helper()
	if len(records) != 2 {
		t.Errorf("%d records, want 2\n%s", len(records), describe(records))
		return
	}
	first, last := records[0], records[1]
	if first.Kind != event.KindActive || last.Kind != event.KindClosed || first.FlowID != last.FlowID || !last.Found || last.RecordSeq != 1 {
		t.Errorf("not one connection that was found:\n%s", describe(records))
	}
	if got := [2]uint64{first.TxBytesBefore, first.RxBytesBefore}; got != before || first.TxBytes+first.RxBytes != 0 {
		t.Errorf("before %d, want %d", got, before)
	}
	if got := [2]uint64{last.TxBytes, last.RxBytes}; got != since || last.TxBytesBefore+last.RxBytesBefore != 0 {
		t.Errorf("since %d, want %d", got, since)
	}
}
