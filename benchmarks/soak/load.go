package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	asks    = 100  // bytes a client sends
	answers = 1000 // bytes it gets
)

// load is a client and a server in this process, with sockets in the namespace.
type load struct {
	place *place
	// opened are tries, connected those that succeeded; failed are those that did not and connections that broke.
	opened, connected, failed atomic.Uint64
	ending                    chan struct{}
	running                   sync.WaitGroup
	listener                  net.Listener
}

func startLoad(p *place, o options) (*load, error) {
	x := &load{place: p, ending: make(chan struct{})}
	if err := p.in(func() (err error) {
		x.listener, err = net.Listen("tcp", net.JoinHostPort(p.world.IPv4(host.Name).String(), "0"))
		return err
	}); err != nil {
		return nil, err
	}
	x.running.Go(x.serve)
	x.running.Go(func() {
		if err := p.in(func() error { x.open(o.rate); return nil }); err != nil {
			x.failed.Add(1)
		}
	})
	for range o.lasting {
		x.running.Go(x.last)
	}
	return x, nil
}

func (x *load) stop() {
	close(x.ending)
	x.listener.Close()
	x.running.Wait()
}

func (x *load) port() int { return x.listener.Addr().(*net.TCPAddr).Port }

func (x *load) serve() {
	for {
		c, err := x.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			x.running.Go(func() { answer(c) })
		}
	}
}

func answer(c net.Conn) {
	defer c.Close()
	in, out := make([]byte, asks), make([]byte, answers)
	for {
		if _, err := io.ReadFull(c, in); err != nil {
			return
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// open opens connections at a steady rate, one after the other.
func (x *load) open(rate int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-x.ending:
			return
		}
		if x.once() != nil {
			x.failed.Add(1)
		}
	}
}

func (x *load) once() error {
	c, err := x.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return ask(c)
}

// dial is to be called inside the namespace.
func (x *load) dial() (net.Conn, error) {
	x.opened.Add(1)
	c, err := net.Dial("tcp", x.listener.Addr().String())
	if err == nil {
		x.connected.Add(1)
	}
	return c, err
}

func ask(c net.Conn) error {
	if _, err := c.Write(make([]byte, asks)); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, answers))
	return err
}

// last keeps a connection open and asks every second.
func (x *load) last() {
	var c net.Conn
	err := x.place.in(func() (err error) {
		c, err = x.dial()
		return err
	})
	if err != nil {
		x.failed.Add(1)
		return
	}
	defer c.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if ask(c) != nil {
			x.failed.Add(1)
			return
		}
		select {
		case <-tick.C:
		case <-x.ending:
			return
		}
	}
}
