package kafka

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/proto/flow"
)

func TestJSONGolden(t *testing.T) {
	const golden = "testdata/flow.json"
	b := makeBatch(t, "node-1/7", 3, 2)
	b.Host = `node "one"`
	e := encoder{json: newJSONEncoder()}
	if err := e.encode(b, time.Time{}, 1<<20); err != nil || len(e.messages) != 2 {
		t.Fatalf("encode: %v, %d messages, want one a row", err, len(e.messages))
	}
	var got []byte
	for _, m := range e.messages {
		got = append(append(got, m.value...), '\n')
	}
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got); UPDATE_GOLDEN=1 rewrites it:\n%s", golden, diff)
	}
	wantHeaders := map[string]string{"exporter_id": "node-1/7", "batch_seq": "3", "version": "9437184", "row": "node-1/7/300001/0"}
	if diff := cmp.Diff(wantHeaders, headersOf(e.messages[1].headers)); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

func TestJSONHasEveryFieldAndOnlyThose(t *testing.T) {
	b := makeBatch(t, "x", 1, 1)
	e := encoder{json: newJSONEncoder()}
	if err := e.encode(b, time.Time{}, 1<<20); err != nil {
		t.Fatal(err)
	}
	var row map[string]any
	if err := json.Unmarshal(e.messages[0].value, &row); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, e.messages[0].value)
	}
	names := []string{"exporter_id", "host", "boot_id", "batch_seq", "received_time_ns"}
	for f := flow.U32(0); f < flow.NumU32; f++ {
		names = append(names, f.Spec().Name)
	}
	for f := flow.U64(0); f < flow.NumU64; f++ {
		names = append(names, f.Spec().Name)
	}
	for _, name := range names {
		if _, ok := row[name]; !ok {
			t.Errorf("the field %s is missing", name)
		}
		delete(row, name)
	}
	if len(row) > 0 {
		t.Errorf("fields nobody knows: %v", row)
	}
}
