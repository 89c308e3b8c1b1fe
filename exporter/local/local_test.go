package local

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve answers with what it was asked until the test ends.
func serve(t *testing.T, path string) (end func() error) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /x", func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 100)
		n, _ := r.Body.Read(b)
		_, _ = w.Write(b[:n])
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, path, mux) }()
	t.Cleanup(cancel)
	for range 500 {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
			return func() error { cancel(); return <-done }
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("nobody answers")
	return nil
}

func TestAskAndTakeOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	// a socket without its process
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()

	end := serve(t, path)
	var answer map[string]int
	if err := (Client{path}).Ask(t.Context(), http.MethodPut, "/x", map[string]int{"a": 7}, &answer); err != nil || answer["a"] != 7 {
		t.Errorf("%v %v", answer, err)
	}
	if err := (Client{path}).Ask(t.Context(), http.MethodGet, "/x", nil, &answer); err == nil || !strings.Contains(err.Error(), "Method Not Allowed") {
		t.Errorf("the wrong method: %v", err)
	}
	if err := Serve(t.Context(), path, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one: %v", err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	if err := (Client{path}).Ask(t.Context(), http.MethodPut, "/x", 1, &answer); err == nil || !strings.Contains(err.Error(), "no exporter answers") {
		t.Errorf("nobody there: %v", err)
	}
	if err := Serve(t.Context(), "/nowhere/s", nil); err == nil {
		t.Error("a directory that is not there")
	}
}
