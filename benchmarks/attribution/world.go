package main

import (
	"fmt"
	"math/rand/v2"
)

// kind of address that an instance has.
type kind uint8

const (
	plain     kind = iota // routed, its own
	sharing               // a block of ports of its host's address: shared addresses and translated sockets
	bridged               // of Docker's default range, on its host's own bridge
	gatewayed             // a host's, which stands for the containers on its bridge too
	behind                // such an address, of a container behind it
	numKinds
)

func (k kind) String() string {
	return [numKinds]string{"routed", "shared port block", "docker bridge", "gateway, itself", "behind a gateway"}[k]
}

// address is what an instance holds for a while: an address in a network, or a block of its ports.
type address struct {
	kind     kind
	network  string
	addr     [16]byte
	from, to uint16 // ports, 0 for all
	host     *host  // where it stays; nil for those that move
	freed    int64
	holder   *instance // who has it now, or had it last
}

// instance is the truth about one instance of a workload.
type instance struct {
	id          int32
	service     *service
	name        string
	host        *host
	address     *address
	before      *instance // who had the address before
	born, died  int64     // when the address became and ceased to be its; died is far away while it lives
	lost        bool      // the address went to somebody else while the host was frozen, and the host does not know yet
	claimed     int64     // from when its host claims it, true time; 0 if it does not
	idle        bool
	hostIndex   int // in host.instances
	memberIndex int // in service.members
}

const forever = int64(1) << 60

func (i *instance) alive(at int64) bool { return i.born <= at && at < i.died }

// service is one workload of a region.
type service struct {
	name    string
	region  *region
	members []*instance
	uses    []*service
	dead    []*instance // the last ones that died
}

// region is one region: its hosts, workloads and collector.
type region struct {
	sim      *sim
	number   int
	name     string
	cut      bool // from other regions
	forger   *host
	hosts    []*host
	services []*service
	free     []*address
	lastAddr uint32
	fresh    []*instance // born lately
	gone     []*instance // died lately
	nodes    []*node
	topic    topic
	store    *store
	// byExporter finds the host of a run of an exporter.
	byExporter map[string]*host
}

// sim is one run.
type sim struct {
	cfg       config
	time      timeline
	rng       *rand.Rand
	regions   []*region
	instances []*instance
	flows     []truth // by flow_id
	score     *score
	rivals    *rivals
	ending    bool
}

func ipv4(a uint32) (out [16]byte) {
	out[10], out[11] = 0xff, 0xff
	out[12], out[13], out[14], out[15] = byte(a>>24), byte(a>>16), byte(a>>8), byte(a)
	return out
}

// between gives a random duration in [a, b).
func (s *sim) between(a, b int64) int64 {
	if b <= a {
		return a
	}
	return a + s.rng.Int64N(b-a)
}

func (s *sim) chance(p float64) bool { return s.rng.Float64() < p }

func newSim(cfg config, seed uint64) *sim {
	s := &sim{cfg: cfg, rng: rand.New(rand.NewPCG(seed, 0x7472696275746172)), flows: make([]truth, 1)} // no flow has the number 0
	s.score, s.rivals = newScore(), newRivals(s)
	for r := range cfg.regions {
		s.regions = append(s.regions, s.newRegion(r))
	}
	return s
}

func (s *sim) newRegion(n int) *region {
	r := &region{store: newStore(), sim: s, byExporter: map[string]*host{}, number: n, name: regionName(n), lastAddr: 10<<24 | uint32(n+1)<<20}
	for range s.cfg.nodes {
		r.nodes = append(r.nodes, newNode(r))
	}
	for i := range s.cfg.workloads / s.cfg.regions {
		r.services = append(r.services, &service{name: fmt.Sprintf("r%d/service-%03d", n, i), region: r})
	}
	for _, v := range r.services {
		for range 6 {
			v.uses = append(v.uses, r.services[s.rng.IntN(len(r.services))])
		}
	}
	for i := range s.cfg.hosts / s.cfg.regions {
		r.hosts = append(r.hosts, s.newHost(r, i))
	}
	for i := 0; i < len(r.hosts); i += gatewayShare {
		r.hosts[i].newGateway(i)
	}
	if s.cfg.faults.forge {
		r.forger = r.newForger()
	}
	for i := range s.cfg.instances / s.cfg.regions {
		r.start(r.services[i%len(r.services)])
	}
	return r
}

