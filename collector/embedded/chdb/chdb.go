package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Library is an opened libchdb.so.
type Library struct {
	connectMu sync.Mutex // signal handlers are process-wide: one connect or close at a time

	setSignalHandlersEnabled func(int32)
	connect                  func(argc int32, argv unsafe.Pointer) *connectionHandle
	closeConn                func(*connectionHandle)
	query                    func(conn uintptr, query unsafe.Pointer, queryLen uintptr, format unsafe.Pointer, formatLen uintptr) uintptr
	queryWithParams          func(conn uintptr, query unsafe.Pointer, queryLen uintptr, format unsafe.Pointer, formatLen uintptr,
		names, nameLens, values, valueLens unsafe.Pointer, count uintptr) uintptr
	destroyResult func(uintptr)
	buffer        func(uintptr) unsafe.Pointer
	length        func(uintptr) uintptr
	resultError   func(uintptr) string
	rows          func(uintptr) uint64
	bytes         func(uintptr) uint64
	readRows      func(uintptr) uint64
	readBytes     func(uintptr) uint64
	writtenRows   func(uintptr) uint64
	writtenBytes  func(uintptr) uint64
}

// connectionHandle is what chdb_connect returns: a cell that holds the connection.
type connectionHandle struct{ conn uintptr }

// Open loads the library at path. Call it once in a process.
func Open(path string) (*Library, error) {
	lib := &Library{}
	var openErr error
	err := keepSignalHandlers(func() {
		handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
		if err != nil {
			openErr = fmt.Errorf("load %s: %w", path, err)
			return
		}
		if openErr = lib.bind(handle); openErr == nil {
			lib.setSignalHandlersEnabled(0)
		}
	})
	if err := errors.Join(openErr, err); err != nil {
		return nil, err
	}
	return lib, nil
}

func (l *Library) bind(handle uintptr) error {
	functions := []struct {
		fn   any
		name string
	}{
		{&l.setSignalHandlersEnabled, "chdb_set_signal_handlers_enabled"},
		{&l.connect, "chdb_connect"},
		{&l.closeConn, "chdb_close_conn"},
		{&l.query, "chdb_query_n"},
		{&l.queryWithParams, "chdb_query_with_params_n"},
		{&l.destroyResult, "chdb_destroy_query_result"},
		{&l.buffer, "chdb_result_buffer"},
		{&l.length, "chdb_result_length"},
		{&l.resultError, "chdb_result_error"},
		{&l.rows, "chdb_result_rows_read"},
		{&l.bytes, "chdb_result_bytes_read"},
		{&l.readRows, "chdb_result_storage_rows_read"},
		{&l.readBytes, "chdb_result_storage_bytes_read"},
		{&l.writtenRows, "chdb_result_rows_written"},
		{&l.writtenBytes, "chdb_result_bytes_written"},
	}
	for _, f := range functions {
		symbol, err := purego.Dlsym(handle, f.name)
		if err != nil {
			return fmt.Errorf("find %s in the library: %w", f.name, err)
		}
		purego.RegisterFunc(f.fn, symbol)
	}
	return nil
}

// Connect opens a connection. The first one starts the engine with the arguments (--path=…, --config-file=…); later ones must
// name the same path.
func (l *Library) Connect(args ...string) (*Conn, error) {
	l.connectMu.Lock()
	defer l.connectMu.Unlock()
	args = append([]string{"tributary"}, args...)
	argv := make([]*byte, 0, len(args)+1)
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, arg := range args {
		text := append([]byte(arg), 0)
		pin.Pin(&text[0])
		argv = append(argv, &text[0])
	}
	argv = append(argv, nil)
	pin.Pin(&argv[0])
	var handle *connectionHandle
	err := keepSignalHandlers(func() {
		handle = l.connect(int32(len(args)), unsafe.Pointer(&argv[0]))
	})
	if err != nil {
		return nil, err
	}
	if handle == nil || handle.conn == 0 {
		return nil, errors.New("connect to the engine: no connection (the engine's reason is on standard error)")
	}
	return &Conn{lib: l, handle: handle}, nil
}

