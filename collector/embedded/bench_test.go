package embedded

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// flowBlock is a block of rows like flows, 20 columns, at revision 0.
func flowBlock(b *testing.B, rows int) []byte {
	b.Helper()
	var input []proto.InputColumn
	for c := range 8 {
		var column proto.ColUInt64
		for i := range rows {
			column.Append(uint64(i) * uint64(c+1))
		}
		input = append(input, proto.InputColumn{Name: fmt.Sprintf("u%d", c), Data: column})
	}
	for c := range 8 {
		var column proto.ColUInt32
		for i := range rows {
			column.Append(uint32(i*7919) >> c)
		}
		input = append(input, proto.InputColumn{Name: fmt.Sprintf("v%d", c), Data: column})
	}
	for c := range 4 {
		column := proto.NewLowCardinality[string](&proto.ColStr{})
		for i := range rows {
			column.Append(fmt.Sprintf("shop/workload-%d", i%100))
		}
		if err := column.Prepare(); err != nil {
			b.Fatal(err)
		}
		input = append(input, proto.InputColumn{Name: fmt.Sprintf("w%d", c), Data: column})
	}
	var buffer proto.Buffer
	block := proto.Block{Columns: len(input), Rows: rows}
	if err := block.EncodeRawBlock(&buffer, 0, input); err != nil {
		b.Fatal(err)
	}
	return buffer.Buf
}

const flowBlockTable = `CREATE OR REPLACE TABLE tributary.bench (u0 UInt64, u1 UInt64, u2 UInt64, u3 UInt64, u4 UInt64, u5 UInt64, u6 UInt64, u7 UInt64,
	v0 UInt32, v1 UInt32, v2 UInt32, v3 UInt32, v4 UInt32, v5 UInt32, v6 UInt32, v7 UInt32,
	w0 LowCardinality(String), w1 LowCardinality(String), w2 LowCardinality(String), w3 LowCardinality(String)) ENGINE = MergeTree ORDER BY (u0, v0)`

// BenchmarkInsertNative is the sink's path: HTTP, FORMAT Native, synced to disk before the answer.
func BenchmarkInsertNative(b *testing.B) {
	for _, rows := range []int{1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			dir := b.TempDir()
			if _, err := os.Stat(libraryPath()); err != nil {
				b.Skip("no engine: run make engine")
			}
			store, err := New(testConfig(dir))
			if err != nil {
				b.Fatal(err)
			}
			started := time.Now()
			if err := store.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			defer store.Stop()
			b.ReportMetric(float64(time.Since(started).Milliseconds()), "ms/start")
			post(b, store, "", []byte(flowBlockTable))
			block := flowBlock(b, rows)
			b.ResetTimer()
			for b.Loop() {
				post(b, store, "INSERT INTO bench FORMAT Native", block)
			}
			b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

func post(b *testing.B, s *Store, query string, body []byte) {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, s.URL()+"/?query="+url.QueryEscape(query), bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	request.SetBasicAuth(s.Credential().User, s.Credential().Password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		b.Fatalf("%d %s", response.StatusCode, text)
	}
}
