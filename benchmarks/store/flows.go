package main

import (
	"fmt"
	"time"

	"tributary/proto/flow"
)

// end is one end of a connection, as its exporter knows it.
type end struct {
	exporter          int
	flowID, cookie    uint64
	local, remote     int // instances; -1 is outside
	outside           uint32
	localPort, remPor uint32
	role              uint32
}

// conn is a connection with one or two ends that are recorded.
type conn struct {
	e          *edge
	start, end int64
	failed     bool
	sent, recv uint64
	rtt        uint32
	retrans    uint32
	ends       []end
}

// record is one row to be: the nth of a connection's end.
type record struct {
	c    *conn
	side int
	seq  uint32
	last bool
	from int64
	to   int64
}

// chunk is how much time is made at once.
const chunk = 2 * time.Minute

// maker draws connections and hands out their records in the order of time, chunk by chunk.
type maker struct {
	w       *world
	later   map[int64][]record
	flowIDs [hosts]uint64
	cookies [hosts]uint64
	batches [hosts]uint64
	rows    int
}

// make draws n connections that start in the chunk, and returns all records that end in it.
func (m *maker) chunk(start int64, n int) []record {
	for range n {
		m.draw(start + m.w.r.Int64N(int64(chunk)))
	}
	at := start / int64(chunk)
	out := m.later[at]
	delete(m.later, at)
	m.rows += len(out)
	return out
}

func (m *maker) draw(start int64) {
	w := m.w
	e := w.pick()
	c := &conn{
		e: e, start: start, failed: w.r.Float64() < e.failing, sent: uint64(w.lognormal(e.sent, 1, 1e9)), recv: uint64(w.lognormal(e.received, 1.3, 1e10)),
		rtt: uint32(w.lognormal(e.rttUs, 0.4, 3e6)) + 20,
	}
	life := w.lognormal(e.lives, 1, 3600)
	if w.r.IntN(25) == 0 {
		life = w.lognormal(90, 1, 2*3600)
	}
	c.end = start + int64(life*1e9)
	if c.failed {
		c.end, c.sent, c.recv = start+int64(c.rtt)*1000, 0, 0
	}
	if w.r.IntN(30) == 0 {
		c.retrans = 1 + uint32(w.r.IntN(3))
	}
	m.addEnds(c)
	for side := range c.ends {
		m.addRecords(c, side)
	}
}

func (m *maker) addEnds(c *conn) {
	w, e := m.w, c.e
	pick := func(workload int) int {
		if workload < 0 {
			return -1
		}
		all := w.of[workload]
		return all[w.r.IntN(len(all))]
	}
	client, server := pick(e.client), pick(e.server)
	ephemeral, outside := uint32(32768+w.r.IntN(28000)), uint32(0)
	if client >= 0 {
		i := &w.instances[client]
		i.nextPort = 32768 + (i.nextPort-32768+2)%28000
		ephemeral = i.nextPort
	}
	if client < 0 || server < 0 {
		outside = w.outside()
	}
	add := func(local, remote int, localPort, remotePort, role uint32) {
		h := w.instances[local].host
		m.flowIDs[h]++
		m.cookies[h] += uint64(1 + w.r.IntN(3))
		c.ends = append(c.ends, end{h, m.flowIDs[h], m.cookies[h], local, remote, outside, localPort, remotePort, role})
	}
	if client >= 0 && e.client%5 != 4 { // one workload in five has no exporter
		add(client, server, ephemeral, e.port, flow.RoleClient)
	}
	if server >= 0 && e.server%5 != 4 && !c.failed {
		add(server, client, e.port, ephemeral, flow.RoleServer)
	}
}

func (m *maker) addRecords(c *conn, side int) {
	from, seq := c.start, uint32(0)
	for at := c.start + 5e9; at < c.end; at += 30e9 {
		m.add(record{c, side, seq, false, from, at})
		from, seq = at, seq+1
	}
	m.add(record{c, side, seq, true, from, c.end + int64(side)*int64(c.rtt)*500})
}

func (m *maker) add(r record) {
	at := r.to / int64(chunk)
	m.later[at] = append(m.later[at], r)
}

// batch makes one batch out of the records of an exporter.
func (m *maker) batch(exporter int, rows []record, received int64) *flow.Batch {
	b := &flow.Batch{Rows: len(rows), Strings: m.w.strings, AttrStrings: m.w.strings, Addrs: m.w.addrs, ReceivedTimeNs: received}
	m.batches[exporter]++
	b.Seq, b.Host = m.batches[exporter], fmt.Sprintf("host-%03d", exporter)
	b.ExporterID, b.BootID = fmt.Sprintf("host-%03d-6f1c%04x", exporter, exporter*77), fmt.Sprintf("8c7d6a5e-0000-4000-8000-%012x", exporter)
	for f := range flow.NumU32 {
		b.Make32(f)
	}
	for f := range flow.NumU64 {
		b.Make64(f)
	}
	network := m.w.text(networkID)
	for i := range rows {
		m.fill(b, i, &rows[i], network)
	}
	return b
}

