package query

import (
	"bytes"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/schema/schematest"
)

// everyColumn is a SELECT of one row with every column of a part, as a store writes them.
func everyColumn(t *testing.T) string {
	t.Helper()
	values := map[string]string{
		"String": "toLowCardinality('text')", "UInt16": "toUInt16(443)", "UInt64": "bitShiftLeft(toUInt64(1), 40)", "Map(String, UInt64)": "map('refused', toUInt64(7), 'timeout', toUInt64(300))",
		"DateTime64(3, 'UTC')": "toDateTime64('2026-11-22 01:02:03.004', 3, 'UTC')", "Map(UInt8, UInt64)": "map(toUInt8(45), toUInt64(3), toUInt8(255), toUInt64(1000))",
	}
	var columns []string
	known := partColumns()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		columns = append(columns, values[known[name].typ]+" AS "+name)
	}
	return "SELECT " + strings.Join(columns, ", ")
}

// TestPartsAreRead: each column of an answer gets into its place, in any order, and an answer without rows has none.
func TestPartsAreRead(t *testing.T) {
	s := migrated(t)
	c := client(t, s)
	const n = 1 << 40
	want := partRow{
		Edge: Edge{
			ClientWorkload: "text", ClientWhy: "text", ServerWorkload: "text", ServerWhy: "text", ServerPort: 443, Connections: n, Closed: n, Resets: n, Open: n, Unanswered: n, Failures: n,
			FailuresByReason: map[string]uint64{"refused": 7, "timeout": 300}, BytesToServer: n, BytesToClient: n, RetransSegs: n,
			FirstSeen: "2026-11-22T01:02:03.004Z", LastSeen: "2026-11-22T01:02:03.004Z", ClientOnly: n, ServerOnly: n, Both: n,
		},
		rtt: histogram{{45, 3}, {255, 1000}}, connect: histogram{{45, 3}, {255, 1000}},
	}
	rows, err := c.part(t.Context(), everyColumn(t)+" FROM numbers(2)", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]partRow{want, want}, rows, cmp.AllowUnexported(partRow{}, samples{})); diff != "" {
		t.Error(diff)
	}
	if rows, err := c.part(t.Context(), everyColumn(t)+" WHERE 0", nil); err != nil || len(rows) != 0 {
		t.Errorf("no rows: %d, %v", len(rows), err)
	}
	for _, statement := range []string{"SELECT 1 AS connections", "SELECT 'x' AS unknown"} {
		if _, err := c.part(t.Context(), statement, nil); err == nil || !strings.Contains(err.Error(), "column") {
			t.Errorf("%s: %v", statement, err)
		}
	}
	const format = " FORMAT RowBinaryWithNamesAndTypes"
	header := len(schematest.Query(t, s, everyColumn(t)+" WHERE 0"+format))
	whole := schematest.Query(t, s, everyColumn(t)+format)
	for n := 1; n < len(whole); n++ {
		if rows, err := readParts(strings.NewReader(whole[:n])); err == nil && n != header || len(rows) > 0 {
			t.Errorf("%d of %d bytes are taken for an answer", n, len(whole))
		}
	}
}

func FuzzParts(f *testing.F) {
	header, err := hex.DecodeString("0210" + hex.EncodeToString([]byte("rtt_us_histogram")) + "0b" + hex.EncodeToString([]byte("connections")) +
		"12" + hex.EncodeToString([]byte("Map(UInt8, UInt64)")) + "06" + hex.EncodeToString([]byte("UInt64")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(slices.Clone(header), 1, 45, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0))
	f.Add(append(slices.Clone(header), 0xff, 0xff, 0xff, 0xff, 0x0f))
	f.Fuzz(func(t *testing.T, body []byte) {
		rows, err := readParts(bytes.NewReader(body))
		if err != nil && rows != nil {
			t.Error("rows and an error")
		}
		for i := range rows {
			if e := rows[i].edge(); e.RttUsP50 > e.RttUsP95 || e.RttUsP95 > e.RttUsP99 {
				t.Error(e.RttUsP50, e.RttUsP95, e.RttUsP99)
			}
		}
	})
}
