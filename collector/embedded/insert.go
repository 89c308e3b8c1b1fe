package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// insertHead is an INSERT whose rows follow the text as data.
type insertHead struct {
	into   string // the statement up to FORMAT or VALUES
	format string
	data   int // offset of the first byte of data in the text
}

// splitInsert finds the end of the statement in the text of an INSERT with data; ok is false for every other statement (INSERT … SELECT
// too). The text may be cut off anywhere in the data.
func splitInsert(text string) (head insertHead, ok bool) {
	depth := 0
	for at := 0; ; {
		t, more := nextToken(text, at)
		if !more {
			return insertHead{}, false
		}
		first := skipBlank(text, 0) == t.start
		at = t.end
		switch {
		case first && !t.is("INSERT"):
			return insertHead{}, false
		case t.symbol('('):
			depth++
		case t.symbol(')'):
			depth--
		case depth > 0:
		case t.is("SELECT"), t.is("WITH"), t.is("INFILE"):
			return insertHead{}, false
		case t.is("VALUES"):
			return insertHead{into: text[:t.start], format: "Values", data: t.end}, true
		case t.is("FORMAT"):
			name, more := nextToken(text, t.end)
			if !more || name.kind != tokenWord {
				return insertHead{}, false
			}
			return insertHead{into: text[:t.start], format: name.text, data: skipLineEnd(text, name.end)}, true
		}
	}
}

// skipLineEnd passes the blanks and the one line end that separate the format's name from binary data.
func skipLineEnd(text string, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r') {
		at++
	}
	if at < len(text) && text[at] == '\n' {
		at++
	}
	return at
}

// bodyFile is the complete data of one insert, in memory, readable by the engine under a name.
type bodyFile struct{ file *os.File }

// newBodyFile reads data to its end. The size is bounded, because it is memory.
func newBodyFile(data io.Reader) (*bodyFile, error) {
	fd, err := unix.MemfdCreate("tributary-insert", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the body: %w", err)
	}
	b := &bodyFile{file: os.NewFile(uintptr(fd), "tributary-insert")}
	n, err := io.Copy(b.file, io.LimitReader(data, maxBodyBytes+1))
	switch {
	case err != nil:
		b.close()
		var own *serverException
		if errors.As(err, &own) {
			return nil, own
		}
		return nil, exception(codeCannotDecompress, "cannot read the request's body: %v (CANNOT_DECOMPRESS)", err)
	case n > maxBodyBytes:
		b.close()
		return nil, exception(codeTooManyBytes, "the data of one INSERT may have %d bytes (TOO_MANY_BYTES)", maxBodyBytes)
	}
	return b, nil
}

func (b *bodyFile) close() { _ = b.file.Close() }

// statement reads the body into the table. The structure is that of the insertion table, so columns are matched by name where the format
// has names, and columns that the data lacks get the table's defaults: as FORMAT in an INSERT does it.
func (h insertHead) statement(b *bodyFile) string {
	var sql strings.Builder
	sql.WriteString(h.into)
	fmt.Fprintf(&sql, "\nSELECT * FROM file('/proc/self/fd/%d', %s)", b.file.Fd(), quote(h.format))
	sql.WriteString(" SETTINGS use_structure_from_insertion_table_in_table_functions = 1")
	return sql.String()
}
