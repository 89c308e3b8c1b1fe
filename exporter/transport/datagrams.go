package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"tributary/proto/datagram"
	"tributary/proto/flowv1"
)

const (
	batchOverhead = 40              // bytes of a Batch in a datagram beside its payload, at most
	keyLife       = time.Hour       // then another one is asked for
	reportMost    = 5 * time.Second // without a report nothing goes by datagram: the collector may be gone
	writeMost     = 5 * time.Millisecond
	proofMost     = 3 * watermarkEvery // when it is said that datagrams do not arrive
	maxUnsettled  = 64
	lossyLeast    = 3 // datagrams
)

// DatagramConfig says where batches go by UDP.
type DatagramConfig struct {
	Address string // HOST:PORT of the collector
}

// DatagramStats are the books of what went by UDP: SentRows = StoredRows + DroppedRows + NeverCameRows + what the collector has not told of. Nothing of it
// is sent again.
type DatagramStats struct {
	Sent, SentRows        uint64
	NeverCame             uint64 // datagrams
	NeverCameRows         uint64 // the collector says
	StoredRows            uint64 // the collector says: in every required sink
	DroppedRows           uint64 // the collector says: it had no room, or they were not valid
	TooLarge, WriteErrors uint64 // batches that went by a stream instead
}

// Unconfirmed is how many rows nobody has told of.
func (s *DatagramStats) Unconfirmed() uint64 {
	return s.SentRows - min(s.SentRows, s.StoredRows+s.DroppedRows+s.NeverCameRows)
}

// datagrams sends small batches by UDP while the collector says on the Control stream that they arrive. What it does not send goes to the spool
// and over the streams.
type datagrams struct {
	address string
	log     *slog.Logger
	route   *route
	every   time.Duration // how often what failed is tried again

	mu      sync.Mutex
	wanted  bool // UDP comes first in the order
	conn    *net.UDPConn
	key     *datagram.Key // nil: none on the present Control stream
	keyID   uint64
	keyAt   time.Time
	asked   bool      // for a key, without an answer yet
	again   time.Time // not before
	live    bool      // batches go this way
	proving time.Time // since when it is not known whether datagrams arrive
	told    bool      // that they do not
	base    uint64    // reports of more datagrams prove that they arrive
	heard   time.Time // the last report
	buf     []byte
	batch   []byte

	seq       uint64
	epoch     uint32
	sent      flowv1.DatagramMark // in this epoch
	unsettled []*flowv1.DatagramMark
	resend    bool // the marks, on a new stream
	book      string
	before    DatagramStats // our own counts, and what the reports of earlier books said
	unknown   uint64        // rows of which these books never told
	now       flowv1.DatagramReport
}

func newDatagrams(c *Config, r *route, logger *slog.Logger) *datagrams {
	d := &datagrams{log: logger, route: r, every: c.ProbeEvery, epoch: 1}
	if c.Datagrams != nil {
		d.address = c.Datagrams.Address
	}
	return d
}

// want says whether UDP comes first in the order.
func (d *datagrams) want(wanted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wanted == wanted {
		return
	}
	d.wanted, d.again, d.told = wanted, time.Time{}, false
	if !wanted {
		d.leaveLocked(Reordered, "the order has changed")
	}
}

// inUse reports whether batches go this way, and how many bytes a payload may have for it.
func (d *datagrams) inUse() (live bool, most int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live, datagram.MaxBatchBytes - batchOverhead
}

// send sends a batch of this run; false if it has to go another way.
func (d *datagrams) send(b *flowv1.Batch) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.live {
		return false
	}
	if time.Since(d.heard) > reportMost {
		d.leaveLocked(Unreachable, "the collector does not say what arrives")
		return false
	}
	small := flowv1.Batch{
		BatchSeq: b.GetBatchSeq(), Rows: b.GetRows(), Codec: b.GetCodec(), ColumnsBytes: b.GetColumnsBytes(), Payload: b.GetPayload(), SealedTimeNs: b.GetSealedTimeNs(),
	}
	var err error
	if d.batch, err = (proto.MarshalOptions{}).MarshalAppend(d.batch[:0], &small); err != nil || len(d.batch) > datagram.MaxBatchBytes || b.GetRows() > 1<<16-1 {
		d.before.TooLarge++
		return false
	}
	if err := d.writeLocked(uint16(b.GetRows()), d.batch); err != nil {
		d.before.WriteErrors++
		if !errors.Is(err, os.ErrDeadlineExceeded) { // else the kernel's buffer is full for a moment
			d.leaveLocked(Unreachable, err.Error())
		}
		return false
	}
	return true
}

// writeLocked sends one datagram. A seq is used up by an attempt that fails too.
func (d *datagrams) writeLocked(rows uint16, batch []byte) (err error) {
	d.seq++
	d.buf, err = d.key.Seal(d.buf[:0], datagram.Header{Rows: rows, Epoch: d.epoch, KeyID: d.keyID, Seq: d.seq}, batch)
	if err != nil {
		return err
	}
	_ = d.conn.SetWriteDeadline(time.Now().Add(writeMost)) // if that fails, so does the write
	if _, err := d.conn.Write(d.buf); err != nil {
		return fmt.Errorf("send a datagram: %w", err)
	}
	d.sent.Datagrams++
	d.sent.Rows += uint64(rows)
	d.before.Sent++
	d.before.SentRows += uint64(rows)
	return nil
}

// leaveLocked goes on over the streams, and says why.
func (d *datagrams) leaveLocked(reason Reason, why string) {
	if d.live {
		d.route.changed(UDP, d.route.now(), reason, why)
	}
	d.live, d.proving, d.base, d.again = false, time.Time{}, d.now.GetDatagrams(), time.Now().Add(d.every)
}

