package datagrams

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"

	"tributary/proto/datagram"
	"tributary/proto/flowv1"
)

const (
	maxBooks  = 8192
	maxKeys   = 2  // of an exporter: the present one and the one before, whose datagrams may still be on their way
	readBatch = 64 // datagrams taken with one system call at most
)

// Take takes the batch of an authentic datagram of rows rows. The bytes are used again when it returns; it must not block.
type Take func(from *Book, rows int, batch []byte)

// Server opens datagrams. Its methods are safe for concurrent use.
type Server struct {
	take    Take
	log     *slog.Logger
	metrics *metrics

	granting sync.Mutex
	books    *lru.Cache[string, *Book] // by exporter_id; granting guards what belongs together

	mu   sync.RWMutex
	keys map[uint64]known

	closing sync.Mutex
	conns   []*net.UDPConn
	closed  bool
}

type known struct {
	key  *datagram.Key
	book *Book
}

// New returns a server that knows nobody.
func New(take Take, reg prometheus.Registerer, log *slog.Logger) (*Server, error) {
	s := &Server{take: take, log: log, metrics: newMetrics(reg), keys: make(map[uint64]known)}
	var err error
	s.books, err = lru.NewWithEvict(maxBooks, func(_ string, b *Book) { s.forget(b.keys) })
	return s, err
}

// Grant hands out a key to an exporter that has shown who it is. The one before the last stops working. The book named goes on; an exporter that names another
// one was elsewhere meanwhile and knows nothing of the epochs between, so it gets a new one, which begins with the epoch.
func (s *Server) Grant(to Sender, epoch uint32, named string) (*Book, *flowv1.DatagramKey, error) {
	var random [datagram.KeyBytes + 16]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	secret, id := random[:datagram.KeyBytes], binary.BigEndian.Uint64(random[datagram.KeyBytes:])
	key, err := datagram.NewKey(secret)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	s.granting.Lock()
	defer s.granting.Unlock()
	book, ok := s.books.Get(to.ExporterID)
	if ok && book.id != named {
		s.books.Remove(to.ExporterID)
		ok = false
	}
	if !ok {
		book = &Book{id: hex.EncodeToString(random[datagram.KeyBytes+8:]), metrics: s.metrics, settled: max(epoch, 1) - 1, marked: max(epoch, 1) - 1}
		s.books.Add(to.ExporterID, book)
	}
	book.sender.Store(&to)
	book.keys = append(book.keys, id)
	if n := len(book.keys) - maxKeys; n > 0 {
		s.forget(book.keys[:n])
		book.keys = book.keys[n:]
	}
	s.mu.Lock()
	s.keys[id] = known{key, book}
	s.mu.Unlock()
	return book, &flowv1.DatagramKey{KeyId: id, Key: secret, Book: book.id}, nil
}

func (s *Server) forget(keys []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range keys {
		delete(s.keys, id)
	}
}

// Serve reads sockets until Close; an error is of one that fails for good.
func (s *Server) Serve(conns ...*net.UDPConn) error {
	s.closing.Lock()
	if s.closed {
		s.closing.Unlock()
		for _, c := range conns {
			c.Close()
		}
		return nil
	}
	s.conns = append(s.conns, conns...)
	s.closing.Unlock()
	failed := make(chan error, len(conns))
	for _, c := range conns {
		go func() { failed <- s.read(c) }()
	}
	var errs []error
	for range conns {
		errs = append(errs, <-failed)
	}
	return errors.Join(errs...)
}

// Close ends Serve. What is not read yet never came.
func (s *Server) Close() {
	s.closing.Lock()
	defer s.closing.Unlock()
	s.closed = true
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

const readPause = 100 * time.Millisecond // after an error that may pass

// read takes datagrams from one socket.
func (s *Server) read(c *net.UDPConn) error {
	conn := ipv4.NewPacketConn(c) // recvmmsg(2) is the same for both families
	messages := make([]ipv4.Message, readBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, datagram.MaxBytes+1)} // one more shows what is too long
	}
	for {
		n, err := conn.ReadBatch(messages, 0)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.log.Warn("a datagram was not read", "reason", err)
			time.Sleep(readPause)
			continue
		}
		var counts [results]int
		for i := range messages[:n] {
			counts[s.receive(messages[i].Buffers[0][:messages[i].N])]++
		}
		for result, n := range counts {
			if n > 0 {
				s.metrics.datagrams[result].Add(float64(n))
			}
		}
	}
}

// receive opens one datagram and hands it on.
func (s *Server) receive(b []byte) Result {
	h, err := datagram.Parse(b)
	switch {
	case errors.Is(err, datagram.ErrTruncated):
		return Truncated
	case errors.Is(err, datagram.ErrOversized):
		return Oversized
	case err != nil:
		return BadVersion
	}
	s.mu.RLock()
	k, ok := s.keys[h.KeyID]
	s.mu.RUnlock()
	if !ok {
		return UnknownKey
	}
	batch, err := k.key.Open(b)
	if err != nil {
		return Forged
	}
	if result := k.book.admit(h); result != Accepted {
		return result
	}
	if h.Rows == 0 {
		return Empty
	}
	s.take(k.book, int(h.Rows), batch)
	return Accepted
}
