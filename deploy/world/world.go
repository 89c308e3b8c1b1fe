package world

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is one machine of the world: a network namespace with one address of each family.
type Host struct {
	Name string // short: the namespace is trb<run>-<name>
	// Number is the last part of its addresses: 12 gives 10.77.<run>.12 and fd77:0:0:<run>::12. Unique, 1 to 250;
	// 0 or 1 for a host outside.
	Number byte
	// Outside puts it on public-looking addresses, out of any network the identity file speaks of.
	Outside bool
	// Workload, Instance and Release go into the identity file. A host without a workload is in no identity file.
	Workload, Instance, Release string
	// ByAddress makes the identity file name it by its addresses rather than by its network namespace.
	ByAddress bool
}

// Tenure says which host had an address when; To is zero while it has it.
type Tenure struct {
	Addr     netip.Addr
	Host     string
	From, To time.Time
}

// World is a set of hosts, their processes and the ledger. Make one with New, build it with Start.
type World struct {
	hosts []Host
	logs  io.Writer // what the workload processes say on their standard error

	// mu guards everything below: Close may come from a signal's goroutine while Start or Move is at work.
	mu        sync.Mutex
	run       *run
	janitor   *exec.Cmd
	lan       *namespace
	spaces    map[string]*namespace
	tenures   []Tenure
	processes []*Process
	closed    bool

	ledger ledger
}

// ErrClosed is returned by a world that is closed.
var ErrClosed = errors.New("the world is closed")

// New describes a world; nothing exists before Start. logs may be nil.
func New(hosts []Host, logs io.Writer) *World {
	if logs == nil {
		logs = io.Discard
	}
	return &World{hosts: slices.Clone(hosts), logs: logs, spaces: map[string]*namespace{}}
}

// Start takes a run number, removes what dead worlds left, and builds namespaces, bridge and addresses. On an error
// nothing stays behind.
func (w *World) Start() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	w.mu.Lock()
	err := w.build()
	w.mu.Unlock()
	if err != nil {
		return errors.Join(err, w.Close())
	}
	return nil
}

func (w *World) build() error {
	if w.closed {
		return ErrClosed
	}
	if w.run != nil {
		return errors.New("the world is already started")
	}
	r, err := acquireRun()
	if err != nil {
		return err
	}
	w.run = r
	if err := os.MkdirAll(r.dir(), 0o755); err != nil {
		return fmt.Errorf("world directory: %w", err)
	}
	if w.janitor, err = startJanitor(r.number); err != nil {
		return err
	}
	if w.lan, err = newNamespace(r.prefix() + "lan"); err != nil {
		return err
	}
	if err := newBridge(w.lan); err != nil {
		return err
	}
	for _, h := range w.hosts {
		if err := w.addHost(h); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) addHost(h Host) error {
	ns, err := newNamespace(w.run.prefix() + h.Name)
	if err != nil {
		return err
	}
	w.spaces[h.Name] = ns
	nets := networksOf(w.run.number)
	if err := connect(w.lan, ns, h.Name, nets); err != nil {
		return err
	}
	v4, v6 := nets.addressesOf(h)
	for _, a := range []netip.Addr{v4, v6} {
		if err := addAddress(ns, a); err != nil {
			return err
		}
		w.tenures = append(w.tenures, Tenure{Addr: a, Host: h.Name, From: time.Now()})
	}
	return nil
}

// Close ends every process and removes every namespace, whatever state the world is in. Safe early, late and twice.
func (w *World) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	for _, p := range w.processes {
		p.kill()
	}
	if w.run == nil {
		return nil
	}
	for _, ns := range w.spaces {
		ns.close()
	}
	if w.lan != nil {
		w.lan.close()
	}
	err := w.run.sweep()
	if w.janitor != nil {
		w.janitor.Process.Kill()
		_ = w.janitor.Wait() // killed, as asked
	}
	w.run.release()
	return err
}

// Run is the world's number.
func (w *World) Run() int { return w.run.number }

// Dir is a directory of the world's own, removed by Close.
func (w *World) Dir() string { return w.run.dir() }

// NamespacePath is where the network namespace of a host is mounted.
func (w *World) NamespacePath(host string) string {
	return filepath.Join(netnsDir, w.run.prefix()+host)
}

