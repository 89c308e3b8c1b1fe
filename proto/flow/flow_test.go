package flow_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

const base = uint64(1_795_000_000_000_000_000)

// fill adds rows that set every payload column to something that depends on the row.
func fill(w *flow.Builder, rows int) {
	for i := range rows {
		w.AddRow()
		for f := range flow.NumU32 {
			switch s := f.Spec(); {
			case s.Attribution:
			case s.Type == flow.TypeString:
				w.SetText(f, fmt.Sprintf("%s-%d", s.Name, i%7))
			case s.Type == flow.TypeAddr:
				w.SetAddr(f, address(i*int(f)%11))
			default:
				w.Set32(f, uint32(i)*(2*uint32(f)+3)%uint32(min(s.Max, 1<<31)+1))
			}
		}
		for f := range flow.NumU64 {
			if s := f.Spec(); !s.Attribution && s.Type == flow.TypeUint {
				w.Set64(f, uint64(i)*uint64(f+1)<<20)
			}
		}
		w.Set64(flow.FlowID, uint64(i+1))
		start := base + uint64(i*7919%1000)*1e6
		w.Set64(flow.StartTimeNs, start)
		w.Set64(flow.IntervalStartNs, start+uint64(i%3))
		w.Set64(flow.EndTimeNs, start+uint64(i%3)+uint64(i)*1000)
	}
}

func address(n int) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 0, 14: byte(n >> 8), 15: byte(n)}
}

func wire(columns []byte, rows int) *flowv1.Batch {
	return &flowv1.Batch{
		ExporterId: "e", BatchSeq: 1, Rows: uint32(rows), ColumnsBytes: uint32(len(columns)), Payload: columns, Host: "h", BootId: "b",
		Counters: []*flowv1.Counter{{Name: "probe.ring_full", Value: 3}},
	}
}

func open(t testing.TB, m *flowv1.Batch) (*flow.Batch, error) {
	t.Helper()
	o, err := flow.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	b := new(flow.Batch)
	return b, o.Open(m, b)
}

func TestSpecsAreTheProtoMessages(t *testing.T) {
	check := func(s flow.Spec) {
		d := (&flowv1.Columns{}).ProtoReflect().Descriptor()
		if s.Attribution {
			d = (&flowv1.Attribution{}).ProtoReflect().Descriptor()
		}
		fd := d.Fields().ByName(protoreflect.Name(s.Name))
		if fd == nil || fd.Number() != s.Number || !fd.IsPacked() {
			t.Errorf("%s: the message has %v", s.Name, fd)
		}
	}
	fields := 0
	for f := range flow.NumU32 {
		check(f.Spec())
		fields++
	}
	for f := range flow.NumU64 {
		check(f.Spec())
		fields++
	}
	// strings and addrs of Columns, strings and received_time_ns of Attribution are no columns
	want := (&flowv1.Columns{}).ProtoReflect().Descriptor().Fields().Len() - 2 + (&flowv1.Attribution{}).ProtoReflect().Descriptor().Fields().Len() - 2
	if fields != want {
		t.Errorf("%d columns, the messages have %d", fields, want)
	}
}

// TestRoundTrip compares every cell by flow_id, since Seal sorts the rows.
func TestRoundTrip(t *testing.T) {
	w := flow.NewBuilder(1000)
	for round := range 3 { // the second and third round use the memory of the first
		rows := []int{997, 1, 1000}[round]
		fill(w, rows)
		columns, n := w.Seal(nil)
		if n != rows || w.Rows() != 0 {
			t.Fatalf("sealed %d rows, %d left", n, w.Rows())
		}
		b, err := open(t, wire(columns, rows))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[uint64]bool{}
		for row := range rows {
			i := int(b.U64[flow.FlowID][row] - 1)
			seen[b.U64[flow.FlowID][row]] = true
			checkRow(t, b, row, i)
		}
		if len(seen) != rows {
			t.Fatalf("%d distinct rows of %d", len(seen), rows)
		}
	}
}