func (m *maker) fill(b *flow.Batch, i int, r *record, network uint32) {
	c, e := r.c, &r.c.ends[r.side]
	here := &m.w.instances[e.local]
	set := func(f flow.U32, v uint32) { b.U32[f][i] = v }
	set64 := func(f flow.U64, v uint64) { b.U64[f][i] = v }
	set64(flow.FlowID, e.flowID)
	set64(flow.SockCookie, e.cookie)
	set64(flow.CgroupID, here.cgroup)
	set(flow.RecordSeq, r.seq)
	set(flow.Network, network)
	set(flow.Comm, here.comm)
	set(flow.Netns, here.netns)
	set(flow.Role, e.role)
	set(flow.SampleRate, 1)
	set(flow.Connections, 1)
	set(flow.StartObserved, 1)
	set64(flow.StartTimeNs, uint64(c.start))
	set64(flow.IntervalStartNs, uint64(r.from))
	set64(flow.EndTimeNs, uint64(r.to))
	set(flow.LocalAddr, here.addrAt)
	set(flow.LocalPort, e.localPort)
	set(flow.RemotePort, e.remPor)
	set(flow.Pid, here.pid)
	set(flow.UID, here.uid)
	set(flow.LocalWorkload, here.wl)
	set(flow.LocalInstance, here.name)
	set(flow.LocalZone, here.zone)
	set(flow.LocalRegion, here.region)
	set(flow.LocalRelease, here.release)
	set(flow.LocalEvidence, flow.EvidenceNetns)
	m.remote(b, i, e)
	m.kind(b, i, r)
	m.traffic(b, i, r)
}

func (m *maker) remote(b *flow.Batch, i int, e *end) {
	if e.remote < 0 {
		b.U32[flow.RemoteAddr][i], b.U32[flow.RemoteWhy][i] = e.outside, flow.WhyExternal
		b.U32[flow.Version][i] = 1
		return
	}
	there := &m.w.instances[e.remote]
	b.U32[flow.RemoteAddr][i] = there.addrAt
	if m.w.r.IntN(500) == 0 {
		b.U32[flow.RemoteWhy][i] = flow.WhyNoEvidence
		return
	}
	b.U32[flow.RemoteWorkload][i], b.U32[flow.RemoteInstance][i] = there.wl, there.name
	b.U32[flow.RemoteZone][i], b.U32[flow.RemoteRegion][i], b.U32[flow.RemoteRelease][i] = there.zone, there.region, there.release
	b.U32[flow.RemoteEvidence][i], b.U32[flow.Version][i] = flow.EvidenceClaim, 20<<8
	b.U32[flow.PeerObserved][i] = uint32(m.w.r.IntN(2)) * 2
}

func (m *maker) kind(b *flow.Batch, i int, r *record) {
	kind, reason, state := uint32(flow.KindActive), uint32(0), uint32(1)
	switch {
	case r.c.failed:
		kind, reason, state = flow.KindFailed, flow.CloseRefused, 2
		b.U32[flow.Failures][i], b.U32[flow.Errno][i] = 1, 111
	case r.last:
		kind, reason, state = flow.KindClosed, flow.CloseFinLocal, 4
		if r.c.sent%3 == uint64(r.side) {
			reason, state = flow.CloseFinRemote, 9
		}
	}
	b.U32[flow.Kind][i], b.U32[flow.CloseReason][i], b.U32[flow.LastState][i] = kind, reason, state
}

// traffic spreads a connection's bytes over its records.
func (m *maker) traffic(b *flow.Batch, i int, r *record) {
	c := r.c
	part := float64(r.to-r.from) / float64(max(1, c.end-c.start))
	tx, rx := uint64(float64(c.sent)*part), uint64(float64(c.recv)*part)
	if c.ends[r.side].role == flow.RoleServer {
		tx, rx = rx, tx
		b.U32[flow.Accepted][i] = 1
	} else if !c.failed {
		b.U32[flow.ConnectUs][i] = c.rtt + uint32(m.w.r.IntN(60))
	}
	b.U64[flow.TxBytes][i], b.U64[flow.RxBytes][i] = tx, rx
	b.U32[flow.TxSegs][i], b.U32[flow.RxSegs][i] = uint32(tx/1448)+3, uint32(rx/1448)+3
	if c.failed {
		b.U32[flow.RstReceived][i] = 1
		return
	}
	if r.last && c.retrans > 0 {
		b.U32[flow.RetransSegs][i], b.U32[flow.RetransBytes][i], b.U32[flow.LostSegs][i], b.U32[flow.Rto][i] = c.retrans, c.retrans*1448, c.retrans, c.retrans/2
	}
	b.U32[flow.SrttUs][i] = c.rtt + uint32(m.w.r.IntN(int(c.rtt/4)+1))
	b.U32[flow.MinRttUs][i] = c.rtt * 3 / 4
	b.U32[flow.RttvarUs][i] = uint32(m.w.r.IntN(int(c.rtt/3) + 1))
	b.U32[flow.BusyUs][i] = uint32(min(tx/100, 1<<31))
	b.U32[flow.SndCwnd][i], b.U32[flow.Mss][i] = 10+uint32(min(tx/14480, 90)), 1448
	b.U32[flow.DeliveredCe][i] = 0
}
