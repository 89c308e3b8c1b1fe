package chdb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tributary/service/testenv"
)

// opened is the one engine of this test process; a second open would leak threads.
var opened = sync.OnceValues(func() (*Library, error) { return Open(libraryPath()) })

func libraryPath() string {
	if path := os.Getenv("TRIBUTARY_COLLECTOR_EMBEDDED_LIBRARY"); path != "" {
		return path
	}
	return "../../../bin/libchdb.so"
}

func library(t *testing.T) *Library {
	t.Helper()
	testenv.NeedFile(t, libraryPath(), "run make engine (deploy/dev/fetch-engine.sh)")
	lib, err := opened()
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

// TestEngine is one test, because the engine opens once: results, errors, parameters, and Go's signal handling afterwards.
func TestEngine(t *testing.T) {
	lib := library(t)
	conn, err := lib.Connect("--path=" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	second, err := lib.Connect("--path=/somewhere/else")
	if err == nil {
		t.Error("a second data directory is accepted")
		_ = second.Close()
	}
	result, err := conn.Query("SELECT number, {text:String} FROM numbers(2)", "TSV", Param{"text", `a\tb`})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(result.Bytes()); got != "0\ta\\tb\n1\ta\\tb\n" {
		t.Errorf("answer %q", got)
	}
	if stats := result.Stats(); stats.ResultRows != 2 || stats.ReadRows != 2 {
		t.Errorf("%+v", stats)
	}
	result.Release()
	result.Release()
	var refused *Error
	if _, err = conn.Query("SELECT nothing", "TSV"); !errors.As(err, &refused) || !strings.HasSuffix(strings.TrimSpace(refused.Text), "(UNKNOWN_IDENTIFIER)") {
		t.Errorf("error %v", err)
	}
	if result, err = conn.Query("SELECT 1 WHERE 0", ""); err != nil || len(result.Bytes()) != 0 {
		t.Errorf("empty answer: %v", err)
	} else {
		result.Release()
	}
	if !nilDereferencePanics() {
		t.Error("a nil dereference did not become a panic")
	}
	for range 2 {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := conn.Query("SELECT 1", "TSV"); err == nil {
		t.Error("a closed connection answers")
	}
	if !nilDereferencePanics() {
		t.Error("a nil dereference did not become a panic after close")
	}
}

// nilDereferencePanics would end the process if the engine had taken SIGSEGV's handler away.
func nilDereferencePanics() (panicked bool) {
	defer func() { panicked = recover() != nil }()
	var nothing *Result
	return nothing.lib == nil
}

func TestOpenSaysWhichFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "libchdb.so")
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "load "+path) {
		t.Errorf("no file: %v", err)
	}
}
