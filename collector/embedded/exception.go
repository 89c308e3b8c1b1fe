package embedded

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"tributary/collector/embedded/chdb"
)

// Numbers of ClickHouse's exceptions that are raised here, not by the engine.
const (
	codeBadArguments     = 36
	codeNotImplemented   = 48
	codeSyntaxError      = 62
	codeTimeout          = 159
	codeReadonly         = 164
	codeTooManyQueries   = 202
	codeTooLarge         = 229
	codeCannotDecompress = 271
	codeTooManyBytes     = 307
	codeCancelled        = 394
	codeAccessDenied     = 497
	codeAuthentication   = 516
	codeUnknownException = 1002
)

// serverException is an error as a ClickHouse server tells it.
type serverException struct {
	code int
	text string
}

func (e *serverException) Error() string {
	return fmt.Sprintf("Code: %d. DB::Exception: %s", e.code, e.text)
}

func exception(code int, format string, args ...any) *serverException {
	return &serverException{code: code, text: fmt.Sprintf(format, args...)}
}

var (
	symbolicName   = regexp.MustCompile(`\(([A-Z][A-Z0-9_]+)\)\s*(?:\(version [^)]*\)\.?\s*)?$`)
	numberedPrefix = regexp.MustCompile(`^Code: (\d+)\. DB::Exception: `)
	rethrownSuffix = regexp.MustCompile(` \(version [^)]*\)\.? \([A-Z0-9_]+\)$`)
)

// asException gives any error its number. The engine's own errors end in a symbolic name; the number in front of the text is
// not always the same error's, so the name decides.
func (e *engine) asException(err error) *serverException {
	var own *serverException
	if errors.As(err, &own) {
		return own
	}
	var engineErr *chdb.Error
	if !errors.As(err, &engineErr) {
		return exception(codeUnknownException, "%s", err)
	}
	text := strings.TrimSpace(engineErr.Text)
	code := codeUnknownException
	for number := numberedPrefix.FindStringSubmatch(text); number != nil; number = numberedPrefix.FindStringSubmatch(text) {
		code, _ = strconv.Atoi(number[1]) // rethrown errors repeat number, version and name
		text = rethrownSuffix.ReplaceAllString(text[len(number[0]):], "")
	}
	if name := symbolicName.FindStringSubmatch(text); name != nil {
		if known, ok := e.codes[name[1]]; ok {
			code = known
		}
	}
	return &serverException{code: code, text: text}
}

// statusNames is the table by which a ClickHouse server gives an exception its HTTP status (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp);
// what is not in it is 500. TOO_MANY_SIMULTANEOUS_QUERIES is 503 by our own choice: the client may come back.
var statusNames = map[int]string{
	http.StatusUnauthorized: "REQUIRED_PASSWORD",
	http.StatusForbidden:    "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE ACCESS_DENIED",
	http.StatusBadRequest: "BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE CANNOT_PARSE_QUOTED_STRING " +
		"CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_PARSE_IPV4 " +
		"CANNOT_PARSE_IPV6 CANNOT_PARSE_INPUT_ASSERTION_FAILED CANNOT_PARSE_UUID DUPLICATE_COLUMN ILLEGAL_COLUMN UNKNOWN_ELEMENT_IN_AST " +
		"UNKNOWN_TYPE_OF_AST_NODE THERE_IS_NO_COLUMN TOO_DEEP_AST TOO_BIG_AST UNEXPECTED_AST_STRUCTURE SYNTAX_ERROR INCORRECT_DATA " +
		"TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
	http.StatusNotFound: "UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE UNKNOWN_SETTING " +
		"UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT UNKNOWN_DATABASE_ENGINE UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE",
	http.StatusRequestEntityTooLarge: "QUERY_IS_TOO_LARGE TOO_MANY_BYTES",
	http.StatusNotImplemented:        "NOT_IMPLEMENTED",
	http.StatusServiceUnavailable:    "SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK TOO_MANY_SIMULTANEOUS_QUERIES",
	http.StatusRequestTimeout:        "TIMEOUT_EXCEEDED",
}

// statusTable turns the names into this engine's numbers.
func statusTable(codes map[string]int) map[int]int {
	table := make(map[int]int)
	for status, names := range statusNames {
		for name := range strings.FieldsSeq(names) {
			if code, ok := codes[name]; ok {
				table[code] = status
			}
		}
	}
	return table
}

func (e *engine) statusOf(code int) int {
	if status, ok := e.statuses[code]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// writeException answers with the exception in ClickHouse's words.
func (h *handler) writeException(w http.ResponseWriter, err error) {
	e := h.engine.asException(err)
	header := w.Header()
	header.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.code))
	header.Set("Content-Type", "text/plain; charset=UTF-8")
	header.Del("X-ClickHouse-Format")
	w.WriteHeader(h.engine.statusOf(e.code))
	_, _ = fmt.Fprintf(w, "%s (version %s)\n", e.Error(), h.engine.version)
}
