package reload

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFile: a file that is half written or gone is told of, and not taken.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.yaml")
	f := New("table", path, 100)
	now, got := time.Now(), ""
	look := func(after time.Duration) (bool, error) {
		now = now.Add(after)
		data, news, err := f.Look(now)
		if news && err == nil {
			got = string(data)
		}
		return news, err
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if news, err := look(time.Second); !news || err == nil {
		t.Errorf("no file: %v %v", news, err)
	}
	if news, _ := look(time.Second); news {
		t.Error("no file: told twice")
	}
	good := "a: 1\nb: 2\n"
	write(good)
	if news, _ := look(time.Second); news {
		t.Error("taken the moment that it changed")
	}
	if news, err := look(time.Second); !news || err != nil || got != good {
		t.Fatalf("a good file: %v %v", news, err)
	}
	if news, err := look(time.Second); news || err != nil {
		t.Errorf("the same file: %v %v", news, err)
	}
	write("a: 3") // no newline, but it stays so
	look(time.Second)
	if news, err := look(time.Second); !news || err == nil || got != good {
		t.Errorf("without a newline it was taken at once: %v %v", news, err)
	}
	if news, err := look(patience); !news || err != nil || got != "a: 3" {
		t.Errorf("without a newline, later: %v %v", news, err)
	}
	write(string(make([]byte, 101)))
	look(time.Second)
	if news, err := look(time.Second); !news || err == nil {
		t.Errorf("too large: %v %v", news, err)
	}
}
