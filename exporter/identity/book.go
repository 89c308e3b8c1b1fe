package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/proto/flow"
	"tributary/service/log"
)

// Options are what a Book is told. The zero value names programs by nothing and claims nothing.
type Options struct {
	Host    string // host name: part of derived instances and of networks that end at this host
	File    string // identity file, "" none
	Network string // the configured address space; "" is "default"

	// The static workload owns what no other evidence names; Workload "" means there is none. Zone, Region and Release
	// are also the host's, where the file does not say them.
	Workload string
	Instance string
	Zone     string
	Region   string
	Release  string

	OwnNetns  bool // watch the exporter's own network namespace only
	HostNames bool // name what nothing else names by systemd unit or program

	Containers Containers // nil: nobody knows of any

	// Shared returns which of a network namespace's own addresses stand for connections of others too, because this host translates theirs; nil: none does.
	// whole are those of them that are not known to be. It is called with each watermark, of each namespace with such an address, and may take its time.
	Shared func(netns uint32, own, whole []netip.Addr) []netip.Addr
}

// Book keeps names and claims. Its methods are safe for concurrent use; Run once.
type Book struct {
	opts    Options
	host    string
	log     *slog.Logger
	table   atomic.Pointer[table]
	spaces  atomic.Pointer[networks]
	here    atomic.Pointer[map[[16]byte]struct{}] // addresses of the watched namespaces
	names   *hostNames
	local   *localNames
	metrics *bookMetrics
	clock   func() moment
	rcvbuf  int // of the notification socket; tests make it small

	mu       sync.Mutex
	file     *file
	stamp    stamp // of the file that is in force or was refused
	owners   []entryOwners
	history  history
	gone     map[key]bool // keys whose object vanished
	presence presence
	sharing  sharing
	claims   map[claimKey]Claim
	readers  map[*reader]struct{}
	verified int64  // wall clock; 0: nothing is verified yet
	last     moment // of the last look at the notifications
}

// moment is one reading of two clocks, ns: wall since 1970, boot since the machine started.
type moment struct{ wall, boot int64 }

// New reads the identity file and makes the first table. Nothing runs yet: names are right, claims come with Run.
func New(opts Options, registerer prometheus.Registerer, logger *slog.Logger) (*Book, error) {
	if opts.Network == "" {
		opts.Network = "default"
	}
	if opts.Workload != "" {
		if err := CheckWorkload(opts.Workload); err != nil {
			return nil, fmt.Errorf("static identity: %w", err)
		}
	}
	b := &Book{
		opts: opts, host: opts.Host, clock: now, rcvbuf: receiveBuffer,
		log:     log.Limited(logger.With(log.Component, "identity"), 10*time.Second),
		history: history{keys: map[key][]span{}}, gone: map[key]bool{},
		claims: map[claimKey]Claim{}, readers: map[*reader]struct{}{}, file: &file{},
	}
	var err error
	if b.names, err = newHostNames(opts.Host); err != nil {
		return nil, err
	}
	if b.local, err = newLocalNames(opts.Host); err != nil {
		return nil, err
	}
	b.presence = newPresence()
	b.sharing.seen = map[sharedKey]int64{}
	b.metrics = newBookMetrics(b)
	if opts.File != "" {
		f, at, err := load(opts.File)
		if err != nil {
			return nil, err
		}
		b.file, b.stamp = f, at
	}
	b.owners = b.resolveOwners(b.file)
	b.rebuildNetworks()
	b.findNamespaces()
	b.rebind(b.clock().wall)
	if err := registerer.Register(b.metrics); err != nil {
		return nil, fmt.Errorf("register the metrics of identity: %w", err)
	}
	return b, nil
}

// Local names the local end of a connection; why is flow.WhyNamed or the reason it has no name.
func (b *Book) Local(s Socket) (Owner, uint32) {
	t := b.table.Load()
	owner, gap := t.find(&s)
	switch {
	case owner != nil:
		b.metrics.lookups[owner.Evidence].Add(1)
		return *owner, flow.WhyNamed
	case gap:
		b.metrics.lookups[flow.EvidenceNone].Add(1)
		return t.host, flow.WhyGap
	case t.byHost:
		if named := b.names.find(&s); named.Workload != "" {
			b.metrics.lookups[named.Evidence].Add(1)
			named.Zone, named.Region, named.Release = t.host.Zone, t.host.Region, t.host.Release
			return named, flow.WhyNamed
		}
	}
	b.metrics.lookups[flow.EvidenceNone].Add(1)
	return t.host, flow.WhyNoEvidence
}

// entryOwners are the names that one entry of the file gives, by the evidence of each of its selectors.
type entryOwners struct {
	entry                     *entry
	cgroup, netns, port, addr *Owner
}

