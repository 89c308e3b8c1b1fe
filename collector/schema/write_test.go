package schema_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"tributary/collector/schema"
)

// TestInsert: rows go in blocks of a bounded size, all of them, and nothing goes where there are none.
func TestInsert(t *testing.T) {
	var rows, blocks, largest int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		rows, blocks, largest = rows+bytes.Count(body, []byte("\n")), blocks+1, max(largest, len(body))
		if want := "INSERT INTO d.t FORMAT JSONEachRow"; r.URL.Query().Get("query") != want {
			t.Errorf("%s, want %s", r.URL.Query().Get("query"), want)
		}
	}))
	defer server.Close()
	c := schema.NewClient(schema.Server{URL: server.URL, Database: "d"}, 1)
	defer c.Close()
	type row struct {
		Text string `json:"text"`
	}
	large := slices.Repeat([]row{{strings.Repeat("x", 1<<20)}}, 20)
	for _, given := range [][]row{large, nil} {
		if err := schema.Insert(t.Context(), c, "t", slices.Values(given)); err != nil {
			t.Error(err)
		}
	}
	if rows != 20 || blocks != 3 || largest > 10<<20 {
		t.Errorf("%d rows in %d blocks, of up to %d bytes", rows, blocks, largest)
	}
}

// TestWriteEvery: what waits at the end is written with time left.
func TestWriteEvery(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var said []bool
	schema.WriteEvery(ctx, time.Millisecond, func(ctx context.Context, last bool) {
		said = append(said, last)
		if len(said) == 2 {
			cancel()
		}
		if last && ctx.Err() != nil {
			t.Error("the last write has no time")
		}
	})
	if i := slices.Index(said, true); i < 2 || i != len(said)-1 {
		t.Errorf("last: %v", said)
	}
}
