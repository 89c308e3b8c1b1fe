package clickhouse

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"tributary/collector/schema"
	"tributary/proto/flow"
)

// day is the start of yesterday: old rows expire.
var day = uint64(time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour).UnixNano())

// makeBatch returns a batch in which every column of every row has a value that depends on the row and on seed. first is the first
// flow_id; all rows end on the day of base.
func makeBatch(seed, rows int, first, base uint64) *flow.Batch {
	b := &flow.Batch{Rows: rows}
	b.ExporterID, b.Host, b.BootID = fmt.Sprintf("run-%d", seed%5), fmt.Sprintf("host-%d", seed%5), "boot"
	b.Seq, b.ReceivedTimeNs = uint64(seed+1), int64(base)+int64(seed)
	b.Strings, b.AttrStrings, b.Addrs = []string{""}, []string{""}, [][16]byte{{}}
	for i := range 40 {
		b.Strings = append(b.Strings, fmt.Sprintf("text-%d-%d", seed%7, i))
		b.AttrStrings = append(b.AttrStrings, fmt.Sprintf("attr-%d-%d", seed%7, i))
	}
	for i := range 300 {
		b.Addrs = append(b.Addrs, netip.AddrFrom4([4]byte{10, byte(seed), byte(i >> 8), byte(i)}).As16())
	}
	for f := range flow.NumU32 {
		spec := f.Spec()
		most := uint64(1 << 20)
		switch spec.Type {
		case flow.TypeString:
			most = 40
		case flow.TypeAddr:
			most = 300
		}
		col := b.Make32(f)
		for i := range col {
			col[i] = uint32(uint64(i*(2*int(f)+3)+seed) % (min(spec.Max, most) + 1))
		}
	}
	for f := range flow.NumU64 {
		col := b.Make64(f)
		for i := range col {
			col[i] = uint64(i+seed) * uint64(f+1) << 10
		}
	}
	for i := range rows {
		b.U64[flow.FlowID][i] = first + uint64(i)
		b.U32[flow.RecordSeq][i] = 0
		b.U64[flow.EndTimeNs][i] = base + uint64(i)*1_000_003
		b.U64[flow.IntervalStartNs][i] = base + uint64(i)
		b.U64[flow.StartTimeNs][i] = base
		b.U64[flow.RemoteLastSeenNs][i] = base - uint64(i)
	}
	return b
}

// cell returns a row's value as TabSeparated would write it.
func cell(b *flow.Batch, f schema.Field, row int) string {
	stamp := func(ns uint64) string { return time.Unix(0, int64(ns)).UTC().Format("2006-01-02 15:04:05.000000000") }
	switch f.Source {
	case schema.ExporterID:
		return b.ExporterID
	case schema.Host:
		return b.Host
	case schema.BootID:
		return b.BootID
	case schema.BatchSeq:
		return fmt.Sprint(b.Seq)
	case schema.ReceivedTime:
		return stamp(uint64(b.ReceivedTimeNs))
	case schema.Column64:
		if f.U64.Spec().Type == flow.TypeTime {
			return stamp(b.Get64(f.U64, row))
		}
		return fmt.Sprint(b.Get64(f.U64, row))
	}
	switch spec := f.U32.Spec(); spec.Type {
	case flow.TypeString:
		return b.Text(f.U32, row)
	case flow.TypeAddr:
		a := b.Addr(f.U32, row)
		if a == ([16]byte{}) {
			return "::"
		}
		return netip.AddrFrom16(a).String()
	case flow.TypeEnum:
		return spec.Enum.Name(b.Get32(f.U32, row))
	case flow.TypeBool:
		return fmt.Sprint(b.Get32(f.U32, row) == 1)
	}
	return fmt.Sprint(b.Get32(f.U32, row))
}

// decodeBlock reads a posted body with ch-go's own reader and returns it as rows of text, with the columns' types.
func decodeBlock(t testing.TB, body []byte) (types map[string]string, rows []map[string]string) {
	t.Helper()
	var head proto.Block
	var columns proto.Results
	if err := head.DecodeRawBlock(proto.NewReader(bytes.NewReader(body)), 0, columns.Auto()); err != nil {
		t.Fatal(err)
	}
	types = map[string]string{}
	rows = make([]map[string]string, head.Rows)
	for i := range rows {
		rows[i] = map[string]string{}
	}
	for _, c := range columns {
		types[c.Name] = string(c.Data.Type())
		for i := range rows {
			rows[i][c.Name] = valueOf(t, c.Data, i)
		}
	}
	return types, rows
}

func valueOf(t testing.TB, c proto.ColResult, row int) string {
	t.Helper()
	if auto, ok := c.(*proto.ColAuto); ok {
		c = auto.Data
	}
	switch c := c.(type) {
	case *proto.ColLowCardinality[string]:
		return c.Row(row)
	case *proto.ColEnum:
		return c.Row(row)
	case *proto.ColUInt8:
		return fmt.Sprint(c.Row(row))
	case *proto.ColUInt16:
		return fmt.Sprint(c.Row(row))
	case *proto.ColUInt32:
		return fmt.Sprint(c.Row(row))
	case *proto.ColUInt64:
		return fmt.Sprint(c.Row(row))
	case *proto.ColBool:
		return fmt.Sprint(c.Row(row))
	case *proto.ColIPv6:
		return c.Row(row).ToIP().String()
	case *proto.ColDateTime64:
		return c.Row(row).UTC().Format("2006-01-02 15:04:05.000000000")
	}
	t.Fatalf("no way to read a %T", c)
	return ""
}

