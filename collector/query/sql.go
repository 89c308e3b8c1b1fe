package query

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Format is how an answer is written.
type Format string

// The formats.
const (
	FormatTable Format = "table" // aligned columns for people
	FormatJSON  Format = "json"  // one JSON object a line
)

func parseFormat(text string, also ...Format) (Format, error) {
	known := append([]Format{FormatTable, FormatJSON}, also...)
	switch f := Format(text); {
	case slices.Contains(known, f):
		return f, nil
	case text == "jsonl":
		return FormatJSON, nil
	}
	return "", fmt.Errorf("output %q is unknown: this verb writes %v", text, known)
}

// SQL runs one read-only statement and writes its answer. A FORMAT clause in the statement overrides the format.
func SQL(ctx context.Context, c *Client, statement string, f Format, w io.Writer) error {
	if strings.TrimSpace(statement) == "" {
		return errors.New(`a statement is needed, for example: sql "SELECT count() FROM flows"`)
	}
	return c.print(ctx, question{statement: statement}, f, w)
}

// print asks and writes the answer in a format for people or programs.
func (c *Client) print(ctx context.Context, ask question, f Format, w io.Writer) error {
	ask.format = "JSONEachRow"
	if f == FormatTable {
		ask.format = "JSONCompactEachRowWithNamesAndTypes"
	}
	answer, err := c.store.Do(ctx, ask.readOnly())
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if got := answer.Header.Get(formatHeader); f == FormatTable && (got == "" || got == ask.format) {
		return tabulate(answer.Body, w)
	}
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("copy the answer: %w", err)
	}
	return nil
}

// tabulate prints JSONCompactEachRowWithNamesAndTypes: names, types, then rows, each an array on a line.
func tabulate(r io.Reader, w io.Writer) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLineBytes)
	var head [2][]string
	for i := range head {
		if !lines.Scan() {
			return lines.Err() // a statement without an answer
		}
		if err := json.Unmarshal(lines.Bytes(), &head[i]); err != nil {
			return fmt.Errorf("understand the answer: %w", err)
		}
	}
	right := make([]bool, len(head[1]))
	for i, t := range head[1] {
		right[i] = isNumber(t)
	}
	t := newTable(w, head[0], right)
	for lines.Scan() {
		var row []json.RawMessage
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil || len(row) != len(right) {
			return fmt.Errorf("understand the answer: a row of %d columns: %w", len(row), err)
		}
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = cellText(v)
		}
		t.row(cells...)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return t.flush()
}

func isNumber(t string) bool {
	t = strings.TrimSuffix(strings.TrimPrefix(t, "Nullable("), ")")
	for _, p := range []string{"UInt", "Int", "Float", "Decimal"} {
		if strings.HasPrefix(t, p) {
			return true
		}
	}
	return false
}

// cellText shows strings without quotes and everything else as JSON does.
func cellText(v json.RawMessage) string {
	var s string
	if len(v) > 0 && v[0] == '"' && json.Unmarshal(v, &s) == nil {
		return s
	}
	return string(v)
}
