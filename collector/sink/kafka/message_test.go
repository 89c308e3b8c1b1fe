package kafka

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

func headersOf(hs []kafka.Header) map[string]string {
	m := map[string]string{}
	for _, h := range hs {
		m[h.Key] = string(h.Value)
	}
	return m
}

func TestMessageCarriesThePayloadUntouched(t *testing.T) {
	b := makeBatch(t, "node-1/7", 3, 1000)
	var e encoder
	if err := e.encode(b, time.Now(), 1<<20); err != nil || len(e.messages) != 1 {
		t.Fatalf("encode: %v, %d messages, want 1", err, len(e.messages))
	}
	var m flowv1.AttributedBatch
	if err := proto.Unmarshal(e.messages[0].value, &m); err != nil {
		t.Fatalf("any protobuf reader must read the value: %v", err)
	}
	if string(m.Batch.Payload) != string(b.Payload) {
		t.Error("the payload is not the bytes that the exporter sealed")
	}
	if got := m.Attribution.GetStrings(); !cmp.Equal(got, b.AttrStrings) {
		t.Errorf("attribution strings %q, want %q", got, b.AttrStrings)
	}
	headers := headersOf(e.messages[0].headers)
	if len(headers[HeaderDigest]) < 8 {
		t.Errorf("digest %q", headers[HeaderDigest])
	}
	delete(headers, HeaderDigest)
	want := map[string]string{"exporter_id": "node-1/7", "batch_seq": "3", "version": "9437184", "part": "0", "parts": "1", "rows": "1000"}
	if diff := cmp.Diff(want, headers); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	got, err := decode(t, e.messages[0].value)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(rowsOf(b), rowsOf(got)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(b.Header, got.Header); diff != "" || got.ReceivedTimeNs != b.ReceivedTimeNs {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func TestMessagesAreTheSameBytesEachTime(t *testing.T) {
	b := makeBatch(t, "x", 1, 100)
	var first, second encoder
	if err := errors.Join(first.encode(b, time.Time{}, 1<<20), second.encode(b, time.Time{}, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.messages, second.messages, cmp.AllowUnexported(message{})); diff != "" {
		t.Error(diff)
	}
}

func TestLargeBatchIsCutIntoParts(t *testing.T) {
	b := makeBatch(t, "x", 1, 5000)
	var e encoder
	limit := len(b.Payload) / 3
	if err := e.encode(b, time.Time{}, limit); err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for i, m := range e.messages {
		if m.size() > limit {
			t.Errorf("part %d has %d bytes, limit %d", i, m.size(), limit)
		}
		h := headersOf(m.headers)
		if h[HeaderPart] != fmt.Sprint(i) || h[HeaderParts] != fmt.Sprint(len(e.messages)) {
			t.Errorf("message %d of %d says part %s of %s", i, len(e.messages), h[HeaderPart], h[HeaderParts])
		}
		part, err := decode(t, m.value)
		if err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		maps.Copy(rows, rowsOf(part))
	}
	if len(e.messages) < 4 {
		t.Errorf("%d parts of at most %d bytes for %d bytes", len(e.messages), limit, len(b.Payload))
	}
	if diff := cmp.Diff(rowsOf(b), rows); diff != "" {
		t.Errorf("rows of all parts (-want +got):\n%s", diff)
	}
}

func TestBatchThatCannotBeCutIsTooLarge(t *testing.T) {
	for name, e := range map[string]*encoder{"protobuf": {}, "json": {json: newJSONEncoder()}} {
		if err := e.encode(makeBatch(t, "x", 1, 10), time.Time{}, 100); !errors.Is(err, errTooLarge) || dropReason(err) != dropTooLarge {
			t.Errorf("%s: encode = %v, want errTooLarge", name, err)
		}
	}
}

func TestEncoderForgetsLentMemory(t *testing.T) {
	var e encoder
	if err := e.encode(makeBatch(t, "x", 1, 10), time.Time{}, 1<<20); err != nil {
		t.Fatal(err)
	}
	value := e.messages[0].value
	before := string(value)
	e.lent = true
	e.reset()
	if err := e.encode(makeBatch(t, "y", 2, 10), time.Time{}, 1<<20); err != nil {
		t.Fatal(err)
	}
	if string(value) != before {
		t.Error("the bytes of a request that may still be read were written over")
	}
}

func TestDecodeRefuses(t *testing.T) {
	whole := func(change func(*flowv1.AttributedBatch)) []byte {
		b := makeBatch(t, "x", 1, 3)
		m := &flowv1.AttributedBatch{Batch: b.Wire(), Attribution: &flowv1.Attribution{}}
		change(m)
		value, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	good := whole(func(*flowv1.AttributedBatch) {})
	if _, err := decode(t, good); err != nil {
		t.Fatalf("the unchanged message: %v", err)
	}
	for name, value := range map[string][]byte{
		"empty":            {},
		"not protobuf":     []byte("hello"),
		"cut off":          good[:len(good)-5],
		"two attributions": append(append([]byte{}, good...), 2<<3|2, 0),
		"ragged":           whole(func(m *flowv1.AttributedBatch) { m.Attribution.Version = []uint32{1, 2} }),
		"index":            whole(func(m *flowv1.AttributedBatch) { m.Attribution.RemoteWorkload = []uint32{0, 0, 9} }),
		"too many rows":    whole(func(m *flowv1.AttributedBatch) { m.Batch.Rows = 1 << 31 }),
	} {
		if _, err := decode(t, value); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	var e encoder
	if err := e.encode(makeBatch(f, "x", 1, 20), time.Time{}, 1<<20); err != nil {
		f.Fatal(err)
	}
	f.Add(e.messages[0].value)
	f.Add([]byte{})
	d, err := NewDecoder()
	if err != nil {
		f.Fatal(err)
	}
	var b flow.Batch
	f.Fuzz(func(_ *testing.T, value []byte) {
		if err := d.Decode(value, &b); err != nil {
			return
		}
		for i := range b.Rows { // what Decode accepts can be read without care
			_ = b.Text(flow.RemoteWorkload, i) + b.Text(flow.LocalWorkload, i)
			_ = b.Addr(flow.RemoteAddr, i)
		}
	})
}
