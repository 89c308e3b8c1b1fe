package flow

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// columnOf maps a field number of a message to its column.
type columnOf struct {
	u32 U32 // valid if kind is 1
	u64 U64 // valid if kind is 2
	of  uint8
}

const maxFieldNumber = 66

type layout [maxFieldNumber + 1]columnOf

var (
	columnsLayout     = makeLayout(false)
	attributionLayout = makeLayout(true)
)

func makeLayout(attribution bool) *layout {
	var l layout
	for f, s := range u32Specs {
		if s.Attribution == attribution {
			l[s.Number] = columnOf{u32: U32(f), of: 1}
		}
	}
	for f, s := range u64Specs {
		if s.Attribution == attribution {
			l[s.Number] = columnOf{u64: U64(f), of: 2}
		}
	}
	return &l
}

// DecodeColumns reads a Columns message of the given number of rows into the batch and validates all of it. Fields with unknown numbers
// are passed over: a newer exporter may send them. The batch keeps no reference to data. After an error the batch must be Reset.
func (b *Batch) DecodeColumns(data []byte, rows int) error {
	if rows < 0 || rows > MaxRows {
		return fmt.Errorf("%w: %d rows, at most %d are allowed", ErrTooLarge, rows, MaxRows)
	}
	if len(data) > MaxColumnsBytes {
		return fmt.Errorf("%w: %d bytes of columns, at most %d are allowed", ErrTooLarge, len(data), MaxColumnsBytes)
	}
	b.Rows = rows
	d := decoder{b: b, layout: columnsLayout}
	if err := d.message(data); err != nil {
		return err
	}
	if err := b.checkRequired(); err != nil {
		return err
	}
	return b.resolveTimes()
}

// DecodeAttribution reads an Attribution message beside already decoded columns. A batch that carries attribution has all of its
// columns' lengths checked against Rows.
func (b *Batch) DecodeAttribution(data []byte) error {
	d := decoder{b: b, layout: attributionLayout, attribution: true}
	return d.message(data)
}

type decoder struct {
	b           *Batch
	layout      *layout
	attribution bool
	seen        [maxFieldNumber + 1]bool
	text        []byte // all dictionary entries, one after the other
	ends        []int32
}

func (d *decoder) message(data []byte) error {
	for len(data) > 0 {
		n, t, size := protowire.ConsumeTag(data)
		if size < 0 {
			return fmt.Errorf("%w: bad tag", ErrMalformed)
		}
		data = data[size:]
		if t == protowire.BytesType {
			v, size := protowire.ConsumeBytes(data)
			if size < 0 {
				return fmt.Errorf("%w: field %d is cut off", ErrMalformed, n)
			}
			data = data[size:]
			if err := d.bytesField(n, v); err != nil {
				return err
			}
			continue
		}
		size = protowire.ConsumeFieldValue(n, t, data)
		if size < 0 {
			return fmt.Errorf("%w: field %d is cut off", ErrMalformed, n)
		}
		if err := d.otherField(n, t, data[:size]); err != nil {
			return err
		}
		data = data[size:]
	}
	d.finishStrings()
	return d.checkIndexes()
}

func (d *decoder) bytesField(n protowire.Number, v []byte) error {
	if n == numStrings {
		return d.addString(v)
	}
	if n > maxFieldNumber {
		return nil
	}
	if d.seen[n] {
		return fmt.Errorf("%w: field %d appears twice", ErrMalformed, n)
	}
	d.seen[n] = true
	if n == numAddrs && !d.attribution {
		return d.addAddrs(v)
	}
	switch c := d.layout[n]; c.of {
	case 1:
		return d.column32(c.u32, v)
	case 2:
		return d.column64(c.u64, v)
	}
	return nil
}

// otherField takes the one scalar there is and refuses columns that are not packed: proto3 packs them, and one value at a time would
// be a way to make a large row count cheap to send.
func (d *decoder) otherField(n protowire.Number, t protowire.Type, v []byte) error {
	if d.attribution && n == numReceivedTime && t == protowire.VarintType {
		u, _ := protowire.ConsumeVarint(v)
		d.b.ReceivedTimeNs = protowire.DecodeZigZag(u)
		return nil
	}
	if n > 0 && n <= maxFieldNumber && d.layout[n].of != 0 {
		return fmt.Errorf("%w: column %d is not packed", ErrMalformed, n)
	}
	return nil
}

func (d *decoder) addString(v []byte) error {
	switch {
	case len(v) > MaxStringBytes:
		return fmt.Errorf("%w: a string of %d bytes, at most %d are allowed", ErrTooLarge, len(v), MaxStringBytes)
	case len(d.ends) >= MaxStrings:
		return fmt.Errorf("%w: more than %d strings", ErrTooLarge, MaxStrings)
	case len(d.ends) == 0 && len(v) != 0:
		return fmt.Errorf("%w: the first string of a dictionary must be empty", ErrMalformed)
	case !plainText(v):
		return fmt.Errorf("%w: a string is not UTF-8 or has control characters", ErrMalformed)
	}
	d.text = append(d.text, v...)
	d.ends = append(d.ends, int32(len(d.text)))
	return nil
}

