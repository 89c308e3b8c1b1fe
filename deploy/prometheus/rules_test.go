package prometheus

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"tributary/service/testenv"
)

func promtool(t *testing.T, args ...string) {
	t.Helper()
	program := testenv.NeedCommand(t, "promtool", "run make packages")
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRules(t *testing.T) {
	promtool(t, "check", "rules", "tributary.rules.yaml")
	promtool(t, "check", "config", "prometheus.yaml")
	promtool(t, "test", "rules", "tributary.test.yaml")
}

// TestRunbooks: every alert has a chapter in docs/operations.md, and is tested.
func TestRunbooks(t *testing.T) {
	rules, err := os.ReadFile("tributary.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("tributary.test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`runbook_url: docs/operations.md#(\S+)`).FindAllSubmatch(rules, -1) {
		title := "## " + strings.ReplaceAll(string(m[1]), "-", " ")
		if !strings.Contains(strings.ToLower(string(docs)), title+"\n") {
			t.Errorf("docs/operations.md has no chapter %q", title)
		}
	}
	for _, m := range regexp.MustCompile(`alert: (\S+)`).FindAllSubmatch(rules, -1) {
		if !strings.Contains(string(tests), string(m[1])) {
			t.Errorf("%s is not tested", m[1])
		}
	}
}
