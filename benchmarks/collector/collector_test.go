package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/proto/flow"
)

func TestTemplateIsFreshEachTime(t *testing.T) {
	const rows = 300
	p, err := newTemplate(newTraffic(makeWorld(), 1), flow.NewBuilder(rows), 3, rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, zstd := range []bool{false, true} {
		packer, err := newPacker(zstd)
		if err != nil {
			t.Fatal(err)
		}
		opener, err := flow.NewOpener()
		if err != nil {
			t.Fatal(err)
		}
		for _, first := range []uint32{firstFlowID, firstFlowID + 12_345, lastFlowID - rows} {
			now := time.Now().Add(time.Duration(first) * time.Millisecond).UnixNano()
			m := packer.batch(p, first, now)
			m.ExporterId, m.BatchSeq = "x", 1
			var b flow.Batch
			if err := opener.Open(m, &b); err != nil {
				t.Fatalf("zstd %v, first %d: %v", zstd, first, err)
			}
			seen := map[uint64]bool{}
			for row := range b.Rows {
				id, end := b.Get64(flow.FlowID, row), int64(b.Get64(flow.EndTimeNs, row))
				if seen[id] || id < uint64(first) || id >= uint64(first+rows) {
					t.Fatalf("flow id %d of row %d, first %d", id, row, first)
				}
				seen[id] = true
				if age := now - end; age < 0 || age > int64(500*time.Millisecond) {
					t.Fatalf("row %d ended %s before its batch was sealed", row, time.Duration(age))
				}
			}
		}
	}
}

func TestARoundMeetsEveryAddress(t *testing.T) {
	traffic, met := newTraffic(makeWorld(), 1), map[int]bool{}
	for range distinctRows {
		met[traffic.remote()] = true
	}
	if len(met) != addresses {
		t.Errorf("%d addresses of %d", len(met), addresses)
	}
}

func TestParseMetrics(t *testing.T) {
	got := parseMetrics("# HELP a b c\n# TYPE a counter\na 1\nb{x=\"y z\"} 2.5\nc{} 3e+06\n")
	if d := cmp.Diff(map[string]float64{"a": 1, `b{x="y z"}`: 2.5, "c{}": 3e6}, got); d != "" {
		t.Error(d)
	}
}

func TestCountingBodyReadsTheRows(t *testing.T) {
	block := binary.AppendUvarint(binary.AppendUvarint(nil, 76), 100_000)
	block = append(block, make([]byte, 5000)...)
	b := countingBody{ReadCloser: io.NopCloser(bytes.NewReader(block))}
	if _, err := io.Copy(io.Discard, &b); err != nil {
		t.Fatal(err)
	}
	if b.rows() != 100_000 || b.size != uint64(len(block)) {
		t.Errorf("%d rows in %d bytes", b.rows(), b.size)
	}
}

func TestConfigurations(t *testing.T) {
	o := &options{senders: "1,50", batches: "200", codecs: "zstd,none"}
	got, err := o.configurations()
	want := []configuration{{1, 200, "zstd"}, {1, 200, "none"}, {50, 200, "zstd"}, {50, 200, "none"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, bad := range []options{
		{senders: "51", batches: "200", codecs: "zstd"}, {senders: "1", batches: "0", codecs: "zstd"}, {senders: "1", batches: "1", codecs: "lz4"},
	} {
		if _, err := bad.configurations(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}
