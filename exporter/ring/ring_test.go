package ring

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tributary/service/poller"
)

// fakeRing is a mapping over plain memory, written as the kernel writes: the second
// copy of the data is kept equal to the first.
type fakeRing struct {
	*mapping
	size int
	head uint64
}

func newFakeRing(size int) *fakeRing {
	page := os.Getpagesize()
	m := &mapping{consumer: make([]byte, page), ring: make([]byte, page+2*size), mask: uint64(size - 1)}
	m.data = m.ring[page:]
	return &fakeRing{mapping: m, size: size}
}

func (f *fakeRing) put(b []byte, flags uint32) (at uint64) {
	at = f.head
	raw := make([]byte, (len(b)+headerSize+7)&^7)
	binary.NativeEndian.PutUint32(raw, uint32(len(b))|flags)
	copy(raw[headerSize:], b)
	for i, c := range raw {
		offset := (int(at) + i) & (f.size - 1)
		f.data[offset], f.data[offset+f.size] = c, c
	}
	f.head += uint64(len(raw))
	binary.NativeEndian.PutUint64(f.ring, f.head)
	return at
}

func TestMappingReadsAcrossTheEnd(t *testing.T) {
	f := newFakeRing(4096)
	for i := range 1000 {
		want := bytes.Repeat([]byte{byte(i)}, 1+i%211)
		f.put(want, 0)
		got, state := f.next(f.producer())
		if state != sampleReady || !bytes.Equal(got, want) || cap(got) != len(got) {
			t.Fatalf("record %d: state %d, %d bytes", i, state, len(got))
		}
		f.advance(len(got))
		if _, state := f.next(f.producer()); state != sampleEnd {
			t.Fatalf("record %d: state %d after the last", i, state)
		}
	}
	f.commit()
	if told := binary.NativeEndian.Uint64(f.consumer); told != f.head {
		t.Errorf("the kernel was told %d of %d", told, f.head)
	}
}

func TestMappingBusyAndDiscarded(t *testing.T) {
	f := newFakeRing(4096)
	f.put([]byte("gone"), flagGone)
	at := f.put([]byte("busy"), flagBusy)
	limit := f.producer()
	if _, state := f.next(limit); state != sampleDiscarded {
		t.Fatalf("state %d, want discarded", state)
	}
	if _, state := f.next(limit); state != sampleBusy {
		t.Fatalf("state %d, want busy", state)
	}
	f.data[at+3] = 0 // the busy bit, on a little-endian machine
	if b, state := f.next(limit); state != sampleReady || string(b) != "busy" {
		t.Fatalf("state %d, %q", state, b)
	}
}

