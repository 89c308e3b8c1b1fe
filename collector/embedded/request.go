package embedded

import (
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"tributary/collector/embedded/chdb"
)

const (
	defaultDatabase = "tributary"
	defaultFormat   = "TabSeparated"
)

type setting struct{ name, value string }

// request is what the URL and the headers of one HTTP request ask for.
type request struct {
	query, database, format, queryID string
	settings                         []setting
	params                           []chdb.Param
	writer                           bool   // with the credential
	revision                         uint64 // of the Native format the client wants; 0: the plain file format
	compressAnswer, decompressBody   bool   // ClickHouse's own block framing
	compression                      string // of that framing
	httpCompression                  bool
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// parseRequest reads and checks everything but the body.
func (h *handler) parseRequest(r *http.Request) (*request, error) {
	if err := foreignPage(r); err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, exception(codeBadArguments, "cannot read the URL's parameters: %v (BAD_ARGUMENTS)", err)
	}
	req := &request{
		database: firstOf(values.Get("database"), r.Header.Get("X-ClickHouse-Database"), defaultDatabase),
		format:   firstOf(values.Get("default_format"), r.Header.Get("X-ClickHouse-Format"), defaultFormat),
		queryID:  firstOf(values.Get("query_id"), newQueryID()),
	}
	if req.writer, err = h.authenticate(r, values); err != nil {
		return nil, err
	}
	if value := values.Get("readonly"); value != "" && value != "0" {
		req.writer = false // a writer who asks for a read-only request gets a reader's
	}
	for name, list := range values {
		if err := req.take(name, list[len(list)-1]); err != nil {
			return nil, err
		}
	}
	req.query = values.Get("query")
	return req, nil
}

// take understands one parameter of the URL: one of the interface's own, or a setting of the engine.
func (req *request) take(name, value string) (err error) {
	switch name {
	case "query", "database", "default_format", "query_id", "user", "password", "readonly":
	case "quota_key", "buffer_size", "wait_end_of_query", "send_progress_in_http_headers", "http_headers_progress_interval_ms", "stacktrace",
		"add_http_cors_header", "http_zlib_compression_level", "network_zstd_compression_level", "log_comment", "http_write_exception_in_output_format":
		// Nothing to do here: an answer is always complete before it is sent, and log_comment is how a statement is killed.
	case "session_id", "session_timeout", "session_check", "role":
		return exception(codeNotImplemented, "the embedded store has no sessions and roles: parameter %s is not accepted (NOT_IMPLEMENTED)", name)
	case "compress":
		req.compressAnswer = value == "1"
	case "decompress":
		req.decompressBody = value == "1"
	case "network_compression_method":
		req.compression = strings.ToUpper(value)
	case "enable_http_compression":
		req.httpCompression = value == "1" || value == "true"
	case "client_protocol_version":
		req.revision, err = strconv.ParseUint(value, 10, 32)
		if err != nil {
			return exception(codeBadArguments, "client_protocol_version is not a number (BAD_ARGUMENTS)")
		}
	default:
		if param, ok := strings.CutPrefix(name, "param_"); ok {
			req.params = append(req.params, chdb.Param{Name: param, Value: value})
			return nil
		}
		return req.takeSetting(name, value)
	}
	return nil
}

func (req *request) takeSetting(name, value string) error {
	switch {
	case !settingName.MatchString(name):
		return exception(codeBadArguments, "%q is no name of a setting (BAD_ARGUMENTS)", name)
	case !req.writer && !readerSettings(name):
		return exception(codeAccessDenied, "Setting %s cannot be changed without credentials (ACCESS_DENIED)", name)
	}
	req.settings = append(req.settings, setting{name, value})
	return nil
}

// foreignPage refuses what a web page made the user's browser send: on a shared host or a laptop loopback is no border. Browsers
// put Origin or Sec-Fetch-Site on such requests; a page whose name was pointed at this address (DNS rebinding) is told by its Host.
func foreignPage(r *http.Request) error {
	site := r.Header.Get("Sec-Fetch-Site")
	if r.Header.Get("Origin") != "" || site != "" && site != "none" {
		return exception(codeAccessDenied, "requests of web pages are not accepted (ACCESS_DENIED)")
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil && host != "localhost" {
		return exception(codeAccessDenied, "Host must be an IP address or localhost (ACCESS_DENIED)")
	}
	return nil
}

// authenticate tells writers from readers. ClickHouse clients without credentials name the user default with an empty password.
func (h *handler) authenticate(r *http.Request, values url.Values) (writer bool, err error) {
	user, password, basic := r.BasicAuth()
	switch {
	case basic:
	case r.Header.Get("Authorization") != "":
		return false, exception(codeAuthentication, "only Basic authorization is understood (AUTHENTICATION_FAILED)")
	case r.Header.Get("X-ClickHouse-User") != "" || r.Header.Get("X-ClickHouse-Key") != "":
		user, password = r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	default:
		user, password = values.Get("user"), values.Get("password")
	}
	if (user == "" || user == "default") && password == "" {
		return false, nil
	}
	if !h.credential.matches(user, password) {
		return false, exception(codeAuthentication, "%s: Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)", user)
	}
	return true, nil
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// newQueryID makes a random UUID.
func newQueryID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return fmt.Sprintf("%s-%s-%s-%s-%s", text[:8], text[8:12], text[12:16], text[16:20], text[20:])
}

// bodyReader undoes the body's compressions. What it reads is bounded by its callers.
func (req *request) bodyReader(r *http.Request) (io.Reader, error) {
	var body io.Reader = r.Body
	var err error
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		body, err = gzip.NewReader(body)
	case "deflate":
		body, err = zlib.NewReader(body)
	case "zstd":
		var decoder *zstd.Decoder
		decoder, err = zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		body = decoder
	case "lz4":
		body = lz4.NewReader(body)
	default:
		return nil, exception(codeNotImplemented, "Unknown compression method %s (NOT_IMPLEMENTED)", encoding)
	}
	if err != nil {
		return nil, exception(codeCannotDecompress, "cannot decompress the request's body: %v (CANNOT_DECOMPRESS)", err)
	}
	if req.decompressBody {
		body = &framedReader{compress.NewReader(body)}
	}
	return body, nil
}

// framedReader gives the end of the data as io.EOF, which the frame reader wraps.
type framedReader struct{ frames *compress.Reader }

func (f *framedReader) Read(p []byte) (int, error) {
	n, err := f.frames.Read(p)
	if err != nil && isPlainEOF(err) {
		return n, io.EOF
	}
	return n, err
}
