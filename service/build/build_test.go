package build

import (
	"runtime"
	"testing"
)

func TestNoFieldIsEmpty(t *testing.T) {
	info := Current()
	if info.Version != "dev" || info.Revision == "" || info.GoVersion != runtime.Version() {
		t.Errorf("%+v", info)
	}
	if got, want := (Info{"v1", "abc", "go1"}).String(), "v1 (revision abc, go1)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
