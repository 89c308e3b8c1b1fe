package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tributary/deploy/world"
	"tributary/service/testenv"
)

func TestMain(m *testing.M) {
	world.RunChild()
	if config := os.Getenv(replayerEnv); config != "" {
		if err := replay(config); err != nil {
			fmt.Fprintln(os.Stderr, "replaying exporter:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestCampaign is the campaign's short form: one round, with every kind of fault in it.
func TestCampaign(t *testing.T) {
	testenv.NeedRoot(t)
	engine := os.Getenv("TRIBUTARY_COLLECTOR_EMBEDDED_LIBRARY")
	if engine == "" {
		engine = "../../bin/libchdb.so"
	}
	testenv.NeedFile(t, engine, "run make engine")
	for _, tool := range []string{"java", "mkfs.ext4", "losetup"} {
		testenv.NeedCommand(t, tool, "run make packages kafka")
	}
	programs := t.TempDir()
	for name, room := range map[string]string{"tributary-exporter": "exporter", "tributary-collector": "collector"} {
		build := exec.Command("go", "build", "-o", filepath.Join(programs, name), "tributary/"+room)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	// The bars are those of a machine that does something else too.
	o := options{
		moving: 3 * time.Minute, sync: 3 * time.Second, unsealed: 5 * time.Second,
		programs: programs, engine: engine, script: "../../deploy/dev/kafka.sh", plan: "testdata/short.json", ledger: filepath.Join(programs, "ledger"), only: -1,
	}
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	results, err := readLedger(o.ledger)
	if err != nil || len(results) != 1 {
		t.Fatalf("the ledger has %d rounds: %v", len(results), err)
	}
	if c := results[0].Counts; c.ExporterKills == 0 || c.LiveKills == 0 || c.CollectorKills == 0 || c.StoreKills == 0 || c.CutsBefore == 0 || c.FullDisks == 0 || c.PowerCuts == 0 {
		t.Errorf("a kind of fault did not happen: %+v", c)
	}
}

// TestUnsealed: what was captured and lost is counted from the kill that lost it; what nobody was there to capture is not.
func TestUnsealed(t *testing.T) {
	second := int64(time.Second)
	kills := []time.Time{time.Unix(10, 0), time.Unix(20, 0)}
	gaps := []gap{{9 * second, 12 * second}, {19 * second, 22 * second}}
	for at, want := range map[int64]time.Duration{9: time.Second, 11: 0, 13: 7 * time.Second, 19: time.Second, 21: 0, 23: 0} {
		if got := unsealed(at*second, kills, gaps); got != want {
			t.Errorf("at %d s: %s before a kill, want %s", at, got, want)
		}
	}
	if !touched([]gap{{1, 5}, {30, 40}}, []gap{{40, 50}}) || touched([]gap{{1, 5}}, []gap{{6, 7}}) {
		t.Error("spans and gaps")
	}
}
