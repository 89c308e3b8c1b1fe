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
	keys    []sortKey

	// What each column had last: most rows repeat it, and to compare is cheaper than to look up.
	lastText [NumU32]lastText
	lastAddr [NumU32]lastAddr
}

type lastText struct {
	s string
	i uint32
}

type lastAddr struct {
	a [16]byte
	i uint32
}

// NewBuilder returns a builder of batches of at most rows rows (1 to MaxRows).
func NewBuilder(rows int) *Builder {
	rows = min(max(rows, 1), MaxRows)
	w := &Builder{most: rows, strings: make(map[string]uint32), addrs: make(map[[16]byte]uint32)}
	w.b.Rows = rows
	w.layOut(rows)
	w.reset()
	return w
}

// layOut gives each column its memory, an odd number of cache lines after the one before: a row is written across all columns, and lines
// that are a multiple of 4 KiB apart displace each other from the first cache of most processors.
func (w *Builder) layOut(rows int) {
	const line = 64
	stride32, stride64 := (4*rows/line|1)+2, (8*rows/line|1)+2
	memory32, memory64 := make([]uint32, int(NumU32)*stride32*line/4), make([]uint64, int(NumU64)*stride64*line/8)
	for f := range w.b.U32 {
		if !u32Specs[f].Attribution {
			at := f * stride32 * line / 4
			w.b.U32[f] = memory32[at : at+rows : at+rows]
		}
	}
	for f := range w.b.U64 {
		if !u64Specs[f].Attribution {
			at := f * stride64 * line / 8
			w.b.U64[f] = memory64[at : at+rows : at+rows]
		}
	}
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
	clear(w.lastText[:]) // "" and the zero address are the first of their dictionaries
	clear(w.lastAddr[:])
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
	last := &w.lastText[f]
	if last.s != s {
		i, ok := w.strings[s]
		if !ok {
			i = uint32(len(w.b.Strings))
			w.b.Strings = append(w.b.Strings, Sanitize(s))
			w.strings[s] = i
		}
		last.s, last.i = s, i
	}
	w.b.U32[f][w.b.Rows-1] = last.i
}

// SetAddr sets an address of the current row; IPv4 is mapped (::ffff:a.b.c.d).
func (w *Builder) SetAddr(f U32, a [16]byte) {
	last := &w.lastAddr[f]
	if last.a != a {
		i, ok := w.addrs[a]
		if !ok {
			i = uint32(len(w.b.Addrs))
			w.b.Addrs = append(w.b.Addrs, a)
			w.addrs[a] = i
		}
		last.a, last.i = a, i
	}
	w.b.U32[f][w.b.Rows-1] = last.i
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

// sortKey is a row's place: first its addresses' ranks (17 bits each, MaxAddrs) and remote port, then its local port and its number (16, MaxRows).
type sortKey struct {
	remote uint64
	local  uint32
}

// sort computes the order of rows: by local address, remote address, then the ports. Neighbours that resemble each other compress
// better, and a collector looks each remote address up once a run.
func (w *Builder) sort() {
	rank := w.ranks()
	w.order, w.keys = w.order[:0], w.keys[:0]
	for row := range w.b.Rows {
		w.keys = append(w.keys, sortKey{
			remote: uint64(rank[w.b.U32[LocalAddr][row]])<<33 | uint64(rank[w.b.U32[RemoteAddr][row]])<<16 | uint64(uint16(w.b.U32[RemotePort][row])),
			local:  w.b.U32[LocalPort][row]<<16 | uint32(row),
		})
	}
	slices.SortFunc(w.keys, func(x, y sortKey) int {
		if x.remote != y.remote {
			return cmp.Compare(x.remote, y.remote)
		}
		return cmp.Compare(x.local, y.local)
	})
	for _, k := range w.keys {
		w.order = append(w.order, k.local&(MaxRows-1))
	}
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
