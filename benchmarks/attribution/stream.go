package main

import (
	"google.golang.org/protobuf/proto"

	"tributary/proto/flowv1"
)

// stream is an exporter's Control stream. Messages arrive in order, each as late as the network makes it.
type stream struct {
	up      bool
	life    *life // of the present stream
	arrival int64 // of the last message
	number  int64 // as the hello tells it
}

// life lets messages that are under way know that their stream was lost, and from which arrival on.
type life struct {
	lostFrom int64
	clock    int64 // the exporter's, in the hello of both streams
}

func (c *stream) close() { c.up = false }

// send puts a message on the stream. Without one it is gone; the next stream begins with the whole set.
func (h *host) send(m *flowv1.ControlRequest) {
	if !h.stream.up || h.down {
		return
	}
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	h.deliver(data)
	if h.sim.cfg.faults.repeat && h.sim.chance(0.02) {
		l := h.stream.life
		h.sim.time.after(h.sim.between(0, 3*sec), func() {
			if h.stream.up && h.stream.life == l && !h.frozen {
				h.deliver(data)
			}
		})
	}
}

func (h *host) deliver(data []byte) {
	s, l := h.sim, h.stream.life
	h.stream.arrival = max(h.stream.arrival+1, s.time.now+s.latency())
	at, node, run := h.stream.arrival, h.node, h.exporterID()
	era := node.era
	s.time.at(at, func() {
		if at >= l.lostFrom || era != node.era || node.down {
			return
		}
		node.control(h, run, l, data)
	})
}

// latency is how long a message takes.
func (s *sim) latency() int64 {
	if s.cfg.faults.delay && s.chance(0.01) {
		return s.between(100*ms, 5*sec)
	}
	return s.between(500_000, 20*ms)
}

// connect opens a new stream: hello, the whole set, a watermark.
func (h *host) connect() {
	s := h.sim
	if h.frozen || h.down || h.stream.up {
		return
	}
	if h.node = h.region.reachable(); h.node == nil {
		s.time.after(s.between(200*ms, sec), h.connect)
		return
	}
	h.stream.up = true
	h.stream.arrival = s.time.now
	h.stream.life = &life{lostFrom: forever, clock: h.clock(s.time.now)}
	h.stream.number = max(h.stream.life.clock, h.stream.number+1)
	h.severed = false
	data, err := proto.Marshal(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: &flowv1.Hello{
		ExporterId: h.exporterID(), Host: h.name, BootId: h.name, Version: "simulated", ClockNs: h.stream.life.clock, ControlStream: h.stream.number,
	}}})
	if err != nil {
		panic(err)
	}
	h.deliver(data)
	full := &flowv1.Ownership{Full: true}
	for _, i := range h.instances {
		if i.claimed != 0 {
			full.Claims = append(full.Claims, h.claimOf(i))
		}
	}
	h.send(tell(full))
	h.sendWatermark()
	for _, seq := range h.order {
		if x := h.unacked[seq]; x != nil {
			h.ship(x)
		}
	}
}

// cut breaks the stream. Half of the time what was under way is lost from some moment on, else it comes late: after the next stream
// has begun, where it must not count.
func (h *host) cut() {
	s := h.sim
	if !h.stream.up || h.frozen || s.ending {
		return
	}
	h.stream.up, h.severed = false, true
	if s.chance(0.5) {
		h.stream.life.lostFrom = s.time.now + s.between(0, 50*ms)
	}
	s.time.after(s.between(10*ms, 3*sec), h.connect)
}
