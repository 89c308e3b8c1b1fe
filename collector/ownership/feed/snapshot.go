package feed

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
)

// snapshotMagic begins the file: a line of its own. A line of JSON (header), one of JSON for each exporter_id that belongs to somebody (session.Owned),
// the table's snapshot and the CRC-32C of all follow.
const snapshotMagic = "tributary ownership snapshot 1\n"

type header struct {
	SavedAt time.Time `json:"saved_at"`
	Topic   string    `json:"topic"`
	Offsets []int64   `json:"offsets"` // where reading goes on, by partition
	Owned   int       `json:"owned"`   // how many lines follow
}

// Restored is what a snapshot had beside the table.
type Restored struct {
	Offsets []int64 // of the topic, to read on from
	Owned   []session.Owned
}

// Save writes what the table knows, and beside, to path, whole or not at all. Offsets are the feed's, taken before; nil for a node that stands alone.
func Save(path, topic string, table *ownership.Table, beside Restored, now time.Time) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("snapshot of ownership: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
			err = fmt.Errorf("snapshot of ownership: %w", err)
		}
	}()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	w := io.MultiWriter(f, sum)
	if err = saveHead(w, &header{SavedAt: now, Topic: topic, Offsets: beside.Offsets, Owned: len(beside.Owned)}, beside.Owned); err != nil {
		return err
	}
	if err = table.Snapshot(w); err != nil {
		return err
	}
	if err = binary.Write(f, binary.BigEndian, sum.Sum32()); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func saveHead(w io.Writer, h *header, owned []session.Owned) error {
	b := bufio.NewWriter(w)
	_, _ = b.WriteString(snapshotMagic) // Flush has its error
	lines := json.NewEncoder(b)
	if err := lines.Encode(h); err != nil {
		return err
	}
	for i := range owned {
		if err := lines.Encode(&owned[i]); err != nil {
			return err
		}
	}
	return b.Flush()
}

// errDamaged says that a file is no snapshot, or not all of one.
var errDamaged = errors.New("the file is damaged or of another version")

// Restore fills an empty table from the snapshot at path, unless that is older than maxAge, and returns what was beside it. No file is no error, and
// nothing restored. After an error nothing, or only a part, is in the table: make a new one.
func Restore(path, topic string, table *ownership.Table, maxAge time.Duration, now time.Time) (beside *Restored, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot of ownership: %w", err)
	}
	defer f.Close()
	size, err := verify(f)
	if err != nil {
		return nil, fmt.Errorf("snapshot of ownership %s: %w", path, err)
	}
	r := bufio.NewReaderSize(io.LimitReader(f, size-crc32.Size), 64<<10)
	h, err := readHeader(r)
	if err != nil {
		return nil, fmt.Errorf("snapshot of ownership %s: %w", path, err)
	}
	if age := now.Sub(h.SavedAt); h.Topic != topic || age > maxAge || age < -time.Minute {
		return nil, nil
	}
	beside = &Restored{Offsets: h.Offsets}
	if beside.Owned, err = readOwned(r, h.Owned); err != nil {
		return nil, fmt.Errorf("snapshot of ownership %s: %w", path, err)
	}
	if err := table.Restore(r); err != nil {
		return nil, fmt.Errorf("snapshot of ownership %s: %w", path, err)
	}
	return beside, nil
}

func readOwned(r *bufio.Reader, count int) (owned []session.Owned, err error) {
	for range count {
		line, err := r.ReadSlice('\n')
		var o session.Owned
		if err != nil || json.Unmarshal(line, &o) != nil {
			return nil, errDamaged
		}
		owned = append(owned, o)
	}
	return owned, nil
}

// verify compares the checksum and goes back to the beginning.
func verify(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	if !info.Mode().IsRegular() || size < int64(len(snapshotMagic))+crc32.Size {
		return 0, errDamaged
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if _, err := io.CopyN(sum, f, size-crc32.Size); err != nil {
		return 0, err
	}
	var want uint32
	if err := binary.Read(f, binary.BigEndian, &want); err != nil {
		return 0, err
	}
	if want != sum.Sum32() {
		return 0, errDamaged
	}
	_, err = f.Seek(0, io.SeekStart)
	return size, err
}

func readHeader(r *bufio.Reader) (h header, err error) {
	for _, want := range []string{snapshotMagic, ""} {
		line, err := r.ReadSlice('\n')
		switch {
		case err != nil, want != "" && string(line) != want:
			return h, errDamaged
		case want == "":
			if json.Unmarshal(line, &h) != nil {
				return h, errDamaged
			}
		}
	}
	return h, nil
}