func checkRow(t *testing.T, b *flow.Batch, row, i int) {
	t.Helper()
	for f := range flow.NumU32 {
		s := f.Spec()
		switch {
		case s.Attribution:
		case s.Type == flow.TypeString:
			if got, want := b.Text(f, row), fmt.Sprintf("%s-%d", s.Name, i%7); got != want {
				t.Fatalf("%s of %d: %q, want %q", s.Name, i, got, want)
			}
		case s.Type == flow.TypeAddr:
			if got, want := b.Addr(f, row), address(i*int(f)%11); got != want {
				t.Fatalf("%s of %d: %v, want %v", s.Name, i, got, want)
			}
		default:
			if got, want := b.Get32(f, row), uint32(i)*(2*uint32(f)+3)%uint32(min(s.Max, 1<<31)+1); got != want {
				t.Fatalf("%s of %d: %d, want %d", s.Name, i, got, want)
			}
		}
	}
	start := base + uint64(i*7919%1000)*1e6
	if b.Get64(flow.StartTimeNs, row) != start || b.Get64(flow.IntervalStartNs, row) != start+uint64(i%3) ||
		b.Get64(flow.EndTimeNs, row) != start+uint64(i%3)+uint64(i)*1000 {
		t.Fatalf("times of %d are wrong", i)
	}
	if b.Get64(flow.TxBytes, row) != uint64(i)*uint64(flow.TxBytes+1)<<20 {
		t.Fatalf("tx_bytes of %d is wrong", i)
	}
}

// TestAnyProtobufLibraryReadsIt decodes sealed columns with the generated message.
func TestAnyProtobufLibraryReadsIt(t *testing.T) {
	w := flow.NewBuilder(10)
	fill(w, 10)
	columns, _ := w.Seal(nil)
	var m flowv1.Columns
	if err := proto.Unmarshal(columns, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.GetFlowId()) != 10 || len(m.GetStartTimeNs()) != 10 || m.GetStartTimeNs()[0] < int64(base) || len(m.GetAddrs())%16 != 0 {
		t.Fatalf("not the rows that were written: %v", &m)
	}
	again, err := proto.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, wire(again, 10)); err != nil {
		t.Fatalf("a batch made by the protobuf library is refused: %v", err)
	}
}

func TestSortedByAddresses(t *testing.T) {
	w := flow.NewBuilder(500)
	for range 500 {
		w.AddRow()
		w.SetAddr(flow.LocalAddr, address(rand.IntN(5)))
		w.SetAddr(flow.RemoteAddr, address(rand.IntN(300)))
		w.Set64(flow.FlowID, 1)
		w.Set32(flow.Kind, flow.KindClosed)
		w.Set64(flow.StartTimeNs, base)
		w.Set64(flow.IntervalStartNs, base)
		w.Set64(flow.EndTimeNs, base)
	}
	columns, rows := w.Seal(nil)
	b, err := open(t, wire(columns, rows))
	if err != nil {
		t.Fatal(err)
	}
	for row := 1; row < rows; row++ {
		a, c := b.Addr(flow.LocalAddr, row-1), b.Addr(flow.LocalAddr, row)
		d, e := b.Addr(flow.RemoteAddr, row-1), b.Addr(flow.RemoteAddr, row)
		if string(a[:])+string(d[:]) > string(c[:])+string(e[:]) {
			t.Fatalf("row %d is not in order", row)
		}
	}
}

