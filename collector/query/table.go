package query

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// table prints rows in aligned columns. Widths are settled by the first rows, so that a long answer need not be held in memory; a wider
// cell further down pushes its row out of line.
type table struct {
	out    *bufio.Writer
	header []string
	right  []bool // columns of numbers
	bold   bool
	held   [][]string
	width  []int
}

// heldRows decide the widths.
const heldRows = 1000

func newTable(w io.Writer, header []string, right []bool) *table {
	return &table{out: bufio.NewWriter(w), header: header, right: right, bold: isTerminal(w)}
}

func (t *table) row(cells ...string) {
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	if t.width != nil {
		t.print(cells)
		return
	}
	t.held = append(t.held, cells)
	if len(t.held) == heldRows {
		t.settle()
	}
}

// printable keeps what came from the network from moving the cursor.
func printable(s string) string {
	if strings.IndexFunc(s, unicode.IsControl) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '·'
		}
		return r
	}, s)
}

func (t *table) settle() {
	t.width = make([]int, len(t.header))
	for i, h := range t.header {
		t.width[i] = utf8.RuneCountInString(h)
	}
	for _, cells := range t.held {
		for i, c := range cells {
			t.width[i] = max(t.width[i], utf8.RuneCountInString(c))
		}
	}
	if t.bold {
		fmt.Fprint(t.out, "\x1b[1m")
	}
	t.print(t.header)
	if t.bold {
		fmt.Fprint(t.out, "\x1b[0m")
	}
	for _, cells := range t.held {
		t.print(cells)
	}
	t.held = nil
}

func (t *table) print(cells []string) {
	for i, c := range cells {
		pad := strings.Repeat(" ", max(0, t.width[i]-utf8.RuneCountInString(c)))
		switch {
		case t.right[i]:
			fmt.Fprint(t.out, pad+c)
		case i == len(cells)-1:
			fmt.Fprint(t.out, c)
		default:
			fmt.Fprint(t.out, c+pad)
		}
		if i < len(cells)-1 {
			fmt.Fprint(t.out, "  ")
		}
	}
	fmt.Fprint(t.out, "\n")
}

// flush prints what is held; later rows keep its widths.
func (t *table) flush() error {
	if t.width == nil {
		t.settle()
	}
	if err := t.out.Flush(); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// endName is how a workload is shown: its name, or why it has none.
func endName(workload, why string) string {
	switch {
	case workload != "":
		return workload
	case why == "external":
		return "(external)"
	}
	return "(unattributed: " + why + ")"
}

func bytesText(n uint64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1000, 0
	for v >= 999.95 && i < len(units)-1 {
		v /= 1000
		i++
	}
	return fmt.Sprintf("%.1f %cB", v, units[i])
}

func microsText(us uint64) string {
	switch {
	case us == 0:
		return "-"
	case us < 1000:
		return fmt.Sprintf("%d µs", us)
	case us < 1_000_000:
		return fmt.Sprintf("%.1f ms", float64(us)/1e3)
	}
	return fmt.Sprintf("%.1f s", float64(us)/1e6)
}
