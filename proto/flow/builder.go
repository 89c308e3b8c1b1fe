package flow

import (
	"bytes"
	"cmp"
	"slices"
	"unicode/utf8"
)

// Builder collects rows and seals them. Its memory is fixed by the number of rows it was made for and used again after each Seal.
// It is not safe for concurrent use.
type Builder struct {
	b       Batch
	most    int
	strings map[string]uint32
	addrs   map[[16]byte]uint32
	order   []uint32
	keys    []uint64
}

// NewBuilder returns a builder of batches of at most rows rows (1 to MaxRows).
func NewBuilder(rows int) *Builder {
	rows = min(max(rows, 1), MaxRows)
	w := &Builder{most: rows, strings: make(map[string]uint32), addrs: make(map[[16]byte]uint32)}
	w.b.Rows = rows
	for f := range w.b.U32 {
		if !u32Specs[f].Attribution {
			w.b.Make32(U32(f))
		}
	}
	for f := range w.b.U64 {
		if !u64Specs[f].Attribution {
			w.b.Make64(U64(f))
		}
	}
	w.reset()
	return w
}

func (w *Builder) reset() {
	for f, col := range w.b.U32 {
		clear(col[:min(w.b.Rows, len(col))])
		w.b.U32[f] = col[:cap(col)]
	}
	for f, col := range w.b.U64 {
		clear(col[:min(w.b.Rows, len(col))])
		w.b.U64[f] = col[:cap(col)]
	}
	clear(w.strings)
	clear(w.addrs)
	w.b.Rows = 0
	w.b.Strings = append(w.b.Strings[:0], "")
	w.b.Addrs = append(w.b.Addrs[:0], [16]byte{})
	w.strings[""] = 0
	w.addrs[[16]byte{}] = 0
}

// Rows returns how many rows have been added since the last Seal.
func (w *Builder) Rows() int { return w.b.Rows }

// Full reports whether the batch must be sealed before another row fits.
func (w *Builder) Full() bool {
	return w.b.Rows >= w.most || len(w.b.Strings)+16 > MaxStrings || len(w.b.Addrs)+4 > MaxAddrs
}

// AddRow begins a row whose columns all have their defaults. It must not be called when Full.
func (w *Builder) AddRow() {
	row := w.b.Rows
	w.b.Rows++
	w.b.U32[SampleRate][row] = 1
	w.b.U32[Connections][row] = 1
}

// Set32 sets a number, enum or flag of the current row.
func (w *Builder) Set32(f U32, v uint32) { w.b.U32[f][w.b.Rows-1] = v }

// Set64 sets a number or time of the current row.
func (w *Builder) Set64(f U64, v uint64) { w.b.U64[f][w.b.Rows-1] = v }

// SetText sets a string of the current row. What would not pass validation is made to: control characters and bytes that are
// not UTF-8 become '?', and a string longer than MaxStringBytes is cut.
func (w *Builder) SetText(f U32, s string) {
	i, ok := w.strings[s]
	if !ok {
		i = uint32(len(w.b.Strings))
		w.b.Strings = append(w.b.Strings, Sanitize(s))
		w.strings[s] = i
	}
	w.b.U32[f][w.b.Rows-1] = i
}

// SetAddr sets an address of the current row; IPv4 is mapped (::ffff:a.b.c.d).
func (w *Builder) SetAddr(f U32, a [16]byte) {
	i, ok := w.addrs[a]
	if !ok {
		i = uint32(len(w.b.Addrs))
		w.b.Addrs = append(w.b.Addrs, a)
		w.addrs[a] = i
	}
	w.b.U32[f][w.b.Rows-1] = i
}

// Sanitize returns s as a dictionary can hold it.
func Sanitize(s string) string {
	if len(s) <= MaxStringBytes && plainText([]byte(s)) {
		return s
	}
	s = s[:min(len(s), MaxStringBytes)]
	out := make([]byte, 0, len(s))
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r < 0x20 || r == 0x7f || (r == utf8.RuneError && size == 1) {
			out = append(out, '?')
		} else {
			out = append(out, s[:size]...)
		}
		s = s[size:]
	}
	return string(out)
}

// Seal sorts the rows by (local, remote), appends them as a Columns message to dst and empties the builder. It returns the bytes and the
// number of rows.
func (w *Builder) Seal(dst []byte) (columns []byte, rows int) {
	rows = w.b.Rows
	w.sort()
	view := w.b
	for f, col := range view.U32 {
		view.U32[f] = present(col, rows, u32Specs[f].Missing)
	}
	for f, col := range view.U64 {
		view.U64[f] = present(col, rows, 0)
	}
	columns = view.AppendColumns(dst, w.order)
	w.reset()
	return columns, rows
}

// present returns the column's rows, nil where every one of them has the default.
func present[T uint32 | uint64](col []T, rows int, missing T) []T {
	if col == nil {
		return nil
	}
	for _, v := range col[:rows] {
		if v != missing {
			return col[:rows]
		}
	}
	return nil
}

// sort computes the order of rows: by local address, remote address, then the ports. Neighbours that resemble each other compress
// better, and a collector looks each remote address up once a run.
func (w *Builder) sort() {
	rank := w.ranks()
	w.order, w.keys = w.order[:0], w.keys[:0]
	for row := range w.b.Rows {
		w.order = append(w.order, uint32(row))
		w.keys = append(w.keys, uint64(rank[w.b.U32[LocalAddr][row]])<<32|uint64(rank[w.b.U32[RemoteAddr][row]]))
	}
	local, remote := w.b.U32[LocalPort], w.b.U32[RemotePort]
	slices.SortFunc(w.order, func(x, y uint32) int {
		if c := cmp.Compare(w.keys[x], w.keys[y]); c != 0 {
			return c
		}
		if c := cmp.Compare(remote[x], remote[y]); c != 0 {
			return c
		}
		return cmp.Compare(local[x], local[y])
	})
}

// ranks returns each dictionary address's place in the order of addresses.
func (w *Builder) ranks() []uint32 {
	byAddr := make([]uint32, len(w.b.Addrs))
	for i := range byAddr {
		byAddr[i] = uint32(i)
	}
	slices.SortFunc(byAddr, func(x, y uint32) int { return bytes.Compare(w.b.Addrs[x][:], w.b.Addrs[y][:]) })
	rank := make([]uint32, len(byAddr))
	for r, i := range byAddr {
		rank[i] = uint32(r)
	}
	return rank
}