func (b *Book) resolveOwners(f *file) []entryOwners {
	out := make([]entryOwners, len(f.Workloads))
	for i := range f.Workloads {
		e := &f.Workloads[i]
		o := Owner{
			Workload: e.Workload, Instance: e.Instance,
			Zone:    first(e.Zone, f.Zone, b.opts.Zone),
			Region:  first(e.Region, f.Region, b.opts.Region),
			Release: first(e.Release, f.Release, b.opts.Release),
		}
		if o.Instance == "" {
			o.Instance, o.Derived = e.Workload+"@"+b.host, true
		}
		with := func(evidence uint32) *Owner { c := o; c.Evidence = evidence; return &c }
		out[i] = entryOwners{e, with(flow.EvidenceCgroup), with(flow.EvidenceNetns), with(flow.EvidencePort), with(flow.EvidenceAddress)}
	}
	return out
}

// static is the owner of the rest, nil if there is none.
func (b *Book) static() *Owner {
	if b.opts.Workload == "" {
		return nil
	}
	o := &Owner{
		Workload: b.opts.Workload, Instance: b.opts.Instance, Evidence: flow.EvidenceStatic,
		Zone: first(b.file.Zone, b.opts.Zone), Region: first(b.file.Region, b.opts.Region), Release: first(b.opts.Release, b.file.Release),
	}
	if o.Instance == "" {
		o.Instance, o.Derived = o.Workload+"@"+b.host, true
	}
	return o
}

// rebind makes the table that file, namespaces and cgroups say now, and publishes it.
func (b *Book) rebind(at int64) {
	want := map[key]*Owner{}
	b.bindContainers(want)
	for i := range b.owners {
		b.bind(&b.owners[i], want)
	}
	changed := b.history.update(want, at, func(k key) bool { return b.gone[k] })
	for k := range want {
		delete(b.gone, k)
	}
	if len(b.gone) > maxPast {
		clear(b.gone) // costs a gap for numbers that are used again, never a wrong name
	}
	static := b.static()
	old := b.table.Load()
	if old != nil && !changed && same(static, old.static) && old.host == b.hostOwner() {
		return
	}
	t := b.history.table()
	t.static, t.host, t.byHost = static, b.hostOwner(), b.opts.HostNames
	b.table.Store(t)
}

// bind adds the keys of one entry.
func (b *Book) bind(o *entryOwners, want map[key]*Owner) {
	if o.entry.Netns != "" {
		if inum, ok := b.presence.paths[o.entry.Netns]; ok {
			want[key{kind: byNetns, id: uint64(inum)}] = o.netns
		}
	}
	for _, a := range o.entry.Addresses {
		owner := o.addr
		if !o.entry.Ports.All() {
			owner = o.port
		}
		want[key{kind: byAddr, addr: a.As16(), ports: o.entry.Ports}] = owner
	}
}

func (b *Book) hostOwner() Owner {
	return Owner{Zone: first(b.file.Zone, b.opts.Zone), Region: first(b.file.Region, b.opts.Region)}
}

// reload reads the identity file if it is not the one that was read last. A file that cannot be used leaves the old one in
// force; it is logged once and counted. It returns whether another one is in force.
func (b *Book) reload() bool {
	b.mu.Lock()
	last := b.stamp
	b.mu.Unlock()
	if at, _ := stampOf(b.opts.File); at == last {
		return false
	}
	f, at, err := load(b.opts.File) // may wait: nothing is locked
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.stamp = at
		b.metrics.reloads[reloadInvalid].Add(1)
		b.log.Error("the identity file cannot be used, the old one stays in force", "error", err)
		return false
	}
	b.look(false)
	// The new owners own from the moment the file was changed, as far as the file system tells: its clock is the kernel's tick.
	released := b.clock().wall
	owned := released
	if at.changed > b.stamp.changed && at.changed < released {
		released = at.changed
		owned = min(owned, at.changed+int64(tick))
	}
	b.file, b.stamp = f, at
	b.owners = b.resolveOwners(f)
	b.rebuildNetworks()
	b.findCgroups()
	b.findPaths()
	b.rebind(owned)
	b.refresh(released)
	b.look(true) // the file may speak of namespaces that were not watched
	b.metrics.reloads[reloadOK].Add(1)
	b.log.Info("identity file read", "file", b.opts.File, "workloads", len(f.Workloads), "networks", len(f.Networks))
	return true
}

// Run watches the file, the namespaces and their addresses until ctx ends.
func (b *Book) Run(ctx context.Context) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	files := make(chan error, 1)
	go func() { files <- b.watchFiles(watching) }()
	err := b.watchAddresses(watching)
	stop()
	return errors.Join(err, <-files)
}

// first returns the first value that says anything.
func first[T comparable](values ...T) T {
	var nothing T
	for _, v := range values {
		if v != nothing {
			return v
		}
	}
	return nothing
}

func same(a, b *Owner) bool { return a == b || a != nil && b != nil && *a == *b }
