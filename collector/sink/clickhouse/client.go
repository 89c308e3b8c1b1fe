package clickhouse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"tributary/collector/schema"
)

// client sends blocks over ClickHouse's HTTP interface (https://clickhouse.com/docs/interfaces/http).
type client struct {
	cfg  Config
	http *http.Client
	base string // the URL up to the token
}

func newClient(cfg Config) *client {
	q := url.Values{}
	q.Set("query", "INSERT INTO "+cfg.Server.Database+".flows_raw ("+strings.Join(schema.Names(), ", ")+") FORMAT Native")
	// One body is one block is one part, whatever the user's profile says: a block that is cut differently at a retry would be stored
	// in part and reported as whole.
	q.Set("max_insert_block_size", "16777216")
	q.Set("max_insert_threads", "1")
	q.Set("async_insert", "0")
	q.Set("insert_deduplicate", "1")
	q.Set("wait_end_of_query", "1") // errors come as a status, not behind a 200
	if cfg.Compression == CompressionLZ4 {
		q.Set("decompress", "1")
	}
	return &client{
		cfg:  cfg,
		http: &http.Client{Transport: cfg.Server.Transport(cfg.Inserters), Timeout: cfg.InsertTimeout},
		base: strings.TrimSuffix(cfg.Server.URL, "/") + "/?" + q.Encode() + "&insert_deduplication_token=",
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// errShort is the answer of a server that stored only a part of a block.
var errShort = errors.New("the server reports fewer rows than it was sent")

// refusal is an answer of ClickHouse that is not success.
type refusal struct {
	status int
	code   int // ClickHouse's number, 0 if it gave none
	text   string
}

func (r *refusal) Error() string {
	if r.code == codeDiskFull {
		return "its disk is full: " + r.text
	}
	if r.text == "" {
		return fmt.Sprintf("HTTP status %d", r.status)
	}
	return r.text
}

// Numbers of ClickHouse's errors (src/Common/ErrorCodes.cpp), also in system.errors.
const codeDiskFull = 243

// repairCodes are errors that stay until somebody changes something: a table, a column, a right, a password, a setting.
var repairCodes = map[int]bool{
	6: true, 16: true, 26: true, 27: true, 33: true, 36: true, 43: true, 44: true, 46: true, 47: true, 48: true, 50: true, 53: true,
	60: true, 62: true, 70: true, 81: true, 115: true, 117: true, 164: true, 192: true, 193: true, 194: true, 291: true, 452: true,
	497: true, 516: true,
}

// repair reports whether trying again soon is pointless.
func (r *refusal) repair() bool {
	if r.code != 0 {
		return repairCodes[r.code]
	}
	return r.status >= 400 && r.status < 500 && r.status != http.StatusRequestTimeout && r.status != http.StatusTooManyRequests
}

// insert sends the block once. It returns nil only if the server said that the rows are stored, now or by an earlier try.
func (c *client) insert(ctx context.Context, token string, body []byte, rows int) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+token, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make an insert: %w", err)
	}
	c.cfg.Server.Authorize(r)
	r.Header.Set("Content-Type", "application/octet-stream")
	if c.cfg.Compression == CompressionZSTD {
		r.Header.Set("Content-Encoding", "zstd")
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return schema.Unreachable(c.cfg.Server, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if err != nil {
		return schema.Unreachable(c.cfg.Server, err)
	}
	if refused := refusalOf(answer, string(text)); refused != nil {
		return fmt.Errorf("the ClickHouse server at %s refuses an insert: %w", c.cfg.Server.URL, refused)
	}
	return checkSummary(answer.Header.Get("X-ClickHouse-Summary"), rows)
}

func refusalOf(answer *http.Response, text string) *refusal {
	code, _ := strconv.Atoi(answer.Header.Get("X-ClickHouse-Exception-Code"))
	if answer.StatusCode == http.StatusOK && code == 0 && !strings.Contains(text, "DB::Exception") {
		return nil
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 500 {
		text = text[:500] + "…"
	}
	return &refusal{status: answer.StatusCode, code: code, text: text}
}

// checkSummary compares the rows the server says it wrote. None is right too: a block that was stored before is skipped.
func checkSummary(header string, rows int) error {
	var summary struct {
		Written string `json:"written_rows"`
	}
	if header == "" || json.Unmarshal([]byte(header), &summary) != nil || summary.Written == "" {
		return nil // older servers and proxies do not say
	}
	written, err := strconv.Atoi(summary.Written)
	if err != nil || written == 0 || written >= rows {
		return nil
	}
	return fmt.Errorf("%w: %d of %d", errShort, written, rows)
}
