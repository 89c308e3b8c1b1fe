package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"tributary/service/testenv"
)

func TestGuest(t *testing.T) {
	testenv.NeedRoot(t) // other threads' timers take CAP_SYS_NICE
	t.Setenv("GOMAXPROCS", "")
	t.Setenv("GOGC", "")
	slack := func(thread string) string { return "/proc/" + thread + "/timerslack_ns" }
	processors, percent, before := runtime.GOMAXPROCS(0), debug.SetGCPercent(100), map[string][]byte{}
	eachThread(t, func(thread string) { before[thread], _ = os.ReadFile(slack(thread)) })
	t.Cleanup(func() {
		runtime.GOMAXPROCS(processors)
		debug.SetGCPercent(percent)
		eachThread(t, func(thread string) { _ = os.WriteFile(slack(thread), []byte("50000"), 0) })
	})
	for cores, want := range map[float64]int{0: processors, 0.15: 1, 1: 1, 1e6: processors} {
		runtime.GOMAXPROCS(processors)
		if beGuest(cores); runtime.GOMAXPROCS(0) != want {
			t.Errorf("with %v cores %d processors, want %d", cores, runtime.GOMAXPROCS(0), want)
		}
	}
	if got := debug.SetGCPercent(50); got != 50 {
		t.Errorf("garbage is collected at %d %%", got)
	}
	eachThread(t, func(thread string) {
		got, err := os.ReadFile(slack(thread))
		if err == nil && before[thread] != nil && strings.TrimSpace(string(got)) != strconv.Itoa(int(monitorRests)) {
			t.Errorf("thread %s may be woken %s ns late", thread, got)
		}
	})
	t.Setenv("GOMAXPROCS", "2")
	runtime.GOMAXPROCS(processors)
	if beGuest(0.15); runtime.GOMAXPROCS(0) != processors {
		t.Error("what the environment says is not kept")
	}
}

func eachThread(t *testing.T, do func(thread string)) {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		do(thread.Name())
	}
}
