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

// load is a client and a server in this process.
type load struct {
	opened, failed atomic.Uint64
	ending         chan struct{}
	running        sync.WaitGroup
	listener       net.Listener
}

func startLoad(o options) (*load, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	x := &load{ending: make(chan struct{}), listener: l}
	x.running.Go(x.serve)
	x.running.Go(func() { x.open(o.rate) })
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
		x.opened.Add(1)
		if x.once() != nil {
			x.failed.Add(1)
		}
	}
}

func (x *load) once() error {
	c, err := net.Dial("tcp", x.listener.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	return ask(c)
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
	c, err := net.Dial("tcp", x.listener.Addr().String())
	x.opened.Add(1)
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
