package schema

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Client runs statements over ClickHouse's HTTP interface (https://clickhouse.com/docs/interfaces/http). Times go in and out as UTC. It
// retries nothing and is safe for concurrent use.
type Client struct {
	server Server
	http   *http.Client
	plain  bool // errors stay as ClickHouse words them
}

// NewClient returns a client that connects at its first statement, with at most conns connections.
func NewClient(s Server, conns int) *Client {
	return &Client{server: s, http: &http.Client{Transport: s.Transport(conns)}}
}

// Server is what the client asks.
func (c *Client) Server() Server { return c.server }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Statement is one statement and how it is to be run.
type Statement struct {
	Text     string
	Format   string            // of the answer, unless the text has a FORMAT clause; "" means JSONEachRow
	Params   map[string]string // for its {name:Type} placeholders
	Settings map[string]string
	Data     io.Reader // rows behind an INSERT … FORMAT …; then the text travels in the URL
}

// Error is ClickHouse's answer to a statement it could not run.
type Error struct {
	Code int // ClickHouse's number, 0 if it gave none
	Text string
}

func (e *Error) Error() string { return e.Text }

// maxErrorBytes of ClickHouse's explanation are kept.
const maxErrorBytes = 4000

// paramText writes a value as ClickHouse reads a parameter: escaped, as a field of TabSeparated.
var paramText = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)

// Do runs a statement and returns the answer as ClickHouse writes it; the caller closes its body. An error is found before the first
// row is returned.
func (c *Client) Do(ctx context.Context, s Statement) (*http.Response, error) {
	q := url.Values{
		"default_format":    {s.Format},
		"session_timezone":  {"UTC"},
		"wait_end_of_query": {"1"}, // an error is a status, not a line in the middle of rows
		"database":          {c.server.Database},
		"output_format_json_quote_64bit_integers": {"0"},
	}
	if s.Format == "" {
		q.Set("default_format", "JSONEachRow")
	}
	for name, value := range s.Settings {
		q.Set(name, value)
	}
	for name, value := range s.Params {
		q.Set("param_"+name, paramText.Replace(value))
	}
	body := io.Reader(strings.NewReader(s.Text))
	if s.Data != nil {
		q.Set("query", s.Text)
		body = s.Data
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.server.URL, "/")+"/?"+q.Encode(), body)
	if err != nil {
		return nil, fmt.Errorf("make a query: %w", err)
	}
	c.server.Authorize(r)
	answer, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, Unreachable(c.server, err)
	}
	code, _ := strconv.Atoi(answer.Header.Get("X-ClickHouse-Exception-Code"))
	if answer.StatusCode == http.StatusOK && code == 0 {
		return answer, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxErrorBytes))
	if err != nil {
		return nil, Unreachable(c.server, err)
	}
	return nil, c.explain(ctx, code, answer.Status, strings.TrimSpace(string(text)))
}

// Exec runs a statement that has no answer.
func (c *Client) Exec(ctx context.Context, s Statement) error {
	answer, err := c.Do(ctx, s)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// Numbers of ClickHouse's errors (src/Common/ErrorCodes.cpp).
const (
	codeNoSuchColumn      = 16
	codeUnknownIdentifier = 47
	codeUnknownTable      = 60
	codeUnknownDatabase   = 81
	codeTooManyRows       = 158
	codeTimeout           = 159
	codeTooSlow           = 160
	codeMemoryLimit       = 241
	codeTooManyBytes      = 307
	codeTooLargeResult    = 396
)

// explain adds to ClickHouse's words what to do.
func (c *Client) explain(ctx context.Context, code int, status, text string) error {
	if text == "" {
		text = "the ClickHouse server answers " + status
	}
	if c.plain {
		return &Error{Code: code, Text: text}
	}
	s := c.server
	switch code {
	case codeUnknownDatabase:
		text += "\n" + lacksTables(s)
	case codeUnknownTable:
		if slices.ContainsFunc(Tables(), func(name string) bool { return strings.Contains(text, name) }) {
			text += "\n" + cmp.Or(c.otherVersion(ctx), lacksTables(s))
		}
	case codeUnknownIdentifier, codeNoSuchColumn:
		if other := c.otherVersion(ctx); other != "" {
			text += "\n" + other
		}
	case codeTimeout, codeTooSlow:
		text += "\nthe question took too long: ask for less time (end_time_ns in raw flows, minute or hour in edges), or ask edges_1h in place of flows"
	case codeMemoryLimit, codeTooManyRows, codeTooManyBytes, codeTooLargeResult:
		text += "\nthe question or its answer is too large: ask for less time, filter, add a LIMIT (observe: --last), or add up with GROUP BY"
	}
	return &Error{Code: code, Text: text}
}

func lacksTables(s Server) string {
	return "database " + s.Database + " at " + s.URL + " lacks tables of Tributary: has a collector of this version been started with this --clickhouse?"
}

// otherVersion says that the database is of another version than this program, if it is.
func (c *Client) otherVersion(ctx context.Context) string {
	type row struct {
		Version int `json:"version"`
	}
	steps, err := Migrations(Options{Database: c.server.Database})
	if err != nil {
		return ""
	}
	found, err := Rows[row](ctx, &Client{server: c.server, http: c.http, plain: true}, Statement{Text: "SELECT max(version) AS version FROM " + c.server.Database + ".schema_migrations"})
	if err != nil || len(found) != 1 || found[0].Version == len(steps) {
		return "" // of this version, or the question was not about our tables
	}
	text := fmt.Sprintf("database %s at %s has schema version %d and this program is of version %d: ", c.server.Database, c.server.URL, found[0].Version, len(steps))
	if found[0].Version > len(steps) {
		return text + "ask with the program of the collector that wrote it"
	}
	return text + "it is being migrated, or schema migrate or a collector of this version has yet to do it"
}

// maxLineBytes bounds one row of an answer.
const maxLineBytes = 16 << 20

// EachRow runs a statement and calls visit with each row as a JSON object, times as 2026-11-20T14:03:00Z.
func (c *Client) EachRow(ctx context.Context, s Statement, visit func(line []byte) error) error {
	s.Format = "JSONEachRow"
	s.Settings = maps.Clone(s.Settings)
	if s.Settings == nil {
		s.Settings = map[string]string{}
	}
	s.Settings["date_time_output_format"] = "iso"
	answer, err := c.Do(ctx, s)
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

// Rows runs a statement and returns its rows.
func Rows[T any](ctx context.Context, c *Client, s Statement) ([]T, error) {
	var out []T
	err := c.EachRow(ctx, s, func(line []byte) error {
		var row T
		if err := json.Unmarshal(line, &row); err != nil {
			return fmt.Errorf("understand the answer: %w", err)
		}
		out = append(out, row)
		return nil
	})
	return out, err
}