// drain sends nothing more for now; the books go on.
func (d *datagrams) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaveLocked(Drained, "the stream is to end")
	d.again = time.Now().Add(drainMost)
}

// hush sends nothing more on the present Control stream. Another one begins anew.
func (d *datagrams) hush(why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaveLocked(Unreachable, why)
	d.key, d.asked, d.again = nil, false, time.Time{}
	if d.sent.GetDatagrams() > 0 {
		d.rollLocked()
	}
	d.resend = len(d.unsettled) > 0
}

// tick is called once a second while a Control stream stands, and returns what to tell the collector on it.
func (d *datagrams) tick() (out []*flowv1.ControlRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.key != nil {
		d.rollLocked()
		from := len(d.unsettled) - 1
		if d.resend {
			from, d.resend = 0, false
		}
		for _, m := range d.unsettled[from:] {
			out = append(out, &flowv1.ControlRequest{Message: &flowv1.ControlRequest_DatagramMark{DatagramMark: m}})
		}
	}
	if !d.wanted || now.Before(d.again) {
		return out
	}
	switch {
	case !d.asked && (d.key == nil || now.Sub(d.keyAt) > keyLife):
		d.asked = true
		request := &flowv1.DatagramRequest{Epoch: d.epoch, Book: d.book}
		out = append(out, &flowv1.ControlRequest{Message: &flowv1.ControlRequest_DatagramRequest{DatagramRequest: request}})
	case d.key != nil && !d.live:
		d.proveLocked(now)
	}
	return out
}

// rollLocked ends the epoch.
func (d *datagrams) rollLocked() {
	d.unsettled = append(d.unsettled, &flowv1.DatagramMark{Epoch: d.epoch, Datagrams: d.sent.GetDatagrams(), Rows: d.sent.GetRows()})
	if len(d.unsettled) > maxUnsettled { // nobody will tell of these
		d.unsettled = d.unsettled[len(d.unsettled)-maxUnsettled:]
	}
	d.epoch++
	d.sent.Datagrams, d.sent.Rows = 0, 0
}

// proveLocked sends an empty datagram: batches follow when the collector says that it came.
func (d *datagrams) proveLocked(now time.Time) {
	if d.proving.IsZero() {
		d.proving = now
	}
	err := d.writeLocked(0, nil)
	if d.told || err == nil && now.Sub(d.proving) < proofMost {
		return
	}
	d.told = true
	d.log.Warn("datagrams do not arrive: batches go over the streams until they do", "udp", d.address, "error", err)
}

// keyed takes a key, or the reason why there is none.
func (d *datagrams) keyed(m *flowv1.DatagramKey) {
	key, err := datagram.NewKey(m.GetKey())
	var conn net.Conn
	if err == nil {
		conn, err = net.DialTimeout("udp", d.address, retryMost)
	}
	if m.GetRefused() != "" {
		err = fmt.Errorf("%s", short(m.GetRefused()))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = false
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		d.again = time.Now().Add(d.every)
		d.log.Warn("batches do not go by UDP", "udp", d.address, "reason", err, "again_in", d.every)
		return
	}
	if d.conn != nil {
		d.conn.Close()
	}
	d.conn, d.key, d.keyID, d.keyAt, d.heard = conn.(*net.UDPConn), key, m.GetKeyId(), time.Now(), time.Now()
	if m.GetBook() != d.book {
		d.newBookLocked(m.GetBook())
	}
	if d.wanted && !d.live {
		d.proveLocked(time.Now())
	}
}

// newBookLocked begins to be counted anew: what the book before has not told of stays unknown.
func (d *datagrams) newBookLocked(book string) {
	d.before.add(&d.now)
	d.unknown = d.before.Unconfirmed()
	proto.Reset(&d.now)
	d.book, d.base, d.unsettled, d.resend = book, 0, nil, false
	d.leaveLocked(Unreachable, "another collector has the stream")
	d.again = time.Time{}
}

func (s *DatagramStats) add(r *flowv1.DatagramReport) {
	s.NeverCame += r.GetNeverCameDatagrams()
	s.NeverCameRows += r.GetNeverCameRows()
	s.StoredRows += r.GetStoredRows()
	s.DroppedRows += r.GetDroppedRows()
}

// reported takes what the collector says became of datagrams.
func (d *datagrams) reported(r *flowv1.DatagramReport) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.GetBook() != d.book || d.key == nil {
		return
	}
	never := r.GetNeverCameDatagrams() - min(r.GetNeverCameDatagrams(), d.now.GetNeverCameDatagrams())
	proto.Reset(&d.now)
	proto.Merge(&d.now, r)
	d.heard = time.Now()
	sent := uint64(0)
	for len(d.unsettled) > 0 && d.unsettled[0].GetEpoch() <= r.GetSettledEpoch() {
		sent += d.unsettled[0].GetDatagrams()
		d.unsettled = d.unsettled[1:]
	}
	switch {
	case d.live && never >= lossyLeast && 2*never > sent:
		d.leaveLocked(Lossy, fmt.Sprintf("%d of %d datagrams never came", never, sent))
	case !d.live && d.wanted && r.GetDatagrams() > d.base && !time.Now().Before(d.again):
		d.live, d.told = true, false
		d.route.changed(d.route.now(), UDP, Preferred, "datagrams arrive")
	}
}

// settled reports whether the collector has told of everything that the present book will tell of.
func (d *datagrams) settled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.before
	all.add(&d.now)
	return d.key == nil || all.Unconfirmed() <= d.unknown
}

func (d *datagrams) stats() DatagramStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.before
	s.add(&d.now)
	return s
}

func (d *datagrams) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		d.conn.Close()
	}
	d.conn, d.key, d.live = nil, nil, false
}
