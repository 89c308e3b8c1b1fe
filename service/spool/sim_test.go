package spool

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sim is a file system that can do to its files what real ones do in a power cut: it forgets what was not synced, tears it
// in sectors, forgets names; and it fills, fails and is flipped.
type sim struct {
	mu       sync.Mutex
	rng      *rand.Rand
	files    map[string]*simFile
	durable  map[string]*simFile // the names as of the last Sync of the directory
	capacity int                 // 0: none
	locked   bool
	word     simFile       // what is in the lock file
	mounted  int           // counts boots: files opened before a crash are dead
	stuck    time.Duration // how long a write takes
	fail     error         // what every write and creation says
	readOnly bool
}

type simFile struct {
	data   []byte // what a reader sees
	synced []byte // what survives for certain
}

func newSim(seed uint64, capacity int) *sim {
	return &sim{rng: rand.New(rand.NewPCG(seed, 7)), files: map[string]*simFile{}, durable: map[string]*simFile{}, capacity: capacity}
}

// simulated is a small spool on a simulated file system and the clock of the bubble.
func simulated(fs FS, run string) Config {
	c := config(fs, run)
	began := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	c.Clock = Clock{Wall: time.Now, Boot: func() time.Duration { return time.Since(began) + time.Hour }}
	return c
}

// kill ends the process: the page cache stays.
func (m *sim) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mounted++
	m.locked = false
}

const sector = 512

// cut is a power cut.
func (m *sim) cut() {
	m.kill()
	m.mu.Lock()
	defer m.mu.Unlock()
	names := map[string]*simFile{}
	for _, name := range slices.Sorted(keys(m.durable, m.files)) {
		was, is := m.durable[name], m.files[name]
		switch {
		case was == is, is != nil && m.rng.IntN(2) == 0:
			names[name] = is
		case was != nil && m.rng.IntN(2) == 0:
			names[name] = was // a removal is forgotten
		}
	}
	for _, name := range slices.Sorted(keys(names)) {
		m.forget(names[name])
	}
	m.files = names
	m.durable = clone(names)
}

// forget keeps of the unsynced bytes of a file some sectors, others are zero, and the file has any length from synced to now.
func (m *sim) forget(f *simFile) {
	if f == nil {
		return
	}
	size := len(f.synced)
	if more := len(f.data) - size; more > 0 {
		size += m.rng.IntN(more + 1)
	}
	after := make([]byte, size)
	copy(after, f.synced)
	for at := 0; at < size; at += sector {
		end := min(at+sector, size)
		if end > len(f.synced) && m.rng.IntN(3) > 0 {
			copy(after[max(at, len(f.synced)):end], f.data[max(at, len(f.synced)):end])
		}
	}
	f.data, f.synced = after, slices.Clone(after)
}

// flip changes a bit behind the head of a file. It returns false if there is none.
func (m *sim) flip() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var candidates []*simFile
	for _, name := range slices.Sorted(keys(m.files)) {
		if f := m.files[name]; len(f.data) > slotBytes && len(f.data) == len(f.synced) {
			candidates = append(candidates, f)
		}
	}
	if len(candidates) == 0 {
		return false
	}
	f := candidates[m.rng.IntN(len(candidates))]
	at, bit := slotBytes+m.rng.IntN(len(f.data)-slotBytes), byte(1)<<m.rng.IntN(8)
	f.data[at] ^= bit
	f.synced[at] ^= bit
	return true
}

func keys(maps ...map[string]*simFile) func(func(string) bool) {
	all := map[string]bool{}
	for _, m := range maps {
		for k := range m {
			all[k] = true
		}
	}
	return func(yield func(string) bool) {
		for k := range all {
			if !yield(k) {
				return
			}
		}
	}
}

func clone(m map[string]*simFile) map[string]*simFile {
	c := map[string]*simFile{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

func (m *sim) used() (n int) {
	for _, f := range m.files {
		n += len(f.data)
	}
	return n
}

type simLock struct{ *simHandle }

func (m *sim) Lock() (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.readOnly {
		return nil, unix.EROFS
	}
	if m.locked {
		return nil, ErrLocked
	}
	m.locked = true
	return simLock{&simHandle{m, &m.word, m.mounted}}, nil
}

func (l simLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.mounted == l.m.mounted {
		l.m.locked = false
	}
	return nil
}

func (m *sim) List() (infos []FileInfo, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, f := range m.files {
		infos = append(infos, FileInfo{Name: name, Size: int64(len(f.data))})
	}
	return infos, nil
}

func (m *sim) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	if m.files[name] != nil {
		return nil, fs.ErrExist
	}
	m.files[name] = &simFile{}
	return &simHandle{m, m.files[name], m.mounted}, nil
}

func (m *sim) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &simHandle{m, m.files[name], m.mounted}, nil
}

func (m *sim) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[to] = m.files[from]
	delete(m.files, from)
	return nil
}

func (m *sim) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
	return nil
}

func (m *sim) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.durable = clone(m.files)
	return nil
}

type simHandle struct {
	m       *sim
	f       *simFile
	mounted int
}

var errDead = errors.New("the process that opened this is dead")

func (h *simHandle) ReadAt(p []byte, off int64) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if off >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *simHandle) WriteAt(off int64, parts ...[]byte) error {
	h.m.mu.Lock()
	stuck := h.m.stuck
	h.m.mu.Unlock()
	if stuck > 0 {
		time.Sleep(stuck)
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.mounted != h.m.mounted {
		return errDead
	}
	if h.m.fail != nil {
		return h.m.fail
	}
	for _, p := range parts {
		more := int(off) + len(p) - len(h.f.data)
		if h.m.capacity > 0 && h.m.used()+more > h.m.capacity {
			h.write(off, p[:min(len(p), h.m.rng.IntN(max(0, h.m.capacity-h.m.used())+1))]) // a part is written
			return unix.ENOSPC
		}
		h.write(off, p)
		off += int64(len(p))
	}
	return nil
}

func (h *simHandle) write(off int64, p []byte) {
	if end := int(off) + len(p); end > len(h.f.data) {
		h.f.data = append(h.f.data, make([]byte, end-len(h.f.data))...)
	}
	copy(h.f.data[off:], p)
}

func (h *simHandle) Truncate(size int64) error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.mounted != h.m.mounted {
		return errDead
	}
	h.f.data = h.f.data[:size]
	h.f.synced = h.f.synced[:min(size, int64(len(h.f.synced)))]
	return nil
}

func (h *simHandle) Sync() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.mounted != h.m.mounted {
		return errDead
	}
	if h.m.fail != nil {
		return h.m.fail
	}
	h.f.synced = slices.Clone(h.f.data)
	return nil
}

func (h *simHandle) Close() error { return nil }
