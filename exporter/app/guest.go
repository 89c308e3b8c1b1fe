package app

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

// monitorRests is how much later than asked for the kernel may wake a thread of ours (proc_pid_timerslack_ns(5)); by default 50 µs.
const monitorRests = time.Millisecond

// beGuest lets the Go runtime work as what the exporter is on its host, a guest. The runtime takes as many processors as the budget has cores, and not all of
// the host's: each one more is a thread that is woken to look for work whenever there is some. And its monitor, which looks around every 20 µs
// while anything runs, does so once a millisecond: that takes CAP_SYS_NICE or a unit's TimerSlackNSec, and without them it stays as it is.
// Garbage is collected when the heap has grown by half, not when it has doubled: memory is dearer to a host than the little time that takes.
// GOMAXPROCS and GOGC of the environment say otherwise (so `GOGC=100 bench-overhead -pairs 0` shows what it was).
func beGuest(cores float64) {
	if os.Getenv("GOMAXPROCS") == "" && cores > 0 {
		runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), int(math.Ceil(cores))))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, thread := range threads { // those to come inherit it
		_ = os.WriteFile("/proc/"+thread.Name()+"/timerslack_ns", strconv.AppendInt(nil, int64(monitorRests), 10), 0)
	}
}
