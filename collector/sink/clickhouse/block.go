package clickhouse

import (
	"fmt"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"tributary/collector/schema"
	"tributary/proto/flow"
)

// block is rows of one partition on their way to one insert.
type block struct {
	day     uint64 // UTC day of end_time_ns, since 1970
	opened  time.Time
	rows    int
	names   []string
	columns []column
	waiting []*ticket // batches with rows in here
}

// ticket is a batch whose rows are in one or more blocks.
type ticket struct {
	blocks int // those without an answer
	err    error
	done   func(error)
}

// newBlock returns an empty block and the bytes that a row takes in it.
func newBlock() (*block, int64) {
	b := &block{}
	shared := &scratch{}
	bytesPerRow := 0
	for _, f := range schema.Fields() {
		c, bytes := newColumn(f, shared)
		b.names = append(b.names, f.Name)
		b.columns = append(b.columns, c)
		bytesPerRow += bytes
	}
	return b, int64(bytesPerRow)
}

func (b *block) add(batch *flow.Batch, t *ticket) {
	for _, c := range b.columns {
		c.fill(batch)
	}
	b.rows += batch.Rows
	b.waiting = append(b.waiting, t)
	t.blocks++
}

// encode appends the block as one FORMAT Native block: revision 0 of ClickHouse's protocol is that format.
func (b *block) encode(to *proto.Buffer) error {
	input := make([]proto.InputColumn, len(b.columns))
	for i, c := range b.columns {
		input[i] = proto.InputColumn{Name: b.names[i], Data: c.input()}
	}
	head := proto.Block{Columns: len(input), Rows: b.rows}
	if err := head.EncodeRawBlock(to, 0, input); err != nil {
		return fmt.Errorf("encode a block of %d rows: %w", b.rows, err)
	}
	return nil
}

func (b *block) reset() {
	b.rows = 0
	b.waiting = nil
	for _, c := range b.columns {
		c.reset()
	}
}

const dayNs = uint64(24 * time.Hour)

// days returns the first and the last UTC day of the batch's end times.
func days(b *flow.Batch) (first, last uint64) {
	ends := b.U64[flow.EndTimeNs]
	if len(ends) == 0 {
		return 0, 0
	}
	least, most := ends[0], ends[0]
	for _, t := range ends {
		least, most = min(least, t), max(most, t)
	}
	return least / dayNs, most / dayNs
}

// splitter takes the rows of one day out of a batch into memory of its own.
type splitter struct{ part flow.Batch }

// each calls visit with the rows of every day the batch has, as a batch that is valid until visit returns.
func (s *splitter) each(b *flow.Batch, visit func(day uint64, part *flow.Batch)) {
	byDay := map[uint64][]int{}
	for row, t := range b.U64[flow.EndTimeNs] {
		byDay[t/dayNs] = append(byDay[t/dayNs], row)
	}
	for day, rows := range byDay {
		visit(day, s.take(b, rows))
	}
}

func (s *splitter) take(b *flow.Batch, rows []int) *flow.Batch {
	p := &s.part
	p.Reset()
	p.Header, p.ReceivedTimeNs, p.Rows = b.Header, b.ReceivedTimeNs, len(rows)
	p.Counters = nil
	p.Strings, p.Addrs, p.AttrStrings = b.Strings, b.Addrs, b.AttrStrings
	for f, from := range b.U32 {
		if from == nil {
			continue
		}
		to := p.Make32(flow.U32(f))
		for i, row := range rows {
			to[i] = from[row]
		}
	}
	for f, from := range b.U64 {
		if from == nil {
			continue
		}
		to := p.Make64(flow.U64(f))
		for i, row := range rows {
			to[i] = from[row]
		}
	}
	return p
}
