package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
)

// entry is one line of a replayer's journal. A batch has one before the spool gets it, and one after it, which says whether the spool promised to keep it.
type entry struct {
	Run    string `json:"r"`
	Seq    uint64 `json:"s"`
	Rows   int    `json:"n"`
	Tx     uint64 `json:"t"`
	Rx     uint64 `json:"x"`
	Kept   bool   `json:"k,omitempty"`  // on a disk that was well: a kill loses nothing of it
	Sealed int64  `json:"at,omitempty"` // when the spool had it, ns since 1970
}

// batchKey names a batch for ever.
type batchKey struct {
	Run string
	Seq uint64
}

// journal is what a replayer wrote down, over all its lives.
type journal struct {
	path    string
	offset  int64
	batches map[batchKey]entry
}

// read takes what is new.
func (j *journal) read() error {
	f, err := os.Open(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(j.offset, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // what has no end yet is read the next time
		}
		if err != nil {
			return err
		}
		j.offset += int64(len(line))
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		j.batches[batchKey{e.Run, e.Seq}] = e
	}
}
