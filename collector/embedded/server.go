package embedded

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"tributary/collector/embedded/chdb"
)

// handler answers ClickHouse's HTTP interface from the engine.
type handler struct {
	engine     *engine
	credential Credential
	location   *time.Location
	logger     *slog.Logger
}

func newHandler(e *engine, credential Credential, logger *slog.Logger) *handler {
	location, err := time.LoadLocation(e.timezone)
	if err != nil {
		location = time.UTC // only used to carry the times' numbers through the bridge
	}
	return &handler{engine: e, credential: credential, location: location, logger: logger}
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-ClickHouse-Server-Display-Name", "tributary-embedded")
	w.Header().Set("X-ClickHouse-Timezone", h.engine.timezone)
	if done := h.serveWithoutQuery(w, r); done {
		return
	}
	req, err := h.parseRequest(r)
	if err == nil {
		w.Header().Set("X-ClickHouse-Query-Id", req.queryID)
		err = h.serveQuery(w, r, req)
	}
	if err != nil {
		h.writeException(w, err)
	}
}

// serveWithoutQuery answers what needs no engine: the probes, and paths and methods that do not exist.
func (h *handler) serveWithoutQuery(w http.ResponseWriter, r *http.Request) (done bool) {
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case r.URL.Path == "/ping" || r.URL.Path == "/replicas_status" || r.URL.Path == "/" && reading && !r.URL.Query().Has("query"):
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		_, _ = io.WriteString(w, "Ok.\n")
	case r.URL.Path != "/":
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "There is no handle "+r.URL.Path+"\n\nUse / or /ping for health checks and queries.\n")
	case !reading && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, HEAD, POST")
		w.WriteHeader(http.StatusMethodNotAllowed)
	default:
		return false
	}
	return true
}

// serveQuery reads the statement, and the data of an INSERT, completely before a connection is taken.
func (h *handler) serveQuery(w http.ResponseWriter, r *http.Request, req *request) error {
	body, err := req.bodyReader(r)
	if err != nil {
		return err
	}
	text, data, err := readStatement(req, body)
	if err != nil {
		return err
	}
	if strings.TrimSpace(text) == "" {
		return exception(codeSyntaxError, "Empty query (SYNTAX_ERROR)")
	}
	head, withData := splitInsert(text)
	if !withData {
		return h.serveStatement(w, r, req, text)
	}
	if !req.writer {
		return exception(codeAccessDenied, "INSERT needs credentials: user %s with the password in the collector's data directory (ACCESS_DENIED)", writerUser)
	}
	if r.Method != http.MethodPost {
		return methodImpliesReadonly()
	}
	file, err := newBodyFile(io.MultiReader(strings.NewReader(text[head.data:]), data))
	if err != nil {
		return err
	}
	defer file.close()
	return h.serveInsert(w, r, req, head, file)
}

// readStatement joins URL and body as ClickHouse does. Where the URL holds the head of an INSERT, the body is all data; otherwise
// the statement is at the start of the body. data is what follows the text.
func readStatement(req *request, body io.Reader) (text string, data io.Reader, err error) {
	if _, withData := splitInsert(req.query); withData {
		return req.query, body, nil
	}
	start, err := io.ReadAll(io.LimitReader(body, maxQueryBytes+1))
	if err != nil {
		return "", nil, exception(codeCannotDecompress, "cannot read the request's body: %v (CANNOT_DECOMPRESS)", err)
	}
	text = req.query
	if text != "" && len(start) > 0 {
		text += "\n"
	}
	text += string(start)
	if len(text) > maxQueryBytes {
		if _, withData := splitInsert(text); !withData {
			return "", nil, exception(codeTooLarge, "a statement may have %d bytes (QUERY_IS_TOO_LARGE)", maxQueryBytes)
		}
		return text, body, nil
	}
	return text, bytes.NewReader(nil), nil
}

func methodImpliesReadonly() error {
	return exception(codeReadonly, "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. "+
		"You should use method POST for modifying queries. (READONLY)")
}

// serveStatement runs a statement without data.
func (h *handler) serveStatement(w http.ResponseWriter, r *http.Request, req *request, text string) error {
	pool := h.engine.readers
	if req.writer {
		pool = h.engine.writers
	}
	s, err := h.engine.acquire(r.Context(), pool)
	if err != nil {
		return err
	}
	defer func() { pool <- s }()
	st, err := s.parse(text)
	if err != nil {
		return err
	}
	if err := st.allowed(); err != nil {
		return err
	}
	switch {
	case !req.writer:
		err = st.allowedForReaders()
	case !st.reads() && r.Method != http.MethodPost:
		err = methodImpliesReadonly()
	case st.sessionOnly():
		return nil
	}
	if err != nil {
		return err
	}
	return h.execute(w, r, req, s, st)
}

var formatName = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// serveInsert runs an INSERT whose data lies in file.
func (h *handler) serveInsert(w http.ResponseWriter, r *http.Request, req *request, head insertHead, file *bodyFile) error {
	s, err := h.engine.acquire(r.Context(), h.engine.writers)
	if err != nil {
		return err
	}
	defer func() { h.engine.writers <- s }()
	st, err := s.parse(head.statement(file))
	if err != nil {
		return err
	}
	if err := st.allowed(); err != nil {
		return err
	}
	return h.execute(w, r, req, s, st)
}

// execute runs a checked statement on the connection and sends the answer. Reading statements are killed when the client goes away;
// a change is always carried to its end, as on a server.
func (h *handler) execute(w http.ResponseWriter, r *http.Request, req *request, s *slot, st statement) error {
	format := firstOf(st.format, req.format)
	if !formatName.MatchString(format) {
		return exception(codeBadArguments, "%q is no name of a format (BAD_ARGUMENTS)", format)
	}
	ctx := context.WithoutCancel(r.Context())
	if st.reads() {
		ctx = r.Context()
	}
	if !req.writer {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readerTimeout)
		defer cancel()
	}
	started := time.Now()
	if err := s.prepare(req.database, req.settings); err != nil {
		return err
	}
	if !st.reads() {
		s.database = "" // the statement may drop or rename it: select it anew next time
	}
	var params []chdb.Param
	if len(req.params) > 0 {
		params = req.params
	}
	result, err := h.engine.run(ctx, s, st.text, format, params)
	if err != nil {
		return err
	}
	defer result.Release()
	return h.writeAnswer(w, r, req, format, result, started)
}