// Conn is one connection: one statement at a time, with its own settings, database and user.
type Conn struct {
	lib    *Library
	handle *connectionHandle
}

// Close ends the connection. The last one closed stops the engine cleanly.
func (c *Conn) Close() error {
	c.lib.connectMu.Lock()
	defer c.lib.connectMu.Unlock()
	if c.handle == nil {
		return nil
	}
	handle := c.handle
	c.handle = nil
	return keepSignalHandlers(func() { c.lib.closeConn(handle) })
}

// Param is the value of one {name:Type} placeholder, in the escaped text form that ClickHouse's HTTP interface takes.
type Param struct{ Name, Value string }

// Query runs one statement. format is the output format where the statement names none. A failed statement gives an *Error.
// The caller releases the result.
func (c *Conn) Query(query, format string, params ...Param) (*Result, error) {
	if c.handle == nil {
		return nil, errors.New("query on a closed connection")
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	queryText, formatText := pinned(&pin, query), pinned(&pin, format)
	var result uintptr
	if len(params) == 0 {
		result = c.lib.query(c.handle.conn, queryText, uintptr(len(query)), formatText, uintptr(len(format)))
	} else {
		names, nameLens, values, valueLens := pinnedParams(&pin, params)
		result = c.lib.queryWithParams(c.handle.conn, queryText, uintptr(len(query)), formatText, uintptr(len(format)),
			names, nameLens, values, valueLens, uintptr(len(params)))
	}
	if result == 0 {
		return nil, errors.New("query: the engine gave no result")
	}
	r := &Result{lib: c.lib, result: result}
	if text := c.lib.resultError(result); text != "" {
		r.Release()
		return nil, &Error{Text: text}
	}
	return r, nil
}

// pinned gives C a stable pointer to a text; the byte after it keeps the pointer valid for an empty one.
func pinned(pin *runtime.Pinner, text string) unsafe.Pointer {
	b := append([]byte(text), 0)
	pin.Pin(&b[0])
	return unsafe.Pointer(&b[0])
}

func pinnedParams(pin *runtime.Pinner, params []Param) (names, nameLens, values, valueLens unsafe.Pointer) {
	pointers := make([]unsafe.Pointer, 2*len(params))
	lengths := make([]uintptr, 2*len(params))
	for i, p := range params {
		pointers[i], lengths[i] = pinned(pin, p.Name), uintptr(len(p.Name))
		pointers[len(params)+i], lengths[len(params)+i] = pinned(pin, p.Value), uintptr(len(p.Value))
	}
	pin.Pin(&pointers[0])
	pin.Pin(&lengths[0])
	return unsafe.Pointer(&pointers[0]), unsafe.Pointer(&lengths[0]),
		unsafe.Pointer(&pointers[len(params)]), unsafe.Pointer(&lengths[len(params)])
}

// Error is the engine's refusal of a statement, in its own words: "… (SYMBOLIC_NAME)".
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

// Result is the whole answer of one statement, in the engine's memory.
type Result struct {
	lib    *Library
	result uintptr
}

// Bytes is the formatted answer. It is the engine's memory: valid until Release.
func (r *Result) Bytes() []byte {
	n := r.lib.length(r.result)
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(r.lib.buffer(r.result)), int(n))
}

// Stats are the engine's counters of one statement. Written rows include those of materialized views.
type Stats struct {
	ResultRows, ResultBytes, ReadRows, ReadBytes, WrittenRows, WrittenBytes uint64
}

// Stats of the statement.
func (r *Result) Stats() Stats {
	return Stats{
		ResultRows: r.lib.rows(r.result), ResultBytes: r.lib.bytes(r.result),
		ReadRows: r.lib.readRows(r.result), ReadBytes: r.lib.readBytes(r.result),
		WrittenRows: r.lib.writtenRows(r.result), WrittenBytes: r.lib.writtenBytes(r.result),
	}
}

// Release frees the answer; a second call does nothing.
func (r *Result) Release() {
	if r.result != 0 {
		r.lib.destroyResult(r.result)
		r.result = 0
	}
}
