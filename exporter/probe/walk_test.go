package probe

import (
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/bpf"
	"tributary/exporter/clock"
)

func TestOldEnough(t *testing.T) {
	const second = 1 << 30
	now := uint64(1000*second + second/2)
	count := func(ago int, n int64) bpf.CaptureYoungCounts {
		var c bpf.CaptureYoungCounts
		c.N[(1000-ago)%len(c.N)] = n
		return c
	}
	for name, test := range map[string]struct {
		perCPU []bpf.CaptureYoungCounts
		age    uint64
		want   bool
	}{
		"none":                         {nil, 3 * second, false},
		"opened now":                   {[]bpf.CaptureYoungCounts{count(0, 1)}, 3 * second, false},
		"too young":                    {[]bpf.CaptureYoungCounts{count(2, 1)}, 3 * second, false},
		"perhaps old enough":           {[]bpf.CaptureYoungCounts{count(3, 1)}, 3 * second, true},
		"older":                        {[]bpf.CaptureYoungCounts{count(60, 1)}, 3 * second, true},
		"opened here and closed there": {[]bpf.CaptureYoungCounts{count(5, 7), count(5, -7)}, 3 * second, false},
		"one of them is open":          {[]bpf.CaptureYoungCounts{count(5, 7), count(5, -6)}, 3 * second, true},
		"no age at all":                {[]bpf.CaptureYoungCounts{count(0, 1)}, 1, true},
		"an age beyond the counts":     {[]bpf.CaptureYoungCounts{count(63, 1)}, 3600 * second, true},
		"an age beyond the clock":      {[]bpf.CaptureYoungCounts{count(10, 1)}, 2000 * second, false},
	} {
		if got := oldEnough(test.perCPU, now, test.age); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestWalksWhatMayBeDue: a walk costs the same however little it finds, so connections that come and go must cause none.
func TestWalksWhatMayBeDue(t *testing.T) {
	s := newSpace(t)
	p := start(t, Options{NetnsInum: s.inum, ActiveFirst: 1, SynFirst: 1, ActiveEvery: time.Hour})
	l := s.listen("127.0.0.1:0")
	for walked(t, p) {
	}
	settle := func() {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			if c, err := p.Counters(); err != nil {
				t.Fatal(err)
			} else if c.Opened == c.Removed {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("the connections do not end")
			}
		}
	}
	for range 50 {
		client, server := s.pair(l)
		exchange(t, client, server, 10, 20, client, server)
	}
	settle()
	if walked(t, p) {
		t.Error("a walk for connections that have all ended")
	}
	client, server := s.pair(l)
	if !walked(t, p) {
		t.Error("no walk for a connection that is due")
	}
	if walked(t, p) {
		t.Error("another walk, though nothing is due for an hour")
	}
	exchange(t, client, server, 10, 20, client, server)
	settle()
	var young int64
	var perCPU []bpf.CaptureYoungCounts
	if err := p.objects.YoungSockets.Lookup(uint32(0), &perCPU); err != nil {
		t.Fatal(err)
	}
	for _, c := range perCPU {
		for _, n := range c.N {
			young += n
		}
	}
	if young != 0 {
		t.Errorf("%d connections count as young, and none is open", young)
	}
}

// TestCommonMoments: connections that were recorded at different times are due together, at a multiple of the interval, so that one walk finds
// them. A short interval is kept as it is.
func TestCommonMoments(t *testing.T) {
	for every, together := range map[time.Duration]bool{time.Hour: true, 10 * time.Second: false} {
		s := newSpace(t)
		p := start(t, Options{NetnsInum: s.inum, ActiveFirst: 1, SynFirst: 1, ActiveEvery: every})
		l := s.listen("127.0.0.1:0")
		for walked(t, p) {
		}
		for range 3 {
			s.pair(l)
			if !walked(t, p) {
				t.Fatal("no walk for a connection that is due")
			}
		}
		now, dues := clock.Boot(), map[uint64]int{}
		var slot uint32
		var open bpf.CaptureOpenSocket
		entries := p.objects.OpenSlots.Iterate()
		for entries.Next(&slot, &open) {
			if open.Sock == 0 {
				continue
			}
			dues[open.DueNs]++
			if open.DueNs <= now || open.DueNs > now+uint64(every+time.Second) {
				t.Errorf("every %v: due in %v", every, time.Duration(open.DueNs-now))
			}
			if together != (open.DueNs%uint64(every) == 0) {
				t.Errorf("every %v: due at %v", every, time.Duration(open.DueNs))
			}
		}
		if err := entries.Err(); err != nil {
			t.Fatal(err)
		}
		if together != (len(dues) == 1) || len(dues) == 0 {
			t.Errorf("every %v: ends are due at %d moments", every, len(dues))
		}
	}
}

func walked(t *testing.T, p *Probe) bool {
	t.Helper()
	pass, err := p.Walk()
	if err != nil {
		t.Fatal(err)
	}
	if pass == nil {
		return false
	}
	for b := make([]byte, 32<<10); ; {
		if _, err := pass.Read(b); errors.Is(err, io.EOF) {
			break
		} else if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	if err := pass.Close(); err != nil {
		t.Fatal(err)
	}
	return true
}
