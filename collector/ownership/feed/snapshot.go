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
)

// snapshotMagic begins the file: a line of its own. A line of JSON (header), the table's snapshot and the CRC-32C of all follow.
const snapshotMagic = "tributary ownership snapshot 1\n"

type header struct {
	SavedAt time.Time `json:"saved_at"`
	Topic   string    `json:"topic"`
	Offsets []int64   `json:"offsets"` // where reading goes on, by partition
}

// Save writes what the table knows to path, whole or not at all. offsets are the feed's, taken before; nil for a node that stands alone.
func Save(path, topic string, table *ownership.Table, offsets []int64, now time.Time) (err error) {
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
	head, err := json.Marshal(header{SavedAt: now, Topic: topic, Offsets: offsets})
	if err != nil {
		return err
	}
	if _, err = fmt.Fprintf(w, "%s%s\n", snapshotMagic, head); err != nil {
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

// errDamaged says that a file is no snapshot, or not all of one.
var errDamaged = errors.New("the file is damaged or of another version")

// Restore fills an empty table from the snapshot at path, unless that is older than maxAge, and returns the offsets of the topic to read on from. No file
// is no error. After an error nothing, or only a part, is in the table: make a new one.
func Restore(path, topic string, table *ownership.Table, maxAge time.Duration, now time.Time) (offsets []int64, restored bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("snapshot of ownership: %w", err)
	}
	defer f.Close()
	size, err := verify(f)
	if err != nil {
		return nil, false, fmt.Errorf("snapshot of ownership %s: %w", path, err)
	}
	r := bufio.NewReaderSize(io.LimitReader(f, size-crc32.Size), 64<<10)
	h, err := readHeader(r)
	if err != nil {
		return nil, false, fmt.Errorf("snapshot of ownership %s: %w", path, err)
	}
	if age := now.Sub(h.SavedAt); h.Topic != topic || age > maxAge || age < -time.Minute {
		return nil, false, nil
	}
	if err := table.Restore(r); err != nil {
		return nil, false, fmt.Errorf("snapshot of ownership %s: %w", path, err)
	}
	return h.Offsets, true, nil
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
