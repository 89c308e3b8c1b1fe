package spool

import (
	"hash/crc32"
	"io/fs"
	"strings"
	"sync"
)

// Reject settles a batch that the collector will never accept, keeps a copy for a look, and returns the batch if it was
// pending. It waits for the disk.
func (s *Spool) Reject(run string, seq uint64, reason string) Count {
	body := s.body(run, seq)
	s.mu.Lock()
	n := s.index.settle(s.config.Clock.Boot(), run, s.config.Run, seq, seq, &s.index.stats.Rejected)
	number := s.number
	usable := n.Batches > 0 && body != nil && number > 0 && !s.closed
	if usable {
		s.number++
	}
	s.mu.Unlock()
	s.settled()
	if n.Batches == 0 {
		return n
	}
	err := error(fs.ErrClosed)
	if usable {
		h := s.config.head(s.config.Clock.Boot(), number)
		h.Run, h.Reason = run, plain(reason)
		err = s.quarantine.write(number, h, record{seq: seq, off: recordsAt, size: uint32(len(body)), rows: uint32(n.Rows)}, body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.index.stats.QuarantineErr++
		return n
	}
	s.index.stats.Quarantined.Batches += n.Batches
	s.index.stats.Quarantined.Rows += n.Rows
	return n
}

// body returns the bytes of a pending batch, nil if they cannot be had.
func (s *Spool) body(run string, seq uint64) []byte {
	var body []byte
	var on *segment
	var r record
	s.mu.Lock()
	s.index.lists(func(g *segment) {
		if g.head.Run != run {
			return
		}
		for _, e := range g.span(seq, seq) {
			if e.state == waiting || e.state == taken {
				body, on, r = e.body, g, record{seq: e.seq, off: int64(e.off), size: e.size}
			}
		}
	})
	s.mu.Unlock()
	if body == nil && on != nil && on.number > 0 {
		body, _ = s.read(on, r) // damaged: it is settled all the same
	}
	return body
}

// plain makes a text of a collector fit for the head of a file and for a terminal.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text[:min(len(text), 200)])
	return text
}

// quarantine keeps what nobody can use but somebody may want to see: rejected batches, and files without a head.
type quarantine struct {
	fs   FS
	most int64

	mu    sync.Mutex
	files []FileInfo // the oldest first
	bytes int64
}

// write keeps a batch in a file of its own, in the layout of a segment.
func (q *quarantine) write(number uint64, h head, r record, body []byte) error {
	slot, err := encodeSlot(h)
	if err != nil {
		return err
	}
	size := int64(2*len(slot)+recordBytes) + int64(len(body))
	q.mu.Lock()
	defer q.mu.Unlock()
	if size > q.most {
		return fs.ErrInvalid
	}
	q.room(size)
	name := fileName(number, kindRejected)
	f, err := q.fs.Create(name)
	if err != nil {
		return err
	}
	r.sum = crc32.Checksum(body, castagnoli)
	header := encodeRecord(r, h.Nonce)
	err = f.WriteAt(0, slot, slot, header[:], body)
	f.Close()
	if err != nil {
		_ = q.fs.Remove(name)
		return err
	}
	q.files = append(q.files, FileInfo{Name: name, Size: size})
	q.bytes += size
	return nil
}

// add counts a file that is there already.
func (q *quarantine) add(f FileInfo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.files = append(q.files, f)
	q.bytes += f.Size
	q.room(0)
}

// room removes the oldest files until bytes more fit. One that cannot be removed is not tried again: it stays where it is.
func (q *quarantine) room(bytes int64) {
	for len(q.files) > 0 && q.bytes+bytes > q.most {
		_ = q.fs.Remove(q.files[0].Name)
		q.bytes -= q.files[0].Size
		q.files = q.files[1:]
	}
}
