package main

import (
	"bytes"
	"time"

	"tributary/collector/ownership"
	"tributary/collector/ownership/feed"
	"tributary/collector/ownership/session"
)

const (
	partitions    = 4
	snapshotEvery = 30 * sec
	readBack      = 3 * 60 * sec // of a node without a snapshot
	lookEveryNode = 50 * ms
)

// topic is a region's ownership.v1: the broker, which is simulated. What stands in it is what the real feed of a node makes and reads.
type topic struct {
	cut    bool
	values [partitions][][]byte
	times  [partitions][]int64 // when each came
}

// part is a node's part in the topic.
type part struct {
	feed    *feed.Simulated
	out     [partitions][][]byte // taken from the feed and not yet in the topic
	writing [partitions]bool     // a request is under way
	lagging bool                 // it reads nothing
}

// snapshot is what a node finds on its disk when it starts again.
type snapshot struct {
	table   []byte
	offsets []int64
	owned   []session.Owned
}

// openTopic begins the node's part.
func (n *node) openTopic(next []int64) {
	t := &n.region.topic
	ends := make([]int64, partitions)
	for p := range ends {
		ends[p] = int64(len(t.values[p]))
	}
	if next == nil {
		next = make([]int64, partitions)
		for p := range next {
			for next[p] < ends[p] && t.times[p][next[p]] < n.region.sim.time.now-readBack {
				next[p]++
			}
		}
	}
	n.topic.feed.Begin(n.book, func() { n.wake(0) }, next, ends)
	for p := range partitions {
		n.during(int64(feed.FlushEvery), func() { n.write(p) })
		n.read(p)
	}
	n.during(lookEveryNode, n.topic.feed.Look)
	n.during(snapshotEvery, n.save)
	turn := 0
	n.during(sec, func() {
		n.book.Repeat(turn, int(feed.RepeatEvery/time.Second), n.now())
		turn = (turn + 1) % int(feed.RepeatEvery/time.Second)
	})
}

// during repeats something for as long as this life of the node lasts.
func (n *node) during(gap int64, do func()) {
	era := n.era
	n.region.sim.time.after(gap, func() {
		if era == n.era {
			do()
			n.during(gap, do)
		}
	})
}

// write sends what is due for a partition: one request at a time, again and again until the broker has it.
func (n *node) write(p int) {
	s, t, mine := n.region.sim, &n.region.topic, n.topic
	if mine.writing[p] {
		return
	}
	if len(mine.out[p]) == 0 {
		mine.out[p] = mine.feed.Take(p)
	}
	if t.cut {
		return
	}
	mine.writing[p] = true
	s.time.after(s.latency(), func() {
		mine.writing[p] = false
		if t.cut {
			return // what is left is sent by the next call, if there is one
		}
		for _, value := range mine.out[p] {
			t.values[p], t.times[p] = append(t.values[p], value), append(t.times[p], s.time.now)
		}
		if s.cfg.faults.repeat && s.chance(0.01) {
			return // the answer was lost: all of it is sent again
		}
		mine.out[p] = nil
	})
}

// read asks for what is new in a partition, over and over.
func (n *node) read(p int) {
	s, t, era, asked := n.region.sim, &n.region.topic, n.era, n.now()
	s.time.after(s.latency(), func() {
		if era != n.era {
			return
		}
		if t.cut || n.topic.lagging {
			s.time.after(s.between(50*ms, sec), func() {
				if era == n.era {
					n.read(p)
				}
			})
			return
		}
		end := int64(len(t.values[p]))
		if err := n.topic.feed.Give(p, t.values[p][n.topic.feed.Next(p):], asked, end); err != nil {
			panic(err)
		}
		s.time.after(s.between(ms, 100*ms), func() {
			if era == n.era {
				n.read(p)
			}
		})
	})
}

// save keeps what a start needs.
func (n *node) save() {
	offsets := n.topic.feed.Offsets()
	if offsets == nil {
		return
	}
	var b bytes.Buffer
	if err := n.table.Snapshot(&b); err != nil {
		panic(err)
	}
	n.saved = &snapshot{table: b.Bytes(), offsets: offsets, owned: n.book.Owned()}
}

// restore fills the empty table from the disk and returns where reading goes on; nil if there is no snapshot.
func (n *node) restore() []int64 {
	if n.saved == nil {
		return nil
	}
	if err := n.table.Restore(bytes.NewReader(n.saved.table)); err != nil {
		panic(err)
	}
	n.table.Open(func(c *ownership.Claim, verified int64) bool {
		n.book.Restore(c, verified)
		return true
	})
	for i := range n.saved.owned {
		n.book.RestoreOwner(&n.saved.owned[i])
	}
	return n.saved.offsets
}

// cutTopic takes the broker away from all nodes of the region for a while.
func (r *region) cutTopic() {
	r.topic.cut = true
	r.sim.time.after(r.sim.between(3*sec, 25*sec), func() { r.topic.cut = false })
}

// lag lets a node of the region read nothing for a while.
func (r *region) lag() {
	n := r.nodes[r.sim.rng.IntN(len(r.nodes))]
	if n.topic == nil {
		return
	}
	mine := n.topic
	mine.lagging = true
	r.sim.time.after(r.sim.between(2*sec, 10*sec), func() { mine.lagging = false })
}
