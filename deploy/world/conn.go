package world

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// A request starts with its own length and the length of the answer, 8 bytes each, big endian. The top bit of the
// second asks the server to close after the answer. Zeros fill the rest.
const (
	headerBytes = 16
	closeAfter  = 1 << 63
	chunkBytes  = 32 << 10
	// stall bounds how long either program waits for a peer that says nothing more: an address may have moved away. So
	// a pause between two rounds must be shorter.
	stall = 10 * time.Second
)

// call opens one connection, does its rounds and writes it into the ledger. A cancelled context ends a long connection
// between two rounds and nothing else: what has begun is finished, so that the truth stays exact.
func (w *workload) call(ctx context.Context, job string, c Call) {
	e := Entry{Host: w.host, Job: job, Role: RoleClient, Remote: c.To, Start: time.Now().UnixNano()}
	dialer := net.Dialer{Timeout: c.Timeout, KeepAlive: -1}
	conn, err := dialer.Dial("tcp", c.To.String())
	if err == nil {
		e.Connected = true
		e.Local = addrPort(conn.LocalAddr())
		err = rounds(ctx, conn, c, &e)
		conn.Close()
	}
	w.finish(e, err)
}

func (w *workload) finish(e Entry, err error) {
	e.End = time.Now().UnixNano()
	if err != nil {
		e.Error = err.Error()
		errors.As(err, &e.Errno)
	}
	w.report(report{Entry: &e})
}

// rounds sends the requests and reads the answers.
func rounds(ctx context.Context, conn net.Conn, c Call, e *Entry) error {
	if c.Request == 0 {
		return nil
	}
	request := max(c.Request, headerBytes)
	total := max(1, c.Rounds)
	for i := range total {
		last := i == total-1
		response := c.Response
		if last && c.ServerCloses {
			response |= closeAfter
		}
		if err := conn.SetDeadline(time.Now().Add(stall)); err != nil {
			return err
		}
		if err := send(conn, request, response, e); err != nil {
			return err
		}
		n, err := io.CopyN(io.Discard, conn, int64(c.Response))
		e.Rx += uint64(n)
		if err != nil {
			return err
		}
		if last {
			break
		}
		select {
		case <-time.After(c.Pause):
		case <-ctx.Done():
			return nil
		}
	}
	if c.ServerCloses {
		return expectEnd(conn)
	}
	return nil
}

func send(conn io.Writer, request, response uint64, e *Entry) error {
	var header [headerBytes]byte
	binary.BigEndian.PutUint64(header[:], request)
	binary.BigEndian.PutUint64(header[8:], response)
	n, err := conn.Write(header[:])
	e.Tx += uint64(n)
	if err != nil {
		return err
	}
	return fill(conn, request-headerBytes, e)
}

// fill writes n zeros.
func fill(conn io.Writer, n uint64, e *Entry) error {
	chunk := make([]byte, min(n, chunkBytes))
	for n > 0 {
		m, err := conn.Write(chunk[:min(n, chunkBytes)])
		e.Tx += uint64(m)
		n -= uint64(m)
		if err != nil {
			return err
		}
	}
	return nil
}

func expectEnd(conn io.Reader) error {
	switch _, err := conn.Read(make([]byte, 1)); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return errors.New("more bytes than asked for")
}

// answer serves one connection until its client, or the client's wish, ends it.
func (w *workload) answer(conn net.Conn, calls []Call) {
	e := Entry{
		Host: w.host, Job: "listen", Role: RoleServer, Connected: true, Start: time.Now().UnixNano(),
		Local: addrPort(conn.LocalAddr()), Remote: addrPort(conn.RemoteAddr()),
	}
	err := w.requests(conn, calls, &e)
	conn.Close()
	w.finish(e, err)
}

func (w *workload) requests(conn net.Conn, calls []Call, e *Entry) error {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(stall)); err != nil {
			return err
		}
		request, response, err := readRequest(conn, e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if request < headerBytes {
			return errors.New("not a request of this world")
		}
		for _, c := range calls {
			w.call(context.Background(), "listen", c)
		}
		if err := fill(conn, response&^closeAfter, e); err != nil {
			return err
		}
		if response&closeAfter != 0 {
			return nil
		}
	}
}

func readRequest(conn io.Reader, e *Entry) (request, response uint64, err error) {
	var header [headerBytes]byte
	n, err := io.ReadFull(conn, header[:])
	e.Rx += uint64(n)
	if err != nil {
		return 0, 0, err
	}
	request, response = binary.BigEndian.Uint64(header[:]), binary.BigEndian.Uint64(header[8:])
	if request < headerBytes {
		return request, response, nil
	}
	m, err := io.CopyN(io.Discard, conn, int64(request-headerBytes))
	e.Rx += uint64(m)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return request, response, err
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
