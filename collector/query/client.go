package query

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tributary/collector/schema"
)

// Client asks a ClickHouse server, read-only. It is safe for concurrent use.
type Client struct{ store *schema.Client }

// connections at most: a question about edges is as many statements at once as it has parts.
const connections = 4

// NewClient returns a client that connects at the first question.
func NewClient(s schema.Server) *Client { return &Client{schema.NewClient(s, connections)} }

// Close drops idle connections.
func (c *Client) Close() { c.store.Close() }

func (c *Client) database() string { return c.store.Server().Database }

// maxSeconds ends a question that runs for too long.
const maxSeconds = "60"

// formatHeader names the format of an answer, which a FORMAT clause in the statement decides against the default.
const formatHeader = "X-ClickHouse-Format"

// question is one statement and how its answer is to be written.
type question struct {
	statement string
	format    string            // unless the statement has a FORMAT clause
	params    map[string]string // for its {name:Type} placeholders
	rfc3339   bool              // times as 2026-11-20T14:03:00Z, not as ClickHouse usually writes them
}

// readOnly is read, and settings of one's own; the user's rights limit it further.
func (q question) readOnly() schema.Statement {
	s := schema.Statement{
		Text: q.statement, Format: q.format, Params: q.params, Settings: map[string]string{"readonly": "2", "max_execution_time": maxSeconds},
	}
	if q.rfc3339 {
		s.Settings["date_time_output_format"] = "iso"
	}
	return s
}

// maxLineBytes bounds one row of an answer.
const maxLineBytes = 16 << 20

// rows runs a statement and calls visit with each row as a JSON object.
func (c *Client) rows(ctx context.Context, statement string, params map[string]string, visit func(line []byte) error) error {
	return c.store.EachRow(ctx, question{statement: statement, params: params}.readOnly(), visit)
}

// collect runs a statement and returns its rows.
func collect[T any](ctx context.Context, c *Client, statement string, params map[string]string) ([]T, error) {
	return schema.Rows[T](ctx, c.store, question{statement: statement, params: params}.readOnly())
}

// ParseTime reads RFC 3339, a time before now such as -5m or -2d, or now.
func ParseTime(text string, now time.Time) (time.Time, error) {
	if text == "now" {
		return now, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if rest, ok := strings.CutPrefix(text, "-"); ok {
		if days, ok := strings.CutSuffix(rest, "d"); ok {
			if n, err := strconv.ParseUint(days, 10, 16); err == nil {
				return now.AddDate(0, 0, -int(n)), nil
			}
		}
		if d, err := time.ParseDuration(rest); err == nil && d >= 0 {
			return now.Add(-d), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: write RFC 3339 (2026-11-20T14:03:00Z) or a time before now (-5m, -2h, -1d)", text)
}

// window is a stretch of time with an end, which may be open.
type window struct{ since, until time.Time }

var (
	errBackwards = errors.New("--since is after --until")
	errFuture    = errors.New("--since is in the future: nothing has been recorded there yet")
	errAtFuture  = errors.New("--at is in the future: nobody can know yet who will have the address")
)

func parseWindow(since, until string, now time.Time) (window, error) {
	var w window
	var err error
	if since != "" {
		if w.since, err = ParseTime(since, now); err != nil {
			return w, err
		}
	}
	if until != "" {
		if w.until, err = ParseTime(until, now); err != nil {
			return w, err
		}
	}
	if w.since.After(now) {
		return w, errFuture
	}
	if !w.since.IsZero() && !w.until.IsZero() && w.since.After(w.until) {
		return w, errBackwards
	}
	return w, nil
}

// condition limits a column to the window, in SQL.
func (w window) condition(column string) string {
	parts := []string{"1"}
	if !w.since.IsZero() {
		parts = append(parts, fmt.Sprintf("%s >= fromUnixTimestamp64Nano(%d)", column, w.since.UnixNano()))
	}
	if !w.until.IsZero() {
		parts = append(parts, fmt.Sprintf("%s < fromUnixTimestamp64Nano(%d)", column, w.until.UnixNano()))
	}
	return strings.Join(parts, " AND ")
}