func TestRunRefusesWhatIsNoRing(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, o := range []Options{{FD: int(file.Fd()), Size: 4096}, {FD: -1, Size: 4096}, {FD: int(file.Fd()), Size: 5000}, {FD: int(file.Fd()), Size: 1}} {
		if err := New(o).Run(t.Context(), nil); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestDrainBeforeAndAfterRun(t *testing.T) {
	r := New(Options{})
	if err := r.Drain(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before: %v", err)
	}
	r.state = stopped
	if err := r.Drain(t.Context()); err != nil {
		t.Errorf("after: %v", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = read.Close(), write.Close() }()
	if r.poll, err = poller.New(int(read.Fd()), "a ring"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.poll.Close() }()
	r.state = running
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// parts is a walk that comes in the given pieces.
type parts struct {
	pieces [][]byte
	err    error
	closed bool
}

func (p *parts) Read(b []byte) (int, error) {
	if len(p.pieces) == 0 {
		return 0, p.err
	}
	n := copy(b, p.pieces[0])
	p.pieces = p.pieces[1:]
	return n, nil
}

func (p *parts) Close() error { p.closed = true; return nil }

func TestWalk(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name                      string
		pass                      *parts
		want                      string
		walks, errors, afterwards uint64
		open                      error
	}{
		{"pieces cut records", &parts{pieces: [][]byte{[]byte("aaaab"), []byte("bb"), []byte("bcccc")}, err: io.EOF}, "aaaa,bbbb,cccc", 1, 0, 1, nil},
		{"nothing", &parts{err: io.EOF}, "", 1, 0, 1, nil},
		{"nothing open", nil, "", 1, 0, 1, nil},
		{"half a record", &parts{pieces: [][]byte{[]byte("aaaabb")}, err: io.EOF}, "aaaa", 0, 1, 0, nil},
		{"breaks off", &parts{pieces: [][]byte{[]byte("aaaa")}, err: broken}, "aaaa", 0, 1, 0, nil},
		{"does not open", nil, "", 0, 1, 0, broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			var after uint64
			r := New(Options{
				RecordSize: 4, AfterWalk: func() { after++ },
				Walk: func() (io.ReadCloser, error) {
					if c.pass == nil {
						return nil, c.open
					}
					return c.pass, nil
				},
			})
			r.mem = newFakeRing(4096).mapping
			var got []string
			r.handle = func(b []byte) error { got = append(got, string(b)); return nil }
			r.walk()
			if strings.Join(got, ",") != c.want || r.Stats().Walks != c.walks || r.Stats().WalkErrors != c.errors || after != c.afterwards {
				t.Errorf("%v, %+v, %d", got, r.Stats(), after)
			}
			if c.pass != nil && !c.pass.closed {
				t.Error("the pass was not closed")
			}
		})
	}
}

// A record that comes into the ring while a part of the walk is made comes after that part.
func TestWalkComesBeforeLaterRingRecords(t *testing.T) {
	f := newFakeRing(4096)
	var got []string
	pass := &parts{pieces: [][]byte{[]byte("walk"), []byte("more")}, err: io.EOF}
	r := New(Options{RecordSize: 4, Walk: func() (io.ReadCloser, error) { return pass, nil }})
	r.mem = f.mapping
	r.handle = func(b []byte) error {
		got = append(got, string(b))
		if string(b) == "walk" {
			f.put([]byte("end of a connection"), 0)
		}
		return nil
	}
	r.walk()
	if want := "walk,end of a connection,more"; strings.Join(got, ",") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestBooksBalance(t *testing.T) {
	f := newFakeRing(4096)
	r := New(Options{})
	r.mem = f.mapping
	r.handle = func(b []byte) error {
		if string(b) == "bad" {
			return errors.New("bad record")
		}
		return nil
	}
	f.put([]byte("good"), 0)
	f.put([]byte("bad"), 0)
	f.put([]byte("gone"), flagGone)
	r.readTo(f.producer())
	if got, want := r.Stats(), (Stats{Read: 2, Invalid: 1, Discarded: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// The kernel side is told to wake us only after the ring has been empty for Poll, however short the beats in between.
func TestRestsWhenTheRingWasEmptyForPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		f := newFakeRing(4096)
		r := New(Options{Poll: 200 * time.Millisecond, Rest: func() error { told++; return nil }})
		r.mem, r.handle, r.moved = f.mapping, func([]byte) error { return nil }, time.Now()
		for _, step := range []struct {
			after   time.Duration
			comes   bool
			resting bool
		}{
			{0, false, false},
			{150 * time.Millisecond, true, false},
			{60 * time.Millisecond, false, false},
			{139 * time.Millisecond, false, false},
			{time.Millisecond, false, true},
			{time.Hour, false, true},
			{0, true, false},
			{200 * time.Millisecond, false, true},
		} {
			time.Sleep(step.after)
			if step.comes {
				f.put([]byte("record"), 0)
			}
			r.readTo(f.producer())
			if r.rest(); r.resting != step.resting {
				t.Errorf("after %v more: resting %t", step.after, r.resting)
			}
		}
		if told != 2 {
			t.Errorf("the kernel side was told %d times", told)
		}
	})
}
