package recording

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func sample(t testing.TB) []byte {
	var out bytes.Buffer
	w, err := NewWriter(&out, Header{Host: "h", RecordBytes: 4})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		w.Anchor(-7), w.Record([]byte("aaaa"), []byte("one")), w.Record([]byte("bbbb"), nil),
		w.Sweep(), w.Record([]byte("cccc"), []byte("one")), w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if int64(out.Len()) != w.Written() {
		t.Errorf("%d bytes, said to be %d", out.Len(), w.Written())
	}
	return out.Bytes()
}

// told is a recording as text, and how it ended.
func told(b []byte) (string, error) {
	r, err := NewReader(bytes.NewReader(b), 4)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for {
		f, err := r.Next()
		if err != nil {
			return out.String(), err
		}
		out.WriteString(string(f.Kind) + string(f.Record) + string(f.Name) + " ")
		if f.Kind == Anchor && f.Anchor != -7 {
			return "", errors.New("wrong anchor")
		}
	}
}

func TestWhatWasToldIsToldAgain(t *testing.T) {
	got, err := told(sample(t))
	if got != "a raaaaone rbbbb s rccccone " || !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCutOffAnywhere(t *testing.T) {
	whole := sample(t)
	all, _ := told(whole)
	for n := range whole {
		got, err := told(whole[:n])
		if !strings.HasPrefix(all, got) || !errors.Is(err, ErrCut) && (n >= len(magic) || !errors.Is(err, ErrFormat)) {
			t.Errorf("of %d bytes: %q, %v", n, got, err)
		}
	}
}

func TestStrangeFiles(t *testing.T) {
	whole := string(sample(t))
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":         {"", ErrFormat},
		"another file":  {strings.Repeat("x", 100), ErrFormat},
		"newer format":  {strings.Replace(whole, "recording 1", "recording 2", 1), ErrVersion},
		"other records": {strings.Replace(whole, `"record_bytes":4`, `"record_bytes":5`, 1), ErrVersion},
		"bad header":    {strings.Replace(whole, `{"host"`, `["host"`, 1), ErrFormat},
		"long header":   {magic + "\xff\xff\xff\xff", ErrFormat},
		"strange frame": {whole[:len(whole)-1] + "z", ErrFormat},
		"two in one":    {whole + whole, ErrFormat},
		"unknown name":  {strings.Replace(whole, "r\x00\x00\x00\x00bbbb", "r\x09\x00\x00\x00bbbb", 1), ErrFormat},
	} {
		if _, err := told([]byte(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

type fullDisk struct{ left int }

func (d *fullDisk) Write(b []byte) (int, error) {
	if d.left -= len(b); d.left < 0 {
		return 0, errors.New("no space left on device")
	}
	return len(b), nil
}

func TestFullDiskIsAnErrorFromThenOn(t *testing.T) {
	w, err := NewWriter(&fullDisk{300 << 10}, Header{RecordBytes: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	record := make([]byte, 4<<10)
	for range 200 {
		err = w.Record(record, nil)
	}
	if err == nil || w.Sweep() == nil || w.Close() == nil {
		t.Errorf("a full disk went unnoticed: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(sample(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := told(b); err == nil {
			t.Error("no end")
		}
	})
}
