package clocks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The network of QEMU's user mode: the host's loopback is gateway.
const (
	guestAddress = "10.0.2.15/24"
	hostAddress  = "10.0.2.2"
	loadPort     = 7000
	exporterLog  = "/tmp/exporter.log"
)

// TestMain is also the first process of the guest.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		if err := live(); err != nil {
			fmt.Println("guest:", err)
		}
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // the kernel ends the machine in any case when this process ends
		return
	}
	os.Exit(m.Run())
}

// live prepares the guest and does what the host asks for, until it hangs up.
func live() error {
	if err := prepare(); err != nil {
		return err
	}
	c, err := net.Dial("tcp", net.JoinHostPort(hostAddress, os.Getenv("control")))
	if err != nil {
		return err
	}
	g := &Guest{}
	server := rpc.NewServer()
	if err := server.Register(g); err != nil {
		return err
	}
	server.ServeConn(c)
	return nil
}

func prepare() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}, {"cgroup2", "/sys/fs/cgroup"}, {"tracefs", "/sys/kernel/tracing"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return err
	}
	modules, err := filepath.Glob("/modules/*.ko") // in the order of their numbers
	if err != nil {
		return err
	}
	for _, path := range modules {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", path, err)
		}
		_ = f.Close()
	}
	return connect()
}

func connect() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		if l.Type() != "device" || l.Attrs().Name == "lo" {
			continue
		}
		a, err := netlink.ParseAddr(guestAddress)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return nil
}

// Guest is what the host may ask for. Its methods are those of net/rpc.
type Guest struct {
	exporter *exec.Cmd
	ending   chan struct{}
	running  sync.WaitGroup
	mu       sync.Mutex
	made     []Made
}

// Moment is one look at both clocks, nanoseconds.
type Moment struct{ Boot, Wall int64 }

// Made is a connection: what its client sent, and when it was closed.
type Made struct {
	Bytes uint64
	Ended Moment
}

func now() Moment {
	var boot unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) // exists
	return Moment{boot.Nano(), time.Now().UnixNano()}
}

// Set sets the wall clock and says when.
func (g *Guest) Set(wall int64, at *Moment) error {
	to := unix.NsecToTimespec(wall)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &to); err != nil {
		return err
	}
	*at = now()
	return nil
}

// Step moves the wall clock.
func (g *Guest) Step(by time.Duration, at *Moment) error {
	return g.Set(time.Now().UnixNano()+int64(by), at)
}

// Start starts the exporter and waits until it captures.
func (g *Guest) Start(args []string, at *Moment) error {
	log, err := os.OpenFile(exporterLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	g.exporter = exec.Command("/tributary-exporter", args...)
	g.exporter.Stdout, g.exporter.Stderr = log, log
	if err := g.exporter.Start(); err != nil {
		return err
	}
	for range 600 {
		if r, err := http.Get("http://127.0.0.1:9748/readyz"); err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				*at = now()
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the exporter is not ready")
}

// End ends the exporter with a signal and says when it was sent.
func (g *Guest) End(signal int, at *Moment) error {
	*at = now()
	if err := g.exporter.Process.Signal(syscall.Signal(signal)); err != nil {
		return err
	}
	_ = g.exporter.Wait() // killed, or what it says itself
	return nil
}

// Load makes a connection each every.
func (g *Guest) Load(every time.Duration, _ *bool) error {
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv4Unspecified(), loadPort)))
	if err != nil {
		return err
	}
	g.ending = make(chan struct{})
	g.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, c) // until the client closes
			_ = c.Close()
		}
	})
	g.running.Go(func() {
		defer l.Close()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for i := uint64(1); ; i++ {
			select {
			case <-tick.C:
			case <-g.ending:
				return
			}
			c, err := net.Dial("tcp4", l.Addr().String())
			if err != nil {
				continue
			}
			_, _ = c.Write(make([]byte, i)) // that many tell it from all others
			_ = c.Close()
			g.mu.Lock()
			g.made = append(g.made, Made{i, now()})
			g.mu.Unlock()
		}
	})
	return nil
}

// Quiet ends the load and says what it made.
func (g *Guest) Quiet(_ bool, made *[]Made) error {
	close(g.ending)
	g.running.Wait()
	*made = g.made
	return nil
}

// Get asks what listens in the guest.
func (g *Guest) Get(url string, body *string) error {
	r, err := http.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	*body = string(text)
	return err
}

// Said is the log of all exporters.
func (g *Guest) Said(_ bool, text *string) error {
	b, err := os.ReadFile(exporterLog)
	*text = string(bytes.TrimSpace(b))
	return err
}
