package datagram

import (
	"bytes"
	"errors"
	"testing"
)

func key(t testing.TB, fill byte) *Key {
	t.Helper()
	k, err := NewKey(bytes.Repeat([]byte{fill}, KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealedIsOpened(t *testing.T) {
	k := key(t, 1)
	want := Header{Rows: 9, Epoch: 7, KeyID: 1<<63 + 5, Seq: 42}
	for _, size := range []int{0, 1, MaxBatchBytes} {
		batch := bytes.Repeat([]byte{0xab}, size)
		b, err := k.Seal([]byte("before"), want, batch)
		if err != nil {
			t.Fatal(err)
		}
		b = b[len("before"):]
		h, err := Parse(b)
		if err != nil || h != want || len(b) > MaxBytes {
			t.Fatalf("%d bytes, header %+v, error %v", len(b), h, err)
		}
		got, err := k.Open(b)
		if err != nil || !bytes.Equal(got, batch) {
			t.Fatalf("%d bytes came out, error %v", len(got), err)
		}
	}
	if _, err := k.Seal(nil, want, make([]byte, MaxBatchBytes+1)); !errors.Is(err, ErrOversized) {
		t.Errorf("a batch that does not fit: %v", err)
	}
	if _, err := NewKey(make([]byte, 15)); err == nil {
		t.Error("a short key was accepted")
	}
}

// TestEveryFlippedBitIsSeen: header, batch and tag are all held together.
func TestEveryFlippedBitIsSeen(t *testing.T) {
	k := key(t, 1)
	sealed, err := k.Seal(nil, Header{Rows: 1, Epoch: 2, KeyID: 3, Seq: 4}, []byte("some batch"))
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(sealed) * 8 {
		b := bytes.Clone(sealed)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := Parse(b); err != nil {
			continue
		}
		if _, err := k.Open(b); !errors.Is(err, ErrForged) {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
	if _, err := key(t, 2).Open(bytes.Clone(sealed)); !errors.Is(err, ErrForged) {
		t.Errorf("another key: %v", err)
	}
}

func TestWhatIsNoDatagram(t *testing.T) {
	whole := append([]byte{magic, version}, make([]byte, headerBytes+tagBytes-2)...)
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing":     {nil, ErrTruncated},
		"one short":   {whole[:len(whole)-1], ErrTruncated},
		"no magic":    {make([]byte, 100), ErrVersion},
		"newer":       {append([]byte{magic, version + 1}, whole[2:]...), ErrVersion},
		"too long":    {append(whole, make([]byte, MaxBytes)...), ErrOversized},
		"as it looks": {whole, nil},
	} {
		if _, err := Parse(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := key(f, 1)
	sealed, err := k.Seal(nil, Header{Rows: 1, Epoch: 2, KeyID: 3, Seq: 4}, []byte("some batch"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealed[:30])
	f.Add([]byte{magic, version})
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := bytes.Equal(b, sealed)
		h, err := Parse(b)
		if err != nil {
			return
		}
		if _, err := k.Open(b); err == nil && !whole {
			t.Fatalf("%+v was opened and never sealed", h)
		}
	})
}
