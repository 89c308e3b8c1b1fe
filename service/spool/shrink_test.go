package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// sum makes one batch of many: its body lists what is in it, its rows are one for each.
func sum(in []Batch) ([]Batch, error) {
	var list []byte
	for _, b := range in {
		list = append(list, covers(b.Body)...)
	}
	if len(list) >= 200*len(in) {
		return nil, errors.New("this saves nothing")
	}
	return []Batch{{Run: in[0].Run, Seq: in[0].Seq, Rows: uint32(len(in)), Body: append([]byte("sum"), list...)}}, nil
}

// covers lists which batches a body stands for, 8 bytes each.
func covers(body []byte) []byte {
	if string(body[:3]) == "sum" {
		return body[3:]
	}
	return body[3:11]
}

func single(seq uint64) []byte {
	b := append([]byte("one"), make([]byte, 400)...)
	binary.LittleEndian.PutUint64(b[3:], seq)
	return b
}

// hold seals n batches; ids go on over runs.
func (r *running) hold(id *uint64, n int) {
	for range n {
		r.seq++
		*id++
		r.Append(r.seq, 10, single(*id))
	}
}

// seen notes as what each batch comes out, alone or in a sum, and settles n. The same may come again after a kill, but never as something else.
func (r *running) seen(as map[uint64]string, n int) {
	r.t.Helper()
	for range n {
		b, ok := r.Next(1 << 30)
		if !ok {
			return
		}
		is := fmt.Sprintf("%s %s/%d", b.Body[:3], b.Run, b.Seq)
		for list := covers(b.Body); len(list) > 0; list = list[8:] {
			id := binary.LittleEndian.Uint64(list)
			if was := as[id]; was != "" && was != is {
				r.t.Fatalf("batch %d came as %s and as %s", id, was, is)
			}
			as[id] = is
		}
		r.Ack(b.Run, b.Seq, b.Seq)
	}
}

func shrinking(fs FS, run string) Config {
	c := simulated(fs, run)
	c.MaxBytes, c.SegmentBytes, c.Shrink = 256<<10, 32<<10, sum
	return c
}

// TestAFullSpoolShrinks: what would overflow is summed up first, and only when all is summed up the oldest goes.
func TestAFullSpoolShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, shrinking(newSim(1, 0), "a"))
		synctest.Wait()
		var id uint64
		r.hold(&id, 2000) // 800 kB into 256
		synctest.Wait()
		s := r.balanced()
		if s.Dropped[OverflowSize].Rows != 0 || s.RolledUp.Batches < 1300 || s.Rollups.Batches > 50 || s.DiskBytes > 256<<10 {
			t.Errorf("%+v", s)
		}
		as := map[uint64]string{}
		r.seen(as, 1<<20)
		if uint64(len(as)) != id {
			t.Errorf("%d of %d batches came", len(as), id)
		}
		r.hold(&id, 20000)
		synctest.Wait()
		if s := r.balanced(); s.Dropped[OverflowSize].Rows == 0 {
			t.Errorf("nothing was dropped: %+v", s)
		}
	})
}

// TestAcknowledgedGoesFirst: what is kept for Recall makes room before anything that nobody has is summed up or dropped.
func TestAcknowledgedGoesFirst(t *testing.T) {
	for name, shrink := range map[string]func([]Batch) ([]Batch, error){"shrinking": sum, "dropping": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := shrinking(newSim(1, 0), "a")
				c.KeepAcked, c.Shrink = time.Minute, shrink
				r := start(t, c)
				synctest.Wait()
				var id uint64
				r.hold(&id, 500) // 218 kB of 256
				r.Ack("a", 100, 450)
				r.hold(&id, 300)
				synctest.Wait()
				s := r.balanced()
				if s.Dropped[OverflowSize].Batches != 0 || s.RolledUp.Batches != 0 || s.DiskBytes > 256<<10 {
					t.Errorf("%d dropped, %d rolled up, %d bytes", s.Dropped[OverflowSize].Batches, s.RolledUp.Batches, s.DiskBytes)
				}
			})
		})
	}
}

// TestWhatWasHandedOutIsNotShrunk: the collector may have it, and would count it twice.
func TestWhatWasHandedOutIsNotShrunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, shrinking(newSim(1, 0), "a"))
		synctest.Wait()
		var id uint64
		r.hold(&id, 50)
		synctest.Wait()
		for range 50 {
			r.Next(1 << 30)
		}
		r.Restart()
		r.hold(&id, 1500)
		synctest.Wait()
		count := map[uint64]int{}
		for {
			b, ok := r.Next(1 << 30)
			if !ok {
				break
			}
			if first := binary.LittleEndian.Uint64(covers(b.Body)); string(b.Body[:3]) == "sum" && first <= 50 {
				t.Errorf("batch %d is in a sum", first)
			}
			for list := covers(b.Body); len(list) > 0; list = list[8:] {
				count[binary.LittleEndian.Uint64(list)]++
			}
		}
		for seq, n := range count {
			if n != 1 {
				t.Errorf("batch %d came %d times", seq, n)
			}
		}
		r.balanced()
	})
}

// TestShrinkingAndCrashes: kills and power cuts at any time, full and failing disks: nothing comes both alone and in a sum, or in two.
func TestShrinkingAndCrashes(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			disk, rng := newSim(seed, 0), rand.New(rand.NewPCG(seed, 3))
			var id uint64
			as := map[uint64]string{}
			for run := range 5 {
				r := start(t, shrinking(disk, fmt.Sprint("run", run)))
				synctest.Wait()
				for range rng.IntN(12) {
					switch rng.IntN(8) {
					case 0:
						time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
					case 1:
						disk.mu.Lock()
						disk.capacity = disk.used() + rng.IntN(8000)
						disk.mu.Unlock()
					case 2:
						disk.heal()
					case 3:
						r.seen(as, rng.IntN(60))
					case 4:
						r.Restart()
					default:
						r.hold(&id, rng.IntN(400))
					}
				}
				r.balanced()
				if rng.IntN(2) == 0 {
					disk.cut()
				} else {
					disk.kill()
				}
				r.stop()
				disk.heal()
			}
			r := start(t, shrinking(disk, "last"))
			time.Sleep(10 * time.Second)
			synctest.Wait()
			r.seen(as, 1<<20)
			r.balanced()
			r.stop()
		})
	}
}

// TestAFullMemoryShrinks: without a disk the same holds for what is kept in memory.
func TestAFullMemoryShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := shrinking(nil, "a")
		c.FS, c.MemoryBytes = nil, 256<<10
		r := start(t, c)
		synctest.Wait()
		var id uint64
		r.hold(&id, 30)
		for range 20 {
			r.Next(1 << 30) // under way
		}
		r.hold(&id, 1500)
		s := r.balanced()
		if s.Pending.Rows != s.InMemory.Rows || s.RolledUp.Batches < 700 || s.MemoryBytes > 256<<10 || s.Dropped[MemoryNoDisk].Rows != 0 {
			t.Errorf("%+v", s)
		}
		r.Restart()
		as := map[uint64]string{}
		r.seen(as, 1<<20)
		if uint64(len(as)) != id {
			t.Errorf("%d of %d batches came", len(as), id)
		}
		r.hold(&id, 30000)
		if s := r.balanced(); s.Dropped[MemoryNoDisk].Rows == 0 || s.MemoryBytes > 256<<10 {
			t.Errorf("%+v", s)
		}
	})
}
