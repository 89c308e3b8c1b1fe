package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link is a proxy for TCP between two programs, which can fail as a network does.
type link struct {
	name     string
	listener net.Listener
	targets  []string // a connection goes to the next of them that answers
	next     atomic.Uint32
	cuts     atomic.Uint64 // connections cut after a request and before its answer

	mu     sync.Mutex
	refuse bool
	delay  time.Duration
	blind  chan struct{} // open while nothing comes back; nil: everything does
	pairs  map[*pair]bool
	all    sync.WaitGroup
}

// pair is one connection through the link.
type pair struct {
	client, server net.Conn
	swallows       atomic.Bool
	asked, lost    atomic.Int64 // bytes up, and bytes of answers thrown away, since swallowing began
}

// request is how many bytes make it sure that something was asked: more than keep-alives and window updates are.
const request = 512

func newLink(name, listen string, targets ...string) (*link, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	k := &link{name: name, listener: l, targets: targets, pairs: map[*pair]bool{}}
	k.all.Go(k.accept)
	return k, nil
}

func (k *link) address() string { return k.listener.Addr().String() }

func (k *link) close() {
	k.listener.Close()
	k.heal()
	k.mu.Lock()
	k.refuse = true
	k.mu.Unlock()
	k.drop()
	k.all.Wait()
}

func (k *link) accept() {
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.all.Go(func() { k.carry(c) })
	}
}

// carry dials and copies both ways until either end closes.
func (k *link) carry(client net.Conn) {
	defer client.Close()
	server := k.dial()
	if server == nil {
		return
	}
	defer server.Close()
	p := &pair{client: client, server: server}
	k.mu.Lock()
	if k.refuse {
		k.mu.Unlock()
		return
	}
	k.pairs[p] = true
	k.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { k.up(p) })
	both.Go(func() { k.down(p) })
	both.Wait()
	k.mu.Lock()
	delete(k.pairs, p)
	k.mu.Unlock()
}

func (k *link) dial() net.Conn {
	first := int(k.next.Add(1))
	for i := range k.targets {
		if c, err := net.DialTimeout("tcp", k.targets[(first+i)%len(k.targets)], 2*time.Second); err == nil {
			return c
		}
	}
	return nil
}

func (p *pair) cut() {
	p.client.Close()
	p.server.Close()
}

func (k *link) up(p *pair) {
	defer p.cut()
	for b := make([]byte, 64<<10); ; {
		n, err := p.client.Read(b)
		if err != nil {
			return
		}
		time.Sleep(k.late())
		if _, err := p.server.Write(b[:n]); err != nil {
			return
		}
		p.asked.Add(int64(n))
	}
}

func (k *link) down(p *pair) {
	defer p.cut()
	for b := make([]byte, 64<<10); ; {
		n, err := p.server.Read(b)
		if err != nil {
			return
		}
		if p.swallows.Load() {
			p.lost.Add(int64(n))
			continue
		}
		time.Sleep(k.late())
		if blind := k.blindness(); blind != nil {
			<-blind
		}
		if _, err := p.client.Write(b[:n]); err != nil {
			return
		}
	}
}

func (k *link) late() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.delay
}

func (k *link) blindness() chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.blind
}

// swallow throws the answers of all present connections away from now on, and cuts these after a while.
func (k *link) swallow(lasts time.Duration) {
	pairs := k.present()
	for _, p := range pairs {
		p.asked.Store(0)
		p.swallows.Store(true)
	}
	time.Sleep(lasts)
	for _, p := range pairs {
		p.cut()
		if p.asked.Load() >= request && p.lost.Load() > 0 {
			k.cuts.Add(1)
		}
	}
}

func (k *link) present() (out []*pair) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := range k.pairs {
		out = append(out, p)
	}
	return out
}

// drop closes what is there.
func (k *link) drop() {
	for _, p := range k.present() {
		p.cut()
	}
}

// fail does one of the link's faults and returns when it is over.
func (k *link) fail(kind string, lasts time.Duration) {
	switch kind {
	case Swallow:
		k.swallow(lasts)
		return
	case Cut:
		k.set(func() { k.refuse = true })
		k.drop()
	case Slow:
		k.set(func() { k.delay = 100 * ms })
	case OneWay:
		k.set(func() { k.blind = make(chan struct{}) })
	}
	time.Sleep(lasts)
	k.heal()
}

func (k *link) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

// heal ends every fault.
func (k *link) heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuse, k.delay = false, 0
	if k.blind != nil {
		close(k.blind)
		k.blind = nil
	}
}
