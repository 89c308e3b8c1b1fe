package query

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"tributary/collector/schema"
)

// Client asks a ClickHouse server. It is safe for concurrent use.
type Client struct {
	server schema.Server
	http   *http.Client
}

// NewClient returns a client that connects at the first question.
func NewClient(s schema.Server) *Client {
	return &Client{server: s, http: &http.Client{Transport: s.Transport(2)}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// maxSeconds ends a question that runs for too long.
const maxSeconds = 60

// maxErrorBytes of ClickHouse's explanation are shown.
const maxErrorBytes = 4000

// Error is ClickHouse's answer to a statement it could not run.
type Error struct {
	Code int // ClickHouse's number, 0 if it gave none
	Text string
}

func (e *Error) Error() string { return e.Text }

// formatHeader names the format of an answer, which a FORMAT clause in the statement decides against the default.
const formatHeader = "X-ClickHouse-Format"

// question is one statement and how its answer is to be written.
type question struct {
	statement string
	format    string            // unless the statement has a FORMAT clause
	params    map[string]string // for its {name:Type} placeholders
	rfc3339   bool              // times as 2026-11-20T14:03:00Z, not as ClickHouse usually writes them
}

// post asks a question and returns its answer as ClickHouse writes it. Times are UTC, whatever the server's zone.
func (c *Client) post(ctx context.Context, ask question) (*http.Response, error) {
	q := url.Values{
		"default_format":     {ask.format},
		"session_timezone":   {"UTC"},
		"readonly":           {"2"}, // read, and settings of one's own; the user's rights limit it further
		"wait_end_of_query":  {"1"}, // an error is a status, not a line in the middle of rows
		"max_execution_time": {strconv.Itoa(maxSeconds)},
		"database":           {c.server.Database},
		"output_format_json_quote_64bit_integers": {"0"},
	}
	if ask.rfc3339 {
		q.Set("date_time_output_format", "iso")
	}
	for name, value := range ask.params {
		q.Set("param_"+name, value)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.server.URL, "/")+"/?"+q.Encode(), strings.NewReader(ask.statement))
	if err != nil {
		return nil, fmt.Errorf("make a query: %w", err)
	}
	c.server.Authorize(r)
	answer, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, schema.Unreachable(c.server, err)
	}
	code, _ := strconv.Atoi(answer.Header.Get("X-ClickHouse-Exception-Code"))
	if answer.StatusCode == http.StatusOK && code == 0 {
		return answer, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxErrorBytes))
	if err != nil {
		return nil, schema.Unreachable(c.server, err)
	}
	return nil, explain(c.server, code, answer.Status, strings.TrimSpace(string(text)))
}

// Numbers of ClickHouse's errors (src/Common/ErrorCodes.cpp).
const (
	codeUnknownTable    = 60
	codeUnknownDatabase = 81
)

func explain(s schema.Server, code int, status, text string) error {
	if text == "" {
		text = "the ClickHouse server answers " + status
	}
	ours := strings.Contains(text, "flows") || strings.Contains(text, "edges")
	if code == codeUnknownDatabase || (code == codeUnknownTable && ours) {
		text += "\ndatabase " + s.Database + " at " + s.URL + " has no tables of Tributary: has a collector been started with this --clickhouse?"
	}
	return &Error{Code: code, Text: text}
}

// maxLineBytes bounds one row of an answer.
const maxLineBytes = 16 << 20

// rows runs a statement and calls visit with each row as a JSON object.
func (c *Client) rows(ctx context.Context, statement string, params map[string]string, visit func(line []byte) error) error {
	answer, err := c.post(ctx, question{statement: statement, format: "JSONEachRow", params: params, rfc3339: true})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(make([]byte, 64<<10), maxLineBytes)
	for lines.Scan() {
		if err := visit(lines.Bytes()); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// collect runs a statement and returns its rows.
func collect[T any](ctx context.Context, c *Client, statement string, params map[string]string) ([]T, error) {
	var out []T
	err := c.rows(ctx, statement, params, func(line []byte) error {
		var row T
		if err := json.Unmarshal(line, &row); err != nil {
			return fmt.Errorf("understand the answer: %w", err)
		}
		out = append(out, row)
		return nil
	})
	return out, err
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

var errBackwards = errors.New("--since is after --until")

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