func plainText(v []byte) bool {
	for _, c := range v {
		if c < 0x20 || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(v)
}

// finishStrings makes all dictionary entries parts of one string: one allocation a batch.
func (d *decoder) finishStrings() {
	all := string(d.text)
	dict := d.b.Strings[:0]
	if d.attribution {
		dict = d.b.AttrStrings[:0]
	}
	var start int32
	for _, end := range d.ends {
		dict = append(dict, all[start:end])
		start = end
	}
	if len(dict) == 0 {
		dict = append(dict, "")
	}
	if d.attribution {
		d.b.AttrStrings = dict
	} else {
		d.b.Strings = dict
	}
}

func (d *decoder) addAddrs(v []byte) error {
	if len(v)%16 != 0 || len(v)/16 > MaxAddrs {
		return fmt.Errorf("%w: %d bytes of addresses", ErrMalformed, len(v))
	}
	dict := d.b.Addrs[:0]
	for ; len(v) > 0; v = v[16:] {
		dict = append(dict, [16]byte(v))
	}
	if len(dict) > 0 && dict[0] != ([16]byte{}) {
		return fmt.Errorf("%w: the first address of a dictionary must be the unspecified one", ErrMalformed)
	}
	d.b.Addrs = dict
	return nil
}

func (d *decoder) column32(f U32, v []byte) error {
	spec := &u32Specs[f]
	col := d.b.take32(f)
	if !unpack(col, v, spec.Max) {
		return d.bad(spec, v)
	}
	return nil
}

func (d *decoder) column64(f U64, v []byte) error {
	spec := &u64Specs[f]
	col := d.b.take64(f)
	most := spec.Max
	if spec.Type == TypeTime && !spec.Attribution {
		most = max64 // differences, checked when they are resolved
	}
	if !unpack(col, v, most) {
		return d.bad(spec, v)
	}
	return nil
}

// bad finds out what is wrong with a column, off the hot path.
func (d *decoder) bad(spec *Spec, v []byte) error {
	n := 0
	for len(v) > 0 {
		u, size := protowire.ConsumeVarint(v)
		if size < 0 {
			return fmt.Errorf("%w: column %s is cut off", ErrMalformed, spec.Name)
		}
		if u > spec.Max && spec.Type != TypeTime {
			return fmt.Errorf("%w: column %s has the value %d, at most %d is allowed", ErrMalformed, spec.Name, u, spec.Max)
		}
		v = v[size:]
		n++
	}
	return fmt.Errorf("%w: column %s has %d entries for %d rows", ErrMalformed, spec.Name, n, d.b.Rows)
}

// unpack reads exactly len(col) varints, none greater than most, and reports whether that is all there is.
func unpack[T uint32 | uint64](col []T, v []byte, most uint64) bool {
	pos := 0
	for i := range col {
		if pos >= len(v) {
			return false
		}
		c := v[pos]
		if c < 0x80 { // by far the most frequent
			if uint64(c) > most {
				return false
			}
			col[i] = T(c)
			pos++
			continue
		}
		u, size := protowire.ConsumeVarint(v[pos:])
		if size < 0 || u > most {
			return false
		}
		col[i] = T(u)
		pos += size
	}
	return pos == len(v)
}

// checkIndexes proves that every dictionary index is in range.
func (d *decoder) checkIndexes() error {
	b := d.b
	if len(b.Addrs) == 0 {
		b.Addrs = append(b.Addrs, [16]byte{})
	}
	for f, col := range b.U32 {
		spec := &u32Specs[f]
		if col == nil || spec.Attribution != d.attribution {
			continue
		}
		var size uint32
		switch {
		case spec.Type == TypeAddr:
			size = uint32(len(b.Addrs))
		case spec.Type == TypeString && d.attribution:
			size = uint32(len(b.AttrStrings))
		case spec.Type == TypeString:
			size = uint32(len(b.Strings))
		default:
			continue
		}
		var most uint32
		for _, v := range col {
			most = max(most, v)
		}
		if most >= size && len(col) > 0 {
			return fmt.Errorf("%w: column %s points to entry %d of a dictionary of %d", ErrMalformed, spec.Name, most, size)
		}
	}
	return nil
}

func (b *Batch) checkRequired() error {
	if b.Rows == 0 {
		return nil
	}
	if b.U64[FlowID] == nil || b.U64[StartTimeNs] == nil {
		return fmt.Errorf("%w: flow_id and start_time_ns are required", ErrMalformed)
	}
	return nil
}

// Earliest and latest time a record may carry, ns since 1970: 2020-01-01 and 2100-01-01. Anything else is a broken clock or a forgery.
const (
	minTimeNs = 1_577_836_800_000_000_000
	maxTimeNs = 4_102_444_800_000_000_000
)

// resolveTimes turns the differences of the wire into times and checks their order.
func (b *Batch) resolveTimes() error {
	if b.Rows == 0 {
		return nil
	}
	starts := b.U64[StartTimeNs]
	var before uint64
	for i, v := range starts {
		before += uint64(protowire.DecodeZigZag(v))
		if before < minTimeNs || before > maxTimeNs {
			return fmt.Errorf("%w: start_time_ns of row %d is %d, which is not between 2020 and 2100", ErrMalformed, i, int64(before))
		}
		starts[i] = before
	}
	intervals, err := b.resolveAfter(IntervalStartNs, starts)
	if err != nil {
		return err
	}
	_, err = b.resolveAfter(EndTimeNs, intervals)
	return err
}

// resolveAfter adds base to the differences in the column f, which is made if it is missing: then every difference is 0.
func (b *Batch) resolveAfter(f U64, base []uint64) ([]uint64, error) {
	col := b.U64[f]
	if col == nil {
		col = b.Make64(f)
	}
	for i, v := range col {
		d := protowire.DecodeZigZag(v)
		t := base[i] + uint64(d)
		if d < 0 || t > maxTimeNs {
			return nil, fmt.Errorf("%w: %s of row %d lies before what it follows, or after 2100", ErrMalformed, u64Specs[f].Name, i)
		}
		col[i] = t
	}
	return col, nil
}
