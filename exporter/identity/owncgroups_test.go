package identity

import (
	"slices"
	"testing"
)

func TestCgroupsUp(t *testing.T) {
	for text, want := range map[string][]string{
		"0::/pod/one\n":                {"/fs/pod/one", "/fs/pod", "/fs"},
		"1:name=systemd:/x\n0::/pod\n": {"/fs/pod", "/fs"},
		"0::/\n":                       {"/fs"},
		"0::/../../pod\n":              {"/fs/pod", "/fs"},
		"4:cpu:/x\n":                   nil,
		"":                             nil,
	} {
		if got := cgroupsUp("/fs", unifiedPath(text)); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := cgroupsUp("", "/pod"); got != nil {
		t.Errorf("without a hierarchy: %q", got)
	}
}