// start puts a new instance of a service on some host, with an address that is free.
func (r *region) start(v *service) *instance {
	s := r.sim
	h := r.hosts[s.rng.IntN(len(r.hosts))]
	for h.frozen {
		h = r.hosts[s.rng.IntN(len(r.hosts))]
	}
	i := r.instanceOf(v, h, r.allocate(h))
	i.idle = s.chance(0.1)
	r.fresh = remember(r.fresh, i)
	s.rivals.begins(i)
	h.appeared(i)
	return i
}

// instanceOf makes an instance that has the address from now on.
func (r *region) instanceOf(v *service, h *host, a *address) *instance {
	s := r.sim
	i := &instance{id: int32(len(s.instances)), service: v, host: h, address: a, before: a.holder, born: s.time.now, died: forever}
	i.name = fmt.Sprintf("%s-%d", v.name[len(v.name)-3:], i.id)
	a.holder = i
	s.instances = append(s.instances, i)
	i.memberIndex = len(v.members)
	v.members = append(v.members, i)
	i.hostIndex = len(h.instances)
	h.instances = append(h.instances, i)
	return i
}

// remember keeps the last few.
func remember(list []*instance, i *instance) []*instance {
	const most = 256
	if len(list) >= 2*most {
		list = append(list[:0], list[most:]...)
	}
	return append(list, i)
}

// allocate takes an address that became free a second to a minute ago, or a new one.
func (r *region) allocate(h *host) *address {
	s := r.sim
	list := &r.free
	k := plain
	switch x := s.rng.Float64(); {
	case x < 0.05:
		k, list = sharing, &h.freeBlocks
	case x < 0.10:
		k, list = bridged, &h.freeBridged
	}
	pause := sec
	if s.cfg.faults.crowd {
		pause = 0
	}
	for range min(8, len(*list)) {
		n := s.rng.IntN(len(*list))
		a := (*list)[n]
		if age := s.time.now - a.freed; age >= pause && age <= 60*sec {
			(*list)[n] = (*list)[len(*list)-1]
			*list = (*list)[:len(*list)-1]
			return a
		}
	}
	switch k {
	case sharing:
		h.blocks++
		from := uint16(20000 + 100*h.blocks)
		return &address{kind: k, network: "default", addr: h.addr, from: from, to: from + 99, host: h}
	case bridged:
		h.bridgeAddrs++
		return &address{kind: k, network: h.name + "/docker0", addr: ipv4(172<<24 | 17<<16 | uint32(h.bridgeAddrs+1)), host: h}
	}
	r.lastAddr++
	return &address{kind: k, network: "default", addr: ipv4(r.lastAddr)}
}

// stop ends an instance. Its address is free for others.
func (r *region) stop(i *instance) {
	i.died = r.sim.time.now
	i.service.remove(i)
	r.gone = remember(r.gone, i)
	r.release(i)
	i.host.vanished(i)
}

// release gives the address back.
func (r *region) release(i *instance) {
	a := i.address
	a.freed = r.sim.time.now
	switch a.kind {
	case sharing:
		a.host.freeBlocks = append(a.host.freeBlocks, a)
	case bridged:
		a.host.freeBridged = append(a.host.freeBridged, a)
	default:
		r.free = append(r.free, a)
	}
}

func (v *service) remove(i *instance) {
	last := v.members[len(v.members)-1]
	v.members[i.memberIndex], last.memberIndex = last, i.memberIndex
	v.members = v.members[:len(v.members)-1]
	v.dead = remember(v.dead, i)
}

// deploy replaces half of a service over some seconds.
func (r *region) deploy() {
	s := r.sim
	v := r.services[s.rng.IntN(len(r.services))]
	for _, n := range s.rng.Perm(len(v.members))[:len(v.members)/2] {
		old := v.members[n]
		s.time.after(s.between(0, 6*sec), func() {
			if old.died != forever || old.host.frozen || old.lost {
				return
			}
			r.stop(old)
			s.time.after(s.between(0, 500*ms), func() { r.start(v) })
		})
	}
}