func TestBlockHasEveryValueAndTheTablesTypes(t *testing.T) {
	b, _ := newBlock()
	for round := range 2 { // the second round uses the memory of the first
		var want []*flow.Batch
		ticket := &ticket{}
		for i := range 10 { // more than 256 distinct strings: keys of 16 bits
			batch := makeBatch(i+round, 50+i, uint64(i*1000), day)
			if i == 3 {
				batch.U32, batch.U64 = [flow.NumU32][]uint32{}, [flow.NumU64][]uint64{} // everything is missing
			}
			b.add(batch, ticket)
			want = append(want, batch)
		}
		var buf proto.Buffer
		if err := b.encode(&buf); err != nil {
			t.Fatal(err)
		}
		types, rows := decodeBlock(t, buf.Buf)
		b.reset()
		row := 0
		for _, batch := range want {
			for i := range batch.Rows {
				for _, f := range schema.Fields() {
					if got, want := rows[row][f.Name], cell(batch, f, i); got != want {
						t.Fatalf("round %d row %d: %s is %q, want %q", round, row, f.Name, got, want)
					}
					if row == 0 && types[f.Name] != f.Type {
						t.Errorf("%s has type %s, want %s", f.Name, types[f.Name], f.Type)
					}
				}
				row++
			}
		}
		if row != len(rows) || len(types) != len(schema.Fields()) {
			t.Fatalf("%d rows of %d columns, want %d of %d", len(rows), len(types), row, len(schema.Fields()))
		}
	}
}

func TestKeysWidenWithTheDictionary(t *testing.T) {
	for _, distinct := range []int{1, 255, 256, 257, 65_535, 65_536, 65_537, 70_000} {
		c := newText(&scratch{}, func(b *flow.Batch) textSource { return textSource{rows: b.U32[flow.Comm], dict: b.Strings} })
		var want []string
		for done := 0; done < distinct; {
			n := min(1000, distinct-done)
			b := &flow.Batch{Rows: n, Strings: []string{""}}
			col := b.Make32(flow.Comm)
			for i := range n {
				b.Strings = append(b.Strings, fmt.Sprint("s", done+i))
				col[i] = uint32(i + 1)
				want = append(want, b.Strings[i+1])
			}
			c.fill(b)
			done += n
		}
		var buf proto.Buffer
		block := proto.Block{Columns: 1, Rows: distinct}
		if err := block.EncodeRawBlock(&buf, 0, []proto.InputColumn{{Name: "comm", Data: c.input()}}); err != nil {
			t.Fatal(err)
		}
		_, rows := decodeBlock(t, buf.Buf)
		for i := range want {
			if rows[i]["comm"] != want[i] {
				t.Fatalf("%d distinct: row %d is %q, want %q", distinct, i, rows[i]["comm"], want[i])
			}
		}
	}
}

func TestSplitKeepsEveryRowOnItsDay(t *testing.T) {
	b := makeBatch(1, 100, 1, day)
	for i := range b.U64[flow.EndTimeNs] {
		b.U64[flow.EndTimeNs][i] = day - 50 + uint64(i) + uint64(i%3)*dayNs
	}
	if first, last := days(b); first != day/dayNs-1 || last != day/dayNs+2 {
		t.Fatalf("days %d to %d", first, last)
	}
	seen := 0
	new(splitter).each(b, func(on uint64, part *flow.Batch) {
		for i := range part.Rows {
			row := int(part.U64[flow.FlowID][i] - 1)
			if part.U64[flow.EndTimeNs][i]/dayNs != on {
				t.Errorf("row %d is on the wrong day", row)
			}
			for _, f := range schema.Fields() {
				if got, want := cell(part, f, i), cell(b, f, row); got != want {
					t.Fatalf("%s of row %d is %q, want %q", f.Name, row, got, want)
				}
			}
			seen++
		}
	})
	if seen != 100 {
		t.Errorf("%d rows", seen)
	}
}

// BenchmarkEncode is the cost of a row from a batch to the bytes of an insert.
func BenchmarkEncode(b *testing.B) {
	for _, rows := range []int{200, 1000} {
		for _, how := range []Compression{CompressionNone, CompressionLZ4, CompressionZSTD} {
			b.Run(fmt.Sprintf("batch=%d/%s", rows, how), func(b *testing.B) { benchmarkEncode(b, rows, how) })
		}
	}
}

func benchmarkEncode(b *testing.B, rows int, how Compression) {
	var batches []*flow.Batch
	for i := range 40 {
		batches = append(batches, makeBatch(i, rows, uint64(i*rows), day))
	}
	block, _ := newBlock()
	c, err := newCompressor(how)
	if err != nil {
		b.Fatal(err)
	}
	var buf proto.Buffer
	var body []byte
	total := 0
	b.ReportAllocs()
	for b.Loop() {
		for i := 0; block.rows < 100_000; i++ {
			block.add(batches[i%len(batches)], &ticket{})
		}
		buf.Reset()
		if err := block.encode(&buf); err != nil {
			b.Fatal(err)
		}
		if body, err = c.compress(buf.Buf); err != nil {
			b.Fatal(err)
		}
		total += block.rows
		block.reset()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(total), "ns/row")
	b.ReportMetric(float64(len(body))/100_000, "B/row")
}
