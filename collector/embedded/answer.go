package embedded

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"tributary/collector/embedded/chdb"
)

// frameBytes is how much of an answer goes into one compressed frame.
const frameBytes = 1 << 20

// isPlainEOF tells the end between two frames (or blocks) from one in the middle of it, which is io.ErrUnexpectedEOF.
func isPlainEOF(err error) bool {
	return errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)
}

// contentTypes of the formats that people and tools look at; everything else is an octet stream, as on a server.
func contentType(format string) string {
	switch {
	case strings.Contains(format, "EachRow"):
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(format, "JSON"):
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(format, "CSV"):
		return "text/csv; charset=UTF-8"
	case strings.HasPrefix(format, "TabSeparated"), strings.HasPrefix(format, "TSV"):
		return "text/tab-separated-values; charset=UTF-8"
	case strings.HasPrefix(format, "Pretty"), strings.HasPrefix(format, "Vertical"), format == "Markdown", format == "Values":
		return "text/plain; charset=UTF-8"
	case format == "XML":
		return "application/xml; charset=UTF-8"
	}
	return "application/octet-stream"
}

// writeAnswer sends the finished result. Errors on the way to the client end the connection, so that a short answer is never
// taken for a whole one.
func (h *handler) writeAnswer(w http.ResponseWriter, r *http.Request, req *request, format string, result *chdb.Result, started time.Time) error {
	data := result.Bytes()
	if format == "Native" && req.revision > 0 {
		bridged, err := bridgeNative(data, req.revision, h.location)
		if err != nil {
			return exception(codeNotImplemented, "this result cannot be sent at the client's protocol revision: %v (NOT_IMPLEMENTED)", err)
		}
		data = bridged
	}
	header := w.Header()
	header.Set("Content-Type", contentType(format))
	header.Set("X-ClickHouse-Format", format)
	header.Set("X-ClickHouse-Summary", summary(result.Stats(), time.Since(started)))
	if r.Method == http.MethodHead {
		return nil
	}
	controller := http.NewResponseController(w)
	defer func() { _ = controller.SetWriteDeadline(time.Time{}) }() // the next request on this connection has a clock of its own
	out, closeOut := httpEncoder(&patientWriter{w, controller}, w.Header(), r, req)
	var err error
	if req.compressAnswer {
		err = writeFrames(out, data, req.compression)
	} else {
		_, err = out.Write(data)
	}
	if err = errors.Join(err, closeOut()); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// patience is how long a client may take no byte of its answer, which holds one of the few connections to the engine.
const patience = time.Minute

// patientWriter gives up on a client that stopped reading.
type patientWriter struct {
	to         io.Writer
	controller *http.ResponseController
}

func (p *patientWriter) Write(data []byte) (written int, err error) {
	for len(data) > written {
		if err := p.controller.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return written, err
		}
		n, err := p.to.Write(data[written:min(len(data), written+frameBytes)])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// summary has the numbers as texts, as ClickHouse writes them.
func summary(s chdb.Stats, elapsed time.Duration) string {
	return fmt.Sprintf(`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","total_rows_to_read":"0",`+
		`"result_rows":"%d","result_bytes":"%d","elapsed_ns":"%d"}`,
		s.ReadRows, s.ReadBytes, s.WrittenRows, s.WrittenBytes, s.ResultRows, s.ResultBytes, elapsed.Nanoseconds())
}

// httpEncoder compresses where the client accepts it and, as on a server, has set enable_http_compression.
func httpEncoder(w io.Writer, header http.Header, r *http.Request, req *request) (io.Writer, func() error) {
	accepted := r.Header.Get("Accept-Encoding")
	if !req.httpCompression || accepted == "" {
		return w, func() error { return nil }
	}
	for _, encoding := range []string{"zstd", "lz4", "gzip"} {
		if !strings.Contains(accepted, encoding) {
			continue
		}
		header.Set("Content-Encoding", encoding)
		switch encoding {
		case "zstd":
			encoder, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
			if err != nil {
				panic(err) // constant options
			}
			return encoder, encoder.Close
		case "lz4":
			encoder := lz4.NewWriter(w)
			return encoder, encoder.Close
		default:
			encoder := gzip.NewWriter(w)
			return encoder, encoder.Close
		}
	}
	return w, func() error { return nil }
}

// writeFrames writes ClickHouse's own compressed framing (compress=1).
func writeFrames(out io.Writer, data []byte, method string) error {
	kind := compress.LZ4
	if method == "ZSTD" {
		kind = compress.ZSTD
	}
	frame := compress.NewWriter(0, kind)
	for len(data) > 0 {
		n := min(len(data), frameBytes)
		if err := frame.Compress(data[:n]); err != nil {
			return err
		}
		if _, err := out.Write(frame.Data); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// bridgeNative writes Native blocks again at the client's protocol revision: the embedded engine writes FORMAT Native at revision 0 only,
// without block info and without the serialization flag after each column's type.
func bridgeNative(data []byte, revision uint64, location *time.Location) (out []byte, err error) {
	reader := chproto.NewReader(bytes.NewReader(data))
	var buffer chproto.Buffer
	for {
		block := proto.NewBlock()
		block.ServerContext = &column.ServerContext{Timezone: location}
		if err := block.Decode(reader, 0); err != nil {
			if isPlainEOF(err) && len(block.Columns) == 0 {
				return buffer.Buf, nil
			}
			return nil, err
		}
		if err := block.Encode(&buffer, revision); err != nil {
			return nil, err
		}
	}
}
