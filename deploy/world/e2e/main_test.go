package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tributary/deploy/dev/kafkatest"
	"tributary/deploy/world"
)

// programs is where TestMain builds to.
var programs string

func TestMain(m *testing.M) {
	world.RunChild()
	plainChild()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tributary-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if os.Geteuid() == 0 { // without root every test skips
		for name, pkg := range map[string]string{
			"tributary-exporter": "exporter", "tributary-collector": "collector", "tributary-demo": "deploy/world/demo",
		} {
			build := exec.Command("go", "build", "-o", filepath.Join(dir, name), "tributary/"+pkg)
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", name, err, out)
				return 1
			}
		}
	}
	programs = dir
	return kafkatest.Main(m)
}
