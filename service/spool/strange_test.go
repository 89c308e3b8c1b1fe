package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// left writes a spool directory with batches 1 to n of run "old", each of 1000 bytes, six in a segment.
func left(t testing.TB, n int, host string) string {
	t.Helper()
	dir := t.TempDir()
	c := config(Dir(dir), "old")
	c.Host = host
	a := start(t, c).scanned()
	a.append(n, 1000)
	a.stop()
	return dir
}

func edit(t testing.TB, name string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func without(all []string, seqs ...int) []string {
	for _, seq := range seqs {
		all = slices.DeleteFunc(all, func(s string) bool { return s == fmt.Sprintf("old/%d", seq) })
	}
	return all
}

func TestDamageCostsOneRecord(t *testing.T) {
	const third = recordsAt + 2*(recordBytes+1000)
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 4; return b }
	}
	cases := []struct {
		name    string
		change  func([]byte) []byte
		lost    []int
		dropped Reason // 0: the damage is counted without rows
		damaged Reason
	}{
		{"nothing", func(b []byte) []byte { return b }, nil, 0, 0},
		{"first slot of the head", flip(30), nil, 0, 0},
		{"second slot of the head", flip(slotBytes + 30), nil, 0, 0},
		{"whole first slot", func(b []byte) []byte { clear(b[:slotBytes]); return b }, nil, 0, 0},
		{"a body", flip(third + recordBytes + 77), []int{3}, Corrupt, 0},
		{"a length", flip(third + 5), []int{3}, 0, Corrupt},
		{"a magic", flip(third), []int{3}, 0, Corrupt},
		{"a checksum", flip(third + 29), []int{3}, 0, Corrupt},
		{"a sequence number", flip(third + 16), []int{3}, 0, Corrupt},
		{"the first header", flip(recordsAt + 12), []int{1}, 0, Corrupt},
		{"the last header", flip(recordsAt + 5*(recordBytes+1000)), []int{6}, 0, Torn},
		{"torn in a body", func(b []byte) []byte { return b[:len(b)-1] }, []int{6}, Torn, 0},
		{"torn in a header", func(b []byte) []byte { return b[:recordsAt+5*(recordBytes+1000)+7] }, []int{6}, 0, Torn},
		{"torn behind the head", func(b []byte) []byte { return b[:recordsAt] }, []int{1, 2, 3, 4, 5, 6}, 0, 0},
		{"zeros at the end", func(b []byte) []byte { return append(b, make([]byte, 5000)...) }, nil, 0, Torn},
		{"a block of another time", func(b []byte) []byte {
			copy(b[third:third+1032], b[recordsAt:recordsAt+1032])
			return b
		}, []int{3}, 0, Corrupt},
		{"bytes inserted", func(b []byte) []byte { return slices.Insert(b, third, []byte("xyz")...) }, []int{3, 4, 5, 6}, 0, Torn},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := left(t, 18, "host-a")
			edit(t, filepath.Join(dir, fileName(1, kindSegment)), c.change)
			a := start(t, config(Dir(dir), "new")).scanned()
			same(t, "batches", a.all(), without(names("old", 1, 18), c.lost...))
			s := a.balanced()
			if c.dropped != 0 && s.Dropped[c.dropped] != (Count{1, 10}) || c.damaged != 0 && s.Damaged[c.damaged] != 1 {
				t.Fatalf("dropped %v, damaged %v", s.Dropped, s.Damaged)
			}
		})
	}
}

func TestFilesThatAreNotOursToSend(t *testing.T) {
	newer := func(b []byte) []byte {
		for _, slot := range [][]byte{b[:slotBytes], b[slotBytes:recordsAt]} {
			binary.LittleEndian.PutUint32(slot[8:], version+1)
			binary.LittleEndian.PutUint32(slot[16:], slotSum(slot, int(binary.LittleEndian.Uint32(slot[12:]))))
		}
		return b
	}
	cases := []struct {
		name  string
		file  string // what becomes of segment 1
		edit  func(b []byte) []byte
		state SegmentState
		kept  string
	}{
		{"newer version", "", newer, Newer, fileName(1, kindSegment)},
		{"rubbish", "", func(b []byte) []byte { clear(b[:recordsAt]); return b }, Headless, fileName(1, kindCorrupt)},
		{"empty", "", func([]byte) []byte { return nil }, Empty, ""},
		{"torn head", "", func(b []byte) []byte { return b[:60] }, Empty, ""},
		{"zeros", "", func(b []byte) []byte { return make([]byte, 2000) }, Empty, ""},
		{"a text", "", func(b []byte) []byte { return []byte("dear diary") }, Headless, fileName(1, kindCorrupt)},
		{"another name", "notes.txt", func(b []byte) []byte { return b }, Unknown, "notes.txt"},
		{"a huge number", "ffffffffffffffff.seg", func(b []byte) []byte { return b }, Unknown, "ffffffffffffffff.seg"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := left(t, 12, "host-a")
			first := filepath.Join(dir, fileName(1, kindSegment))
			edit(t, first, c.edit)
			if c.file != "" {
				if err := os.Rename(first, filepath.Join(dir, c.file)); err != nil {
					t.Fatal(err)
				}
			}
			a := start(t, config(Dir(dir), "new")).scanned()
			a.append(1, 1000)
			same(t, "batches", a.all(), append(names("old", 7, 12), "new/1"))
			if s := a.balanced(); s.Foreign[c.state] != 1 || s.State != DiskOK {
				t.Fatalf("files %v, state %v", s.Foreign, s.State)
			}
			a.Ack("old", 1, 99)
			a.Ack("new", 1, 99)
			a.stop()
			want := []string{"lock"}
			if c.kept != "" {
				want = append([]string{c.kept}, want...)
				slices.Sort(want)
			}
			same(t, "files", files(t, dir), want)
		})
	}
}

func TestWhatIsNoFileIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	for i, make := range []func(string) error{
		func(p string) error { return os.Mkdir(p, 0o700) },
		func(p string) error { return os.Symlink("/etc/passwd", p) },
		func(p string) error { return unix.Mkfifo(p, 0o600) },
	} {
		if err := make(filepath.Join(dir, fileName(uint64(i+1), kindSegment))); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Inspect(dir, "")
	if err != nil || len(r.Files) != 3 || r.Files[1].State != Unknown.String() {
		t.Fatalf("%+v, %v", r, err)
	}
	a := start(t, config(Dir(dir), "new")).scanned()
	a.append(1, 1000)
	if s := a.balanced(); s.Foreign[Unknown] != 3 || s.State != DiskOK {
		t.Fatalf("files %v, state %v", s.Foreign, s.State)
	}
	a.stop()
	same(t, "files", files(t, dir), []string{fileName(1, kindSegment), fileName(2, kindSegment), fileName(3, kindSegment), fileName(4, kindSegment), "lock"})
}

func TestAnotherHostsSegmentsAreLeftAlone(t *testing.T) {
	dir := left(t, 12, "host-b")
	a := start(t, config(Dir(dir), "new")).scanned()
	a.append(2, 1000)
	same(t, "batches", a.all(), names("new", 1, 2))
	a.Ack("new", 1, 2)
	a.stop()
	if s := a.balanced(); s.Foreign[Foreign] != 2 {
		t.Fatalf("%v", s.Foreign)
	}
	same(t, "files", files(t, dir), []string{fileName(1, kindSegment), fileName(2, kindSegment), "lock"})
}

func TestTwoExportersDoNotShareADirectory(t *testing.T) {
	dir := t.TempDir()
	c := config(Dir(dir), "a")
	c.RetryEvery, c.SyncEvery = 20*time.Millisecond, 10*time.Millisecond
	a := start(t, c).scanned()
	a.append(3, 1000)
	c.FS, c.Run = Dir(dir), "b"
	b := start(t, c)
	b.until("it meets the lock", func() bool { return errors.Is(b.Stats().Err, ErrLocked) })
	b.append(2, 1000)
	same(t, "second", b.all(), names("b", 1, 2))
	if s := b.Stats(); s.State != DiskNone || !errors.Is(s.Err, ErrLocked) {
		t.Fatalf("state %v, %v", s.State, s.Err)
	}
	a.stop()
	b.scanned() // takes the directory over when it becomes free
	same(t, "from the first", b.all(), names("a", 1, 3))
	b.balanced()
}

func TestNoUsableDirectoryMeansMemory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, fs := range map[string]FS{"none": nil, "a file": Dir(file), "read-only": &sim{readOnly: true}, "in proc": Dir("/proc/self/spool")} {
		t.Run(name, func(t *testing.T) {
			a := start(t, config(fs, "a"))
			a.append(3, 1000)
			same(t, "batches", a.all(), names("a", 1, 3))
			same(t, "rejected", a.Reject("a", 1, "no"), Count{1, 10})
			a.until("it has tried", func() bool { return !errors.Is(a.Stats().Err, errNotStarted) })
			s := a.balanced()
			if s.State != DiskNone || s.Err == nil || s.QuarantineErr != 1 {
				t.Fatalf("%v %v", s.State, s.Err)
			}
		})
	}
}

func TestAFileThatVanishesCostsWhatWasInIt(t *testing.T) {
	dir := t.TempDir()
	c := config(Dir(dir), "old")
	c.CacheBytes = 0
	a := start(t, c).scanned()
	a.append(18, 1000)
	if err := os.Remove(filepath.Join(dir, fileName(2, kindSegment))); err != nil {
		t.Fatal(err)
	}
	same(t, "batches", a.all(), without(names("old", 1, 18), 7, 8, 9, 10, 11, 12))
	if s := a.balanced(); s.Dropped[Unreadable] != (Count{6, 60}) {
		t.Fatalf("%v", s.Dropped)
	}
}

func TestASlowDiskHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSim(1, 0)
		a := start(t, simulated(m, "a"))
		synctest.Wait()
		m.stuck = time.Hour
		began := time.Now()
		a.append(100, 1000)
		if d := time.Since(began); d > 2*appendWait {
			t.Fatalf("100 batches waited %v for the disk", d)
		}
		s := a.balanced()
		if s.SlowWrites != 1 || s.Dropped[MemoryDiskSlow].Batches == 0 || s.MemoryBytes > a.config.MemoryBytes {
			t.Fatalf("%+v", s)
		}
		m.mu.Lock()
		m.stuck = 0
		m.mu.Unlock()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if s := a.balanced(); s.InMemory.Batches != 0 || s.Pending.Batches == 0 {
			t.Fatalf("not written when the disk was well again: %+v", s)
		}
		a.stop()
	})
}

func TestAFullDiskIsUsedAgainWhenThereIsSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newSim(3, 20000)
		a := start(t, simulated(m, "a"))
		synctest.Wait()
		a.append(40, 1000)
		s := a.balanced()
		if s.State != DiskFull || !errors.Is(s.Err, unix.ENOSPC) || s.InMemory.Batches == 0 || s.Pending.Batches != 40 {
			t.Fatalf("%+v", s)
		}
		for { // acknowledging frees whole segments, and the rest moves in
			b, ok := a.Next(1 << 30)
			if !ok || b.Seq > 12 {
				break
			}
			a.Ack("a", b.Seq, b.Seq)
		}
		synctest.Wait()
		if now := a.balanced(); now.InMemory.Batches >= s.InMemory.Batches {
			t.Fatalf("%d in memory before, %d after space was freed", s.InMemory.Batches, now.InMemory.Batches)
		}
		m.heal()
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := a.balanced(); s.State != DiskOK || s.InMemory.Batches != 0 {
			t.Fatalf("%+v", s)
		}
		a.stop()
	})
}

func TestInspectTellsWhatIsThere(t *testing.T) {
	dir := left(t, 12, "host-a")
	flip := func(b []byte) []byte { b[recordsAt+100] ^= 1; return b }
	edit(t, filepath.Join(dir, fileName(1, kindSegment)), flip)
	for name, text := range map[string]string{"notes.txt": "x", fileName(77, kindSegment): "rubbish\x1b[2J", fileName(78, kindSegment): ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Inspect(dir, "host-a")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.Write(&out, r.Total.Newest.Add(90*time.Second)); err != nil {
		t.Fatal(err)
	}
	got := strings.ReplaceAll(out.String(), dir, "DIR")
	want := `DIR: no exporter uses it
FILE                  STATE            BATCHES  ROWS  BYTES  OLDEST  NEWEST  DAMAGED  RUN  BATCH_SEQ  REASON
0000000000000001.seg  ready            5        50    8240   1m30s   1m30s   1        old  2-6        -
0000000000000002.seg  ready            6        60    8240   1m30s   1m30s   0        old  7-12       -
000000000000004d.seg  unreadable head  0        0     11     -       -       0        -    -          no readable head
000000000000004e.seg  empty            0        0     0      -       -       0        -    -          -
notes.txt             not ours         0        0     1      -       -       0        -    -          -
total to send                          11       110   16480  1m30s   1m30s   1        -    -          -
`
	same(t, "report", got, want)
	out.Reset()
	if err := r.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	same(t, "first line", lines[0], `{"file":"0000000000000001.seg","state":"ready","exporter_id":"old","host":"host-a","bytes":8240,"batches":5,`+
		`"rows":50,"first_seq":2,"last_seq":6,"oldest":"`+r.Files[0].Oldest.Format(time.RFC3339Nano)+`","newest":"`+r.Files[0].Newest.Format(time.RFC3339Nano)+`","damaged":1}`)
	same(t, "lines", len(lines), len(r.Files)+1)
	if r, err := Inspect(dir, "host-b"); err != nil || r.Total.Batches != 0 || r.Files[0].State != Foreign.String() {
		t.Fatalf("on another host: %+v %v", r, err)
	}
	if _, err := Inspect(filepath.Join(dir, "missing"), ""); err == nil {
		t.Fatal("a missing directory is no error")
	}
	start(t, config(Dir(dir), "new")).scanned()
	if r, err := Inspect(dir, ""); err != nil || runtime.GOOS == "linux" && r.Pid != os.Getpid() {
		t.Fatalf("in use by %d, %v", r.Pid, err)
	}
}

func FuzzScan(f *testing.F) {
	dir := left(f, 5, "host-a")
	b, err := os.ReadFile(filepath.Join(dir, fileName(1, kindSegment)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:recordsAt+40])
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := readHead(r)
		if err != nil {
			return
		}
		at := int64(recordsAt)
		err = scan(r, int64(len(b)), h.Nonce, func(rec record) {
			if rec.off < at || rec.end() > int64(len(b)) {
				t.Fatalf("record %+v at %d of %d", rec, at, len(b))
			}
			at = rec.end()
			_, _ = readBody(r, rec, h.Nonce)
		}, func(d damage) {
			if d.off < at || d.bytes <= 0 {
				t.Fatalf("damage %+v at %d", d, at)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
