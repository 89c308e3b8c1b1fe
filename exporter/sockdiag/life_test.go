package sockdiag

import (
	"log/slog"
	"testing"
	"time"

	"tributary/exporter/clock"
	"tributary/exporter/event"
)

// books is a source without a kernel, and the records that it has made.
func books(t *testing.T, most int) (*Source, *space, *[]event.Event) {
	t.Helper()
	s := New(Options{OpenSockets: most, ActiveEvery: 1e9, Log: slog.New(slog.DiscardHandler)})
	made := new([]event.Event)
	s.handle = func(b []byte) error {
		var e event.Event
		if err := event.Decode(b, &e); err != nil {
			return err
		}
		*made = append(*made, e)
		return nil
	}
	sp := &space{inum: 7, listedBefore: true, ports: map[uint16]bool{80: true}}
	s.spaces[7] = sp
	return s, sp, made
}

// look tells the source of one list.
func look(s *Source, sp *space, sockets ...*diag) {
	s.round++
	s.surplus = [2]int{s.surplus[1], 0}

	now := clock.Boot()
	for _, d := range sockets {
		s.listed(sp, d, false, now)
	}
	s.passOver(map[uint32]bool{sp.inum: true}, now, false)
}

func socket(cookie uint64) *diag {
	return &diag{state: event.StateEstablished, localPort: 80, remotePort: 40000, cookie: cookie, uid: 1000, cgroup: 4711}
}

// A socket that was reset is listed no more, and destroyed when its program closes it, perhaps minutes later: it is one connection with one end.
func TestNoticeAfterAbsence(t *testing.T) {
	s, sp, made := books(t, 10)
	look(s, sp, socket(1))
	look(s, sp)
	look(s, sp)
	s.ended(&notice{netns: 7, diag: *socket(1)})
	if len(*made) != 1 || s.counters.Ends != 1 || s.counters.Opened != 1 {
		t.Fatalf("%d records, %d ends, %d opened of one connection", len(*made), s.counters.Ends, s.counters.Opened)
	}
	if len(s.gone) != 0 {
		t.Errorf("%d connections are remembered without need", len(s.gone))
	}
}

// The kernel's notice of a destroyed socket has neither user nor cgroup; the list before had.
func TestOwnerStaysAtTheEnd(t *testing.T) {
	s, sp, made := books(t, 10)
	look(s, sp, socket(1))
	destroyed := *socket(1)
	destroyed.state, destroyed.uid, destroyed.cgroup = event.StateClose, 0, 0
	s.ended(&notice{netns: 7, diag: destroyed})
	if len(*made) != 1 || (*made)[0].UID != 1000 || (*made)[0].CgroupID != 4711 {
		t.Fatalf("records %+v, want one of user 1000 in cgroup 4711", *made)
	}
}

func TestFullCountsAConnectionOnce(t *testing.T) {
	s, sp, _ := books(t, 1)
	full := func() uint64 { c, _ := s.Counters(); return c.MapFull }
	for range 3 {
		look(s, sp, socket(1), socket(2), socket(3))
	}
	if n := full(); n != 2 {
		t.Errorf("map_full %d after three lists with two connections too many, want 2", n)
	}
	look(s, sp, socket(1), socket(2))
	look(s, sp, socket(1), socket(2), socket(4))
	if n := full(); n != 3 {
		t.Errorf("map_full %d after one more, want 3", n)
	}
}

// Long intervals end at the same moments for all, and are at most a second longer than asked for.
func TestConnectionsAreDueTogether(t *testing.T) {
	const s = uint64(time.Second)
	for _, c := range []struct{ now, every, want uint64 }{
		{100 * s, 10 * s, 110 * s},
		{100*s + 7, 10 * s, 110*s + 7},
		{91 * s, 30 * s, 120 * s},
		{119*s - 1, 30 * s, 120 * s},
		{119 * s, 30 * s, 150 * s},
		{120 * s, 30 * s, 150 * s},
	} {
		if got := dueAfter(c.now, c.every); got != c.want {
			t.Errorf("at %d every %d: %d, want %d", c.now, c.every, got, c.want)
		}
	}
}
