// Package local is the exporter's own interface on a unix socket: what `tributary-exporter filter` asks the running exporter.
//
// Only the exporter's user and root may connect (mode 0600). Requests and answers are small JSON documents over HTTP; a request is bounded in
// bytes and time. Serve takes over the socket of an exporter that is gone and leaves that of one that answers alone.
package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxBody = 1 << 20
	timeout = 5 * time.Second
)

// ErrInUse says that another exporter answers on the socket.
var ErrInUse = errors.New("another exporter uses it")

// Serve answers on the socket until ctx ends.
func Serve(ctx context.Context, path string, handler http.Handler) error {
	l, err := listen(ctx, path)
	if err != nil {
		return fmt.Errorf("local socket %s: %w", path, err)
	}
	server := &http.Server{
		Handler: http.MaxBytesHandler(handler, maxBody), ReadTimeout: timeout, WriteTimeout: timeout, IdleTimeout: timeout, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // the listener was closed already
	defer stop()
	if err := server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("local socket %s: %w", path, err)
	}
	return nil
}

func listen(ctx context.Context, path string) (net.Listener, error) {
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, ErrInUse
	} else if errors.Is(err, unix.ECONNREFUSED) {
		os.Remove(path) // of one that was killed; if it cannot be removed, bind says why
	}
	old := unix.Umask(0o177) // the socket must not be open to others even for a moment
	defer unix.Umask(old)
	var config net.ListenConfig
	return config.Listen(ctx, "unix", path)
}

// Client asks a running exporter.
type Client struct{ Path string }

// Ask sends a request with a JSON document (nil: none) and decodes the answer. An error of the exporter is its one sentence.
func (c Client) Ask(ctx context.Context, method, resource string, request, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*timeout)
	defer cancel()
	var body bytes.Buffer
	if request != nil {
		if err := json.NewEncoder(&body).Encode(request); err != nil {
			return fmt.Errorf("ask the exporter: %w", err)
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://exporter"+resource, &body)
	if err != nil {
		return fmt.Errorf("ask the exporter: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", c.Path)
	}}
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return fmt.Errorf("no exporter answers on the socket %s (--socket): %w", c.Path, errors.Unwrap(err))
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read the exporter's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(data)))
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("the exporter's answer is not understood: %w", err)
	}
	return nil
}
