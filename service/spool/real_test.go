package spool

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"tributary/service/testenv"
)

const writerEnv = "SPOOL_TEST_WRITER" // "DIR RUN": this process is the writer of TestKill

// TestMain makes the test binary the writer that is killed.
func TestMain(m *testing.M) {
	if to := os.Getenv(writerEnv); to != "" {
		writeUntilKilled(to)
	}
	os.Exit(m.Run())
}

// writeUntilKilled appends batches, and says after each that it is in the spool. It acknowledges some as they come.
func writeUntilKilled(to string) {
	var dir, run string
	if _, err := fmt.Sscan(to, &dir, &run); err != nil {
		panic(err)
	}
	c := config(Dir(dir), run)
	c.MaxBytes, c.MemoryBytes, c.SegmentBytes = 256<<20, 64<<20, 256<<10
	s, err := New(c, prometheus.NewRegistry(), quiet())
	if err != nil {
		panic(err)
	}
	go s.Run(make(never))
	for s.Stats().State != DiskOK {
		time.Sleep(100 * time.Microsecond)
	}
	for seq := uint64(1); ; seq++ {
		s.Append(seq, 10, body(run, seq, 1000+int(seq*7919)%20000))
		if seq%3 == 0 {
			if b, ok := s.Next(1 << 30); ok {
				fmt.Println("acked", b.Run, b.Seq) // said before: a kill in between must not look like a loss
				s.Ack(b.Run, b.Seq, b.Seq)
			}
		}
		if s.Stats().InMemory.Batches == 0 { // a disk that is slow for a moment is not waited for: that is no promise
			fmt.Println("sealed", run, seq)
		}
	}
}

// never is a context that does not end.
type never chan struct{}

func (never) Deadline() (time.Time, bool) { return time.Time{}, false }
func (n never) Done() <-chan struct{}     { return n }
func (never) Err() error                  { return nil }
func (never) Value(any) any               { return nil }

// TestKill kills a writer again and again and looks for what it said was sealed: every other one at any moment of its start, the rest at work.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("60 kills take some seconds")
	}
	dir := t.TempDir()
	sealed, acked := map[string]bool{}, map[string]bool{}
	for kill := range 60 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s run-%d", writerEnv, dir, kill))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		soon := func() {
			time.AfterFunc(time.Duration(5+rand.IntN(60))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
		working := sync.OnceFunc(soon)
		if kill%2 == 0 {
			soon()
			working = func() {}
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			working()
			var what, run string
			var seq uint64
			if n, _ := fmt.Sscan(lines.Text(), &what, &run, &seq); n < 3 {
				break // cut in the middle
			}
			map[string]map[string]bool{"sealed": sealed, "acked": acked}[what][fmt.Sprintf("%s/%d", run, seq)] = true
		}
		_ = cmd.Wait() // it was killed
	}
	c := config(Dir(dir), "reader")
	c.MaxBytes = 256 << 20
	a := start(t, c).scanned()
	found := map[string]bool{}
	for _, key := range a.all() {
		found[key] = true
	}
	missing := 0
	for key := range sealed {
		if !found[key] && !acked[key] {
			missing++
		}
	}
	s := a.balanced()
	t.Logf("%d batches sealed, %d acknowledged, %d found; torn %d, damaged %v", len(sealed), len(acked), len(found), s.Dropped[Torn].Batches, s.Damaged)
	if missing > 0 || len(sealed) < 60 {
		t.Fatalf("%d of %d sealed batches are missing after 60 kills", missing, len(sealed))
	}
	if s.Dropped[Corrupt].Batches > 0 || s.Damaged[Corrupt] > 0 {
		t.Fatalf("kills damaged whole records: %+v", s)
	}
}

