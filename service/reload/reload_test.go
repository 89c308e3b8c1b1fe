package reload

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tributary/service/files"
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

// TestNoFile: what is no file is told of once and not opened, which would wait for the writer of a FIFO; the file that comes after it is read.
func TestNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table.yaml")
	f, now := New("table", path, 100), time.Now()
	makes := map[string]func() error{
		"a FIFO":                    func() error { return syscall.Mkfifo(path, 0o600) },
		"a directory":               func() error { return os.Mkdir(path, 0o700) },
		"a device":                  func() error { return os.Symlink("/dev/zero", path) },
		"a symbolic link to itself": func() error { return os.Symlink(path, path) },
	}
	for what, create := range makes {
		if err := create(); err != nil {
			t.Fatal(err)
		}
		told := make(chan error, 3)
		go func() {
			for range 3 {
				now = now.Add(time.Second)
				if _, news, err := f.Look(now); news {
					told <- err
				}
			}
			close(told)
		}()
		select {
		case err := <-told:
			if err == nil || what != "a symbolic link to itself" && !errors.Is(err, files.ErrIrregular) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it is waited for", what)
		}
		for err := range told {
			t.Errorf("%s: told again: %v", what, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(what+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		_, _, _ = f.Look(now)
		if data, news, err := f.Look(now.Add(time.Second)); !news || err != nil || string(data) != what+"\n" {
			t.Errorf("the file after %s: %q %v %v", what, data, news, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