func TestCompressedAndAttributed(t *testing.T) {
	w := flow.NewBuilder(300)
	fill(w, 300)
	columns, rows := w.Seal(nil)
	s, err := flow.NewSealer()
	if err != nil {
		t.Fatal(err)
	}
	m := wire(columns, rows)
	m.Payload, m.Codec = s.Compress(nil, columns), flowv1.Codec_CODEC_ZSTD
	b, err := open(t, m)
	if err != nil {
		t.Fatal(err)
	}
	b.ReceivedTimeNs = int64(base)
	b.AttrStrings = append(b.AttrStrings[:0], "", "shop/web")
	b.Make32(flow.RemoteWorkload)[5] = 1
	b.Make32(flow.RemoteEvidence)[5] = flow.EvidenceClaim
	b.Make64(flow.RemoteLastSeenNs)[6] = base
	attribution := b.AppendAttribution(nil)

	c, err := open(t, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DecodeAttribution(attribution); err != nil {
		t.Fatal(err)
	}
	if c.Text(flow.RemoteWorkload, 5) != "shop/web" || c.Text(flow.RemoteWorkload, 4) != "" || c.ReceivedTimeNs != int64(base) ||
		c.Get32(flow.RemoteEvidence, 5) != flow.EvidenceClaim || c.Get64(flow.RemoteLastSeenNs, 6) != base {
		t.Fatal("attribution did not survive")
	}
	part := c.Select([]int{5, 6})
	if part.Rows != 2 || part.Text(flow.RemoteWorkload, 0) != "shop/web" || part.Get64(flow.FlowID, 1) != c.Get64(flow.FlowID, 6) {
		t.Fatal("the selected rows are not those")
	}
	again, err := open(t, part.Wire())
	if err != nil || again.Get64(flow.TxBytes, 1) != c.Get64(flow.TxBytes, 6) || again.Get64(flow.EndTimeNs, 1) != c.Get64(flow.EndTimeNs, 6) {
		t.Fatalf("the selection's payload is not its rows: %v", err)
	}
}

func packed(n protowire.Number, values ...uint64) []byte {
	var v []byte
	for _, x := range values {
		v = protowire.AppendVarint(v, x)
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), v)
}

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func TestRefused(t *testing.T) {
	start := protowire.EncodeZigZag(int64(base))
	ok := join(packed(3, 1), packed(10, 2), packed(18, start))
	text := func(s string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), s)
	}
	for name, c := range map[string]struct {
		columns []byte
		rows    uint32
		change  func(*flowv1.Batch)
		want    error
		say     string
	}{
		"good":                  {columns: ok, rows: 1},
		"more rows than sent":   {columns: ok, rows: 2, want: flow.ErrMalformed, say: "has 1 entries for 2 rows"},
		"fewer rows than sent":  {columns: join(packed(3, 1, 2), packed(10, 2), packed(18, start)), rows: 1, want: flow.ErrMalformed, say: "has 2 entries for 1 rows"},
		"ragged":                {columns: join(packed(3, 1, 2), packed(10, 2), packed(18, start, 0)), rows: 2, want: flow.ErrMalformed, say: "column kind has 1 entries"},
		"2^31 rows":             {columns: ok, rows: 1 << 31, want: flow.ErrTooLarge, say: "at most 65536"},
		"string index":          {columns: join(ok, packed(7, 1)), rows: 1, want: flow.ErrMalformed, say: "column network points to entry 1 of a dictionary of 1"},
		"address index":         {columns: join(ok, packed(21, 4)), rows: 1, want: flow.ErrMalformed, say: "column local_addr points to entry 4"},
		"unknown enum value":    {columns: join(packed(3, 1), packed(10, 77), packed(18, start)), rows: 1, want: flow.ErrMalformed, say: "column kind has the value 77"},
		"flag of 2":             {columns: join(ok, packed(52, 2)), rows: 1, want: flow.ErrMalformed, say: "start_observed"},
		"port":                  {columns: join(ok, packed(24, 65536)), rows: 1, want: flow.ErrMalformed, say: "local_port"},
		"time before 2020":      {columns: join(packed(3, 1), packed(10, 2), packed(18, 5)), rows: 1, want: flow.ErrMalformed, say: "not between 2020 and 2100"},
		"end before start":      {columns: join(ok, packed(20, protowire.EncodeZigZag(-1))), rows: 1, want: flow.ErrMalformed, say: "end_time_ns of row 0"},
		"end after 2100":        {columns: join(ok, packed(20, protowire.EncodeZigZag(1<<62))), rows: 1, want: flow.ErrMalformed, say: "end_time_ns of row 0"},
		"no flow_id":            {columns: join(packed(10, 2), packed(18, start)), rows: 1, want: flow.ErrMalformed, say: "required"},
		"column twice":          {columns: join(ok, packed(10, 2)), rows: 1, want: flow.ErrMalformed, say: "appears twice"},
		"last column twice":     {columns: join(ok, packed(64, 2), packed(64, 2)), rows: 1, want: flow.ErrMalformed, say: "appears twice"},
		"not packed":            {columns: join(ok, protowire.AppendVarint(protowire.AppendTag(nil, 14, protowire.VarintType), 1)), rows: 1, want: flow.ErrMalformed, say: "not packed"},
		"cut off":               {columns: ok[:len(ok)-1], rows: 1, want: flow.ErrMalformed, say: "cut off"},
		"control characters":    {columns: join(ok, text(""), text("a\nb")), rows: 1, want: flow.ErrMalformed, say: "control characters"},
		"long string":           {columns: join(ok, text(""), text(strings.Repeat("x", 10_000))), rows: 1, want: flow.ErrTooLarge, say: "10000 bytes"},
		"first string not ''":   {columns: join(ok, text("x")), rows: 1, want: flow.ErrMalformed, say: "must be empty"},
		"odd addresses":         {columns: join(ok, protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), make([]byte, 17))), rows: 1, want: flow.ErrMalformed, say: "17 bytes of addresses"},
		"unknown field is kept": {columns: join(ok, packed(9999, 1)), rows: 1},
		"batch_seq 0":           {columns: ok, rows: 1, change: func(m *flowv1.Batch) { m.BatchSeq = 0 }, want: flow.ErrMalformed, say: "batch_seq"},
		"no exporter":           {columns: ok, rows: 1, change: func(m *flowv1.Batch) { m.ExporterId = "" }, want: flow.ErrMalformed, say: "exporter_id"},
		"size lies":             {columns: ok, rows: 1, change: func(m *flowv1.Batch) { m.ColumnsBytes++ }, want: flow.ErrMalformed, say: "announced"},
		"size too large":        {columns: ok, rows: 1, change: func(m *flowv1.Batch) { m.ColumnsBytes = 1 << 31 }, want: flow.ErrTooLarge, say: "at most"},
		"unknown codec":         {columns: ok, rows: 1, change: func(m *flowv1.Batch) { m.Codec = 9 }, want: flow.ErrMalformed, say: "codec"},
		"no zstd":               {columns: ok, rows: 1, change: func(m *flowv1.Batch) { m.Codec = flowv1.Codec_CODEC_ZSTD }, want: flow.ErrMalformed, say: "zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			m := wire(c.columns, 1)
			m.Rows = c.rows
			if c.change != nil {
				c.change(m)
			}
			_, err := open(t, m)
			if !errors.Is(err, c.want) || (err != nil && !strings.Contains(err.Error(), c.say)) {
				t.Fatalf("got %v, want %v (%s)", err, c.want, c.say)
			}
		})
	}
}