// In runs f on a thread inside the network namespace of a host.
func (w *World) In(host string, f func() error) error {
	handle, err := netns.GetFromPath(w.NamespacePath(host))
	if err != nil {
		return fmt.Errorf("network namespace of %s: %w", host, err)
	}
	defer handle.Close()
	return (&namespace{name: host, handle: handle}).in(f)
}

// space is the namespace of a host, for callers that hold the lock.
func (w *World) space(host string) (*namespace, error) {
	if w.closed {
		return nil, ErrClosed
	}
	ns := w.spaces[host]
	if ns == nil {
		return nil, fmt.Errorf("no host %q in this world", host)
	}
	return ns, nil
}

func (w *World) host(name string) (Host, bool) {
	for _, h := range w.hosts {
		if h.Name == name {
			return h, true
		}
	}
	return Host{}, false
}

// IPv4 and IPv6 are the addresses a host was born with. They panic for a host that the world does not have, as an
// index out of range does.
func (w *World) IPv4(host string) netip.Addr { v4, _ := w.addresses(host); return v4 }

// IPv6 is the other family of IPv4.
func (w *World) IPv6(host string) netip.Addr { _, v6 := w.addresses(host); return v6 }

func (w *World) addresses(host string) (v4, v6 netip.Addr) {
	h, ok := w.host(host)
	if !ok {
		panic("no host " + host + " in this world")
	}
	return networksOf(w.run.number).addressesOf(h)
}

// FloatingAddress is an address of the inside that belongs to no host until Assign gives it to one.
func (w *World) FloatingAddress(number byte) netip.Addr {
	v4, _ := networksOf(w.run.number).addressesOf(Host{Number: number})
	return v4
}

// Assign gives an address that nobody has to a host.
func (w *World) Assign(a netip.Addr, to string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.assign(a, to)
}

func (w *World) assign(a netip.Addr, to string) error {
	ns, err := w.space(to)
	if err != nil {
		return err
	}
	if err := addAddress(ns, a); err != nil {
		return err
	}
	w.tenures = append(w.tenures, Tenure{Addr: a, Host: to, From: time.Now()})
	return nil
}

// Move takes an address from one host and gives it to another, as a restarted pod's address goes to the next pod; every
// neighbour forgets where it was. Connections to the old owner are cut off in the middle.
func (w *World) Move(a netip.Addr, from, to string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	old, err := w.space(from)
	if err != nil {
		return err
	}
	if err := delAddress(old, a); err != nil {
		return err
	}
	w.endTenure(a, from)
	if err := w.assign(a, to); err != nil {
		return err
	}
	for _, ns := range w.spaces {
		if err := forget(ns, a); err != nil {
			return err
		}
	}
	return nil
}

func (w *World) endTenure(a netip.Addr, host string) {
	for i := range w.tenures {
		t := &w.tenures[i]
		if t.Addr == a && t.Host == host && t.To.IsZero() {
			t.To = time.Now()
		}
	}
}

// Tenures is who had which address when: the truth about ownership.
func (w *World) Tenures() []Tenure {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Tenure(nil), w.tenures...)
}

// DropPort makes a host drop what arrives for a TCP port, silently. Once a host.
func (w *World) DropPort(host string, port uint16) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	ns, err := w.space(host)
	if err != nil {
		return err
	}
	return dropPort(ns, port)
}

// Firewall puts rules of nftables into a host, in place of those that it put there before: on what comes in, and on what goes out.
func (w *World) Firewall(host, in, out string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	ns, err := w.space(host)
	if err != nil {
		return err
	}
	return nft(ns, fmt.Sprintf(`table inet broken {}
delete table inet broken
table inet broken {
	chain input {
		type filter hook input priority 0;
		%s
	}
	chain output {
		type filter hook output priority 0;
		%s
	}
}
`, in, out))
}

// Retire takes a host out of the identity file, when that is next written: it goes on to run, and is nobody's.
func (w *World) Retire(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.hosts {
		if w.hosts[i].Name == host {
			w.hosts[i].Workload = ""
		}
	}
}

// startJanitor starts the process that cleans up after an owner that died without Close: it waits for the end of its
// standard input, then for the lock.
func startJanitor(number int) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("own executable: %w", err)
	}
	cmd := exec.Command(exe, janitorArg, fmt.Sprint(number))
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("janitor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start janitor: %w", err)
	}
	return cmd, nil
}
