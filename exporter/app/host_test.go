package app

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"tributary/exporter/config"
)

func TestHostIsNamedOnceARun(t *testing.T) {
	first, err := readHost()
	if err != nil {
		t.Fatal(err)
	}
	second, err := readHost()
	if err != nil {
		t.Fatal(err)
	}
	if first.exporterID == second.exporterID || !strings.HasPrefix(first.exporterID, first.name+"-") {
		t.Errorf("exporter ids %q and %q of host %q", first.exporterID, second.exporterID, first.name)
	}
	if len(first.bootID) != 36 || first.bootID != second.bootID {
		t.Errorf("boot ids %q and %q", first.bootID, second.bootID)
	}
}

func TestScopeNetnsIsOurOwn(t *testing.T) {
	if inum, err := scopeNetns(config.ScopeHost); inum != 0 || err != nil {
		t.Errorf("host: %d, %v", inum, err)
	}
	inum, err := scopeNetns(config.ScopeNetns)
	if err != nil {
		t.Fatal(err)
	}
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("net:[%d]", inum); link != want {
		t.Errorf("own namespace %s, found %s", link, want)
	}
}