// TestSanitize: what a builder takes, a decoder accepts.
func TestSanitize(t *testing.T) {
	for _, s := range []string{"", "curl", "a\x00b\x1b[31m", "\xff\xfe", strings.Repeat("ü", 400), "naïve"} {
		w := flow.NewBuilder(1)
		w.AddRow()
		w.SetText(flow.Comm, s)
		w.Set64(flow.FlowID, 1)
		w.Set32(flow.Kind, flow.KindClosed)
		w.Set64(flow.StartTimeNs, base)
		w.Set64(flow.IntervalStartNs, base)
		w.Set64(flow.EndTimeNs, base)
		columns, rows := w.Seal(nil)
		if _, err := open(t, wire(columns, rows)); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	w := flow.NewBuilder(20)
	fill(w, 20)
	columns, rows := w.Seal(nil)
	s, err := flow.NewSealer()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(columns, uint32(rows), false)
	f.Add(s.Compress(nil, columns), uint32(rows), true)
	o, err := flow.NewOpener()
	if err != nil {
		f.Fatal(err)
	}
	b := new(flow.Batch)
	f.Fuzz(func(t *testing.T, payload []byte, rows uint32, compressed bool) {
		m := wire(payload, 1)
		m.Rows = rows
		if compressed {
			m.Codec, m.ColumnsBytes = flowv1.Codec_CODEC_ZSTD, uint32(len(columns))
		}
		if err := o.Open(m, b); err != nil {
			return
		}
		// whatever was accepted can be read, selected and written without a panic, and reads back as itself
		all := make([]int, b.Rows)
		for row := range b.Rows {
			all[row] = row
			for f := range flow.NumU32 {
				switch f.Spec().Type {
				case flow.TypeString:
					_ = b.Text(f, row)
				case flow.TypeAddr:
					_ = b.Addr(f, row)
				case flow.TypeEnum:
					if s := f.Spec(); s.Enum.Name(b.Get32(f, row)) == "" {
						t.Fatalf("%s has an unnamed value", s.Name)
					}
				}
			}
		}
		if again, err := open(t, b.Select(all).Wire()); err != nil || again.Rows != b.Rows {
			t.Fatalf("what was accepted does not pass again: %v", err)
		}
	})
}