// tmpfs mounts a small file system.
func tmpfs(t testing.TB, size string) string {
	t.Helper()
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size="+size); err != nil {
		testenv.Skip(t, "a tmpfs cannot be mounted here: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAFullRealDisk(t *testing.T) {
	dir := tmpfs(t, "2m")
	c := config(Dir(filepath.Join(dir, "spool")), "a")
	c.MaxBytes, c.SegmentBytes, c.MemoryBytes, c.SyncEvery, c.RetryEvery = 64<<20, 256<<10, 8<<20, 20*time.Millisecond, 50*time.Millisecond
	a := start(t, c).scanned()
	ballast := filepath.Join(dir, "ballast")
	got := map[string]bool{}
	for round := range 20 {
		if err := os.WriteFile(ballast, make([]byte, 300<<10), 0o600); err != nil && round == 0 {
			t.Fatal(err)
		}
		a.append(20, 70000) // 1.4 MB of 2 MB
		if round%2 == 0 {
			_ = os.Remove(ballast)
		}
		for range 20 {
			b, ok := a.Next(1 << 30)
			if !ok {
				t.Fatal("nothing to send")
			}
			a.check(b)
			got[fmt.Sprint(b.Seq)] = true
			a.Ack("a", b.Seq, b.Seq)
		}
	}
	a.append(40, 70000)
	s := a.balanced()
	if s.State != DiskFull || s.InMemory.Batches == 0 || s.DiskErrors == 0 {
		t.Fatalf("the disk was never full: %+v", s)
	}
	_ = os.Remove(ballast)
	for _, key := range a.all() {
		got[key[2:]] = true
	}
	if len(got) != 440 {
		t.Fatalf("%d of 440 batches came back", len(got))
	}
	a.stop()
	left := a.balanced().Pending.Batches
	b := start(t, config(Dir(filepath.Join(dir, "spool")), "b")).scanned()
	if s := b.balanced(); s.Recovered.Batches < left || s.Dropped[Torn].Batches+s.Dropped[Corrupt].Batches+s.Damaged[Torn]+s.Damaged[Corrupt] > 0 {
		t.Fatalf("%d batches were left: %+v", left, s)
	}
	b.all()
}

func TestAReadOnlyDisk(t *testing.T) {
	dir := tmpfs(t, "1m")
	spool := filepath.Join(dir, "spool")
	a := start(t, config(Dir(spool), "a")).scanned()
	a.append(3, 1000)
	a.stop()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	c := config(Dir(spool), "b")
	c.SyncEvery, c.RetryEvery = 10*time.Millisecond, 20*time.Millisecond
	b := start(t, c)
	b.append(3, 1000)
	same(t, "in memory", b.all(), names("b", 1, 3))
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	b.scanned()
	same(t, "when it is writable", b.all(), names("a", 1, 3))
	b.stop()
	if s := b.balanced(); s.InMemory.Batches != 0 || s.Pending.Batches != 6 {
		t.Fatalf("%+v", s)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	dir := left(t, 6, "host-a")
	edit(t, filepath.Join(dir, fileName(1, kindSegment)), func(b []byte) []byte { b[recordsAt+100] ^= 1; return b })
	s, err := New(config(Dir(dir), "a"), registry, quiet())
	if err != nil {
		t.Fatal(err)
	}
	a := &running{Spool: s, t: t, cancel: func() {}, done: make(chan struct{})}
	a.append(4, 1000)
	zero := metrics(t, registry)
	end := make(never)
	defer close(end)
	go s.Run(end)
	a.scanned()
	for s.Stats().InMemory.Batches > 0 {
		time.Sleep(time.Millisecond)
	}
	a.all()
	a.Ack("old", 2, 4)
	a.Reject("a", 1, "no")
	got := metrics(t, registry)
	for name := range got {
		if _, ok := zero[name]; !ok {
			t.Errorf("%s is not there from the start", name)
		}
	}
	delete(got, "oldest_pending_seconds")
	delete(got, "syncs_total")
	for name, v := range got {
		if v == 0 {
			delete(got, name)
		}
	}
	same(t, "metrics", got, map[string]float64{
		"taken_rows_total sealed": 40, "taken_rows_total recovered": 60, "acked_rows_total": 30, "rejected_rows_total": 10,
		"dropped_rows_total corrupt": 10, "pending_rows": 50, "pending_batches": 5, "disk_ok": 1,
		"batches_total sealed": 4, "batches_total recovered": 6, "batches_total acked": 3, "batches_total rejected": 1, "batches_total dropped": 1,
		"disk_bytes": 2*recordsAt + 10*1032, "segments": 2, "quarantined_batches_total kept": 1,
	})
}

func metrics(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()[len("tributary_exporter_spool_"):]
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return got
}

func BenchmarkSpool(b *testing.B) {
	const rows, size = 1000, 70000
	payload := bytes.Repeat(body("a", 1, 1000), size/1000)
	for _, mode := range []string{"append", "append+send+ack"} {
		b.Run(mode, func(b *testing.B) {
			c := Default()
			c.FS, c.Run, c.Host = Dir(b.TempDir()), "a", "host-a"
			a := start(b, c).scanned()
			before := cpu()
			b.ResetTimer()
			for i := range b.N {
				a.Append(uint64(i+1), rows, payload)
				if mode != "append" {
					got, _ := a.Next(1 << 30)
					a.Ack("a", got.Seq, got.Seq)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu()-before)/float64(b.N)/rows, "cpu-ns/row")
		})
	}
}

// cpu returns the process's CPU time in ns.
func cpu() int64 {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return r.Utime.Nano() + r.Stime.Nano()
}

// BenchmarkStart measures from Run to the first batch with 256 MiB left by an earlier run, and until all is known.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	c := Default()
	c.FS, c.Run, c.Host = Dir(dir), "a", "host-a"
	a := start(b, c).scanned()
	payload := bytes.Repeat(body("a", 1, 1000), 70)
	for seq := uint64(1); a.Stats().DiskBytes < c.MaxBytes-(1<<20); seq++ {
		a.Append(seq, 1000, payload)
	}
	a.stop()
	var first, all, heap float64
	for range b.N {
		cold(b, dir)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		began := time.Now()
		c.Run += "b"
		s := start(b, c)
		<-s.Ready()
		if _, ok := s.Next(1 << 30); !ok {
			b.Fatal("no batch")
		}
		first += time.Since(began).Seconds()
		s.scanned()
		all += time.Since(began).Seconds()
		runtime.GC()
		runtime.ReadMemStats(&after)
		heap += float64(after.HeapAlloc) - float64(before.HeapAlloc)
		s.stop()
	}
	b.ReportMetric(first/float64(b.N)*1e3, "first-ms")
	b.ReportMetric(all/float64(b.N)*1e3, "all-ms")
	b.ReportMetric(heap/float64(b.N)/1024, "heap-KiB")
}

// cold takes the files out of the page cache.
func cold(b *testing.B, dir string) {
	for _, name := range files(b, dir) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			b.Fatal(err)
		}
		_ = unix.Fdatasync(int(f.Fd()))
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
	}
}
