package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tributary/collector/embedded"
)

// store answers ClickHouse's HTTP interface: the real engine answers everything but the inserts of flows, of which only the first of each
// configuration reaches it. The others are read whole and counted.
type store struct {
	engine *httputil.ReverseProxy
	first  sync.Mutex
	stored atomic.Bool

	rows, blocks, bytes atomic.Uint64
}

// storeReport is the answer to GET /bench.
type storeReport struct{ Rows, Blocks, Bytes uint64 }

const insertFlows = "INSERT INTO tributary.flows_raw "

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/bench" {
		_ = json.NewEncoder(w).Encode(storeReport{s.rows.Load(), s.blocks.Load(), s.bytes.Load()})
		return
	}
	if !strings.HasPrefix(r.URL.Query().Get("query"), insertFlows) {
		s.engine.ServeHTTP(w, r)
		return
	}
	body := countingBody{ReadCloser: r.Body}
	r.Body = &body
	if s.claimFirst() {
		s.engine.ServeHTTP(w, r)
	} else {
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, &body, make([]byte, 256<<10)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("X-ClickHouse-Summary", fmt.Sprintf(`{"read_rows":"%[1]d","written_rows":"%[1]d"}`, body.rows()))
		w.WriteHeader(http.StatusOK)
	}
	s.rows.Add(body.rows())
	s.blocks.Add(1)
	s.bytes.Add(body.size)
}

func (s *store) claimFirst() bool {
	s.first.Lock()
	defer s.first.Unlock()
	return s.stored.CompareAndSwap(false, true)
}

// countingBody counts what it passes on and keeps the head of the block: FORMAT Native begins with the numbers of columns and rows, as
// varints. (A compressed body does not, so the benchmark's store is asked for none.)
type countingBody struct {
	io.ReadCloser
	head []byte
	size uint64
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if missing := 2*binary.MaxVarintLen64 - len(b.head); missing > 0 {
		b.head = append(b.head, p[:min(n, missing)]...)
	}
	b.size += uint64(n)
	return n, err
}

func (b *countingBody) rows() uint64 {
	_, n := binary.Uvarint(b.head)
	if n <= 0 {
		return 0
	}
	rows, _ := binary.Uvarint(b.head[n:])
	return rows
}

// storeMain is the store's process. It prints its address and who may write, and lives until its standard input ends.
func storeMain(dir, collector, library string) error {
	program, err := filepath.Abs(collector)
	if err != nil {
		return err
	}
	engine, err := embedded.New(embedded.Config{
		DataDir: dir, Listen: "127.0.0.1:0", LibraryPath: library, Command: []string{program, "embedded-child"},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return err
	}
	if err := engine.Start(context.Background()); err != nil {
		return err
	}
	defer engine.Stop()
	behind, err := url.Parse(engine.URL())
	if err != nil {
		return err
	}
	s := &store{engine: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(behind) }}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	credential := engine.Credential()
	fmt.Println(listener.Addr(), url.UserPassword(credential.User, credential.Password))
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = server.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// firstBlock asks the engine about the one block that it has.
func firstBlock(address string) (rows, named uint64, err error) {
	query := "SELECT count(), countIf(remote_workload != '' AND local_workload != '' AND remote_why = 'named') FROM tributary.flows_raw FORMAT TSV"
	text, err := get("http://" + address + "/?query=" + url.QueryEscape(query))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return 0, 0, fmt.Errorf("the engine answers %q", text)
	}
	if rows, err = strconv.ParseUint(fields[0], 10, 64); err != nil {
		return 0, 0, err
	}
	named, err = strconv.ParseUint(fields[1], 10, 64)
	return rows, named, err
}

func storeCounts(address string) (r storeReport, err error) {
	text, err := get("http://" + address + "/bench")
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(text), &r)
}

func get(url string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(text)))
	}
	return string(text), err
}
