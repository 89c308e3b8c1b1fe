package mounts

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]Mount{
		"36 35 98:0 / /mnt/a rw,noatime master:1 - ext3 /dev/root rw\n":                          {"/", "/mnt/a", "ext3"},
		"36 35 98:0 /sub /a\\040b\\134c rw - tmpfs none rw\n":                                    {"/sub", `/a b\c`, "tmpfs"},
		"40 22 0:4 net:[4026532000] /run/netns/a rw shared:5 master:2 - nsfs nsfs rw\n":          {"net:[4026532000]", "/run/netns/a", "nsfs"},
		"41 22 0:4 / /a\\011b\\012c rw shared:5 propagate_from:7 unbindable - cgroup2 cgroup rw": {"/", "/a\tb\nc", "cgroup2"},
	} {
		if got, ok := parse(line); !ok || got != want {
			t.Errorf("%q: %+v, %t", line, got, ok)
		}
	}
	for _, line := range []string{"", "\n", "1 2 3 4 - ext4", "1 2 3 4 5 - ", "1 2 3 4 5 6 7"} {
		if got, ok := parse(line); ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestAll(t *testing.T) {
	types := map[string]string{}
	for m := range All() {
		types[m.Point] = m.Type
	}
	if types["/proc"] != "proc" {
		t.Errorf("/proc is not among %v", types)
	}
	root := CgroupRoot()
	if root == "" {
		return // none is mounted here
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil || types[root] != "cgroup2" {
		t.Errorf("%s is the root of no hierarchy: %v", root, err)
	}
}
