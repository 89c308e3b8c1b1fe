package probe

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/exporter/event"
	"tributary/exporter/ring"
	"tributary/service/testenv"
)

// BenchmarkConnection opens and closes loopback connections of 1 KiB on one thread,
// untraced and traced; programs-ns/op is the own time of all kernel programs that a
// connection runs, their measurement (30 ns a run, two runs for each of ten transitions) included.
func BenchmarkConnection(b *testing.B) {
	testenv.NeedRoot(b)
	b.Run("untraced", func(b *testing.B) { connections(b) })
	b.Run("traced", func(b *testing.B) { traced(b, false) })
	b.Run("traced-measured", func(b *testing.B) { traced(b, true) })
}

func traced(b *testing.B, measure bool) {
	p := New(Options{})
	if err := p.Start(); err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	if measure {
		stats, err := EnableStats()
		if err != nil {
			b.Fatal(err)
		}
		defer stats.Close()
	}
	fd, size, _ := p.Ring()
	r := ring.New(ring.Options{FD: fd, Size: size, Rest: p.Rest, Walk: p.Walk, RecordSize: event.RecordSize})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	tracker := event.NewTracker()
	go func() {
		var e event.Event
		done <- r.Run(ctx, func(raw []byte) error {
			err := event.Decode(raw, &e)
			tracker.Apply(&e)
			return err
		})
	}()
	connections(b)
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	c, err := p.Counters()
	if err != nil || c.RingFull != 0 || r.Stats().Read != c.Submitted {
		b.Errorf("lost records: %v, %+v, read %d", err, c, r.Stats().Read)
	}
	if !measure {
		return
	}
	_, spent, err := p.spent()
	if err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "programs-ns/op")
}

func connections(b *testing.B) {
	l, to := listener(b)
	defer unix.Close(l)
	small, large := make([]byte, 100), make([]byte, 1000)
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	b.ResetTimer()
	for range b.N {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		// the server closes first: its port is fixed, so the client's is free at once
		if err := unix.Connect(c, to); err != nil {
			b.Fatal(err)
		}
		s, _, err := unix.Accept(l)
		if err != nil {
			b.Fatal(err)
		}
		unix.Write(c, small)
		unix.Read(s, small)
		unix.Write(s, large)
		unix.Read(c, large)
		unix.Close(s)
		unix.Close(c)
	}
	b.StopTimer()
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	reportCPU(b, &before, &after)
}

// reportCPU is worth more than the wall clock on a machine that does other things too.
func reportCPU(b *testing.B, before, after *unix.Rusage) {
	cpu := after.Stime.Nano() + after.Utime.Nano() - before.Stime.Nano() - before.Utime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
}

func listener(b *testing.B) (int, unix.Sockaddr) {
	b.Helper()
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(l, 4096)); err != nil {
		b.Fatal(err)
	}
	to, err := unix.Getsockname(l)
	if err != nil {
		b.Fatal(err)
	}
	return l, to
}

// BenchmarkWalk passes over the table with few and many open sockets, none of them due.
func BenchmarkWalk(b *testing.B) {
	testenv.NeedRoot(b)
	for _, n := range []int{1, 5000} {
		b.Run(map[int]string{1: "1", 5000: "10000-ends"}[n], func(b *testing.B) { walkTable(b, n) })
	}
}

func walkTable(b *testing.B, n int) {
	p := New(Options{ActiveFirst: time.Hour})
	if err := p.Start(); err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	l, to := listener(b)
	defer unix.Close(l)
	fds := make([]int, 0, 2*n)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for range n {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Connect(c, to); err != nil {
			b.Fatal(err)
		}
		s, _, err := unix.Accept(l)
		if err != nil {
			b.Fatal(err)
		}
		fds = append(fds, c, s)
	}
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	b.ResetTimer()
	for range b.N {
		p.walks = walks{} // walk although nothing is due
		pass, err := p.Walk()
		if err != nil || pass == nil {
			b.Fatal(pass, err)
		}
		if _, err := io.Copy(io.Discard, pass); err != nil {
			b.Fatal(err)
		}
		pass.Close()
	}
	b.StopTimer()
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	reportCPU(b, &before, &after)
}
