package nat

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// BenchmarkWatched says what a tracked connection costs more while connections are watched: processor time of both ends and of the kernel's work for them, in turns of a
// thousand with and without; and what a new entry of connection tracking does alone, by datagrams to ever other addresses. One operation is a turn of each kind.
func BenchmarkWatched(b *testing.B) {
	g := newGateway(b)
	g.gate.run(masquerade, "nft", "-f", "-")
	l := g.gate.listen("127.0.0.1:8080")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	var datagrams net.PacketConn
	g.gate.do(func() (err error) { datagrams, err = net.ListenPacket("udp4", "127.0.0.1:0"); return err })
	defer datagrams.Close()
	for name, once := range map[string]func(i int) error{
		"connection": func(int) error {
			c, err := net.Dial("tcp", "127.0.0.1:8080")
			if errors.Is(err, unix.ECONNRESET) {
				return nil // it was quicker
			}
			if err != nil {
				return err
			}
			_, _ = c.Read(make([]byte, 1)) // until the other end has reset it
			return c.Close()
		},
		"entry": func(i int) error {
			_, err := datagrams.WriteTo([]byte{0}, &net.UDPAddr{IP: net.IPv4(127, 1, byte(i>>8), byte(i)), Port: datagrams.LocalAddr().(*net.UDPAddr).Port})
			if errors.Is(err, unix.ECONNREFUSED) {
				return nil
			}
			return err
		},
	} {
		b.Run(name, func(b *testing.B) { g.compare(b, once) })
	}
}

func (g *gateway) compare(b *testing.B, once func(i int) error) {
	const turn = 1000
	run := func() (took time.Duration) {
		g.gate.do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
		g.gate.do(func() (err error) {
			before := processTime()
			for i := 0; i < turn && err == nil; i++ {
				err = once(i)
			}
			took = processTime() - before
			return err
		})
		return took
	}
	run()
	var with, without, more []float64
	for b.Loop() {
		plain := run()
		var w *watch
		g.gate.do(func() (err error) { w, err = watchConnections(g.own, watchBuffer); return err })
		watched := run()
		w.close()
		with, without = append(with, watched.Seconds()*1e6/turn), append(without, plain.Seconds()*1e6/turn)
		more = append(more, (watched-plain).Seconds()*1e6/turn)
	}
	for name, of := range map[string][]float64{"us/watched": with, "us/plain": without, "us/more": more} {
		slices.Sort(of)
		b.ReportMetric(of[len(of)/2], name)
	}
}

func processTime() time.Duration {
	var at unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &at)
	return time.Duration(at.Nano())
}

// BenchmarkAmong says what a watermark costs for a namespace where nothing is tracked, for one with tracked connections whose rules translate nothing, and for one
// that is watched.
func BenchmarkAmong(b *testing.B) {
	for _, c := range []struct {
		name, rules string
	}{{"nothing-tracked", ""}, {"no-nat", "table ip c { }\n"}, {"watched", masquerade}, {"20000-chains", chains(20_000)}} {
		g := newGateway(b)
		if c.rules != "" {
			g.track()
			g.gate.run(c.rules, "nft", "-f", "-")
		}
		g.among()
		b.Run(c.name, func(b *testing.B) {
			g.outside.do(func() error {
				before := processTime()
				for b.Loop() {
					g.sharing.Among(g.gate.inum, g.own, g.own)
				}
				b.ReportMetric((processTime()-before).Seconds()*1e6/float64(b.N), "cpu-us/op")
				return nil
			})
		})
	}
}

func chains(n int) string {
	out := []byte("table ip c {\n")
	for i := range n {
		out = append(strconv.AppendInt(append(out, "chain c"...), int64(i), 10), " { }\n"...)
	}
	return string(append(out, '}', '\n'))
}
