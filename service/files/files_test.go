package files

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	for _, text := range []string{"a longer one", "short"} {
		if err := Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != text || info.Mode() != fs.FileMode(0o600) {
			t.Errorf("%q of mode %v, %v", got, info.Mode(), err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, "taken"), filepath.Join(dir, "none", "token")} {
		if err := Write(path, nil); err == nil {
			t.Errorf("%s was written", path)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
