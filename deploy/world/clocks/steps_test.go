package clocks

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"
)

const (
	workload = "clocks/guest"
	hour     = time.Hour
	day      = 24 * time.Hour
	every    = 50 * time.Millisecond // a connection
	stays    = 4 * time.Second       // a clock that was set
	// near is how far from a step a row may have a time of the other side: what the kernel had recorded before and was read after it has the new clock's
	// time. The guest is emulated, and its exporter slow.
	near = time.Second
	// exact is how far a row's time may be from what the program read.
	exact = 500 * time.Millisecond
	// unsealed is what a kill may cost.
	unsealed = 2 * time.Second
)

// history is how far the wall clock was from the kernel's, from when on.
type history []Moment

// anchor is what the wall clock was when the kernel's time was 0, as of a moment.
func (h history) anchor(boot int64) int64 {
	i, _ := slices.BinarySearchFunc(h, boot, func(m Moment, boot int64) int { return int(min(1, max(-1, m.Boot-boot))) })
	m := h[max(0, i-1)]
	return m.Wall - m.Boot
}

// apart is how far a moment is from the nearest step.
func (h history) apart(boot int64) time.Duration {
	least := time.Duration(1 << 62)
	for _, m := range h[1:] {
		least = min(least, time.Duration(boot-m.Boot).Abs())
	}
	return least
}

func TestStepsOfTheClock(t *testing.T) {
	r := newRig(t)
	first := r.startExporter()
	h := history{first}
	step := func(by time.Duration) {
		h = append(h, ask[Moment](r, "Step", by))
		time.Sleep(stays)
	}
	ask[bool](r, "Load", every)
	time.Sleep(stays)
	for _, by := range []time.Duration{hour, -hour, -hour, hour, day, -day, -day, day} {
		step(by)
	}
	// The spool is on disk for a day, as the clock says, and 6 h is its bound.
	r.stopCollector()
	time.Sleep(stays)
	step(day)
	killed := ask[Moment](r, "End", int(syscall.SIGKILL))
	h = append(h, ask[Moment](r, "Step", -day))
	r.startCollector()
	again := r.startExporter()
	time.Sleep(stays)
	made := ask[[]Made](r, "Quiet", true)
	r.until(time.Minute, "everything is acknowledged", func() bool { return r.exporter("tributary_exporter_spool_pending_rows") == 0 })
	if lost := r.exporter("tributary_exporter_spool_dropped_rows_total"); lost != 0 {
		t.Errorf("%v rows were given up", lost)
	}
	time.Sleep(6 * time.Second) // the last reading of the counters is in the store 5 s later
	r.checkRows(made, h, killed, again)
	r.checkGap(h, killed, again)
	r.checkBooks()
	if t.Failed() {
		t.Logf("exporter:\n%s", ask[string](r, "Said", true))
	}
}

type end struct {
	role  string
	bytes uint64
}

// checkRows wants both ends of each connection once, at its time, and the right names.
func (r *rig) checkRows(made []Made, h history, killed, again Moment) {
	r.t.Helper()
	ended := map[end][]int64{}
	for _, row := range r.rows(fmt.Sprintf(`SELECT role, max2(tx_bytes, rx_bytes), toUnixTimestamp64Nano(end_time_ns), local_workload, remote_workload
		FROM flows WHERE kind = 'closed' AND (local_port = %[1]d OR remote_port = %[1]d)`, loadPort)) {
		e := end{row[0], uint64(r.number(row[1]))}
		ended[e] = append(ended[e], r.number(row[2]))
		if row[3] != workload || row[4] != workload && row[4] != "" {
			r.t.Errorf("an end of %s is named %s and %s", workload, row[3], row[4])
		}
	}
	missing, other, latest := 0, 0, time.Duration(0)
	for _, m := range made {
		gap := m.Ended.Boot > killed.Boot-int64(unsealed) && m.Ended.Boot < again.Boot
		for _, role := range []string{"client", "server"} {
			times := ended[end{role, m.Bytes}]
			if len(times) == 0 && gap {
				missing++
				continue
			}
			if len(times) != 1 {
				r.t.Errorf("the %s's end of connection %d is there %d times", role, m.Bytes, len(times))
				continue
			}
			off := time.Duration(times[0] - m.Ended.Boot - h.anchor(m.Ended.Boot))
			if off.Abs() < exact {
				continue
			}
			other++
			if apart := h.apart(m.Ended.Boot); apart > near {
				r.t.Errorf("the %s's end of connection %d is %v off, %v from a step", role, m.Bytes, off, apart)
			} else {
				latest = max(latest, apart)
			}
		}
	}
	r.t.Logf("%d connections, %d steps; %d ends missing in the gap of the kill; %d ends with the time of the other side of a step, at most %v from it", len(made), len(h)-1, missing, other, latest)
}

// checkGap wants the gap behind the kill to be told in the clock of the run that tells it.
func (r *rig) checkGap(h history, killed, again Moment) {
	r.t.Helper()
	rows := r.rows(`SELECT DISTINCT counters['gap.from_ns'], counters['gap.to_ns'] FROM exporter_health WHERE counters['gap.killed'] = 1`)
	if len(rows) != 1 {
		r.t.Errorf("gaps %v, want one", rows)
		return
	}
	anchor := h.anchor(again.Boot)
	from, to := time.Duration(r.number(rows[0][0])-anchor-killed.Boot), time.Duration(r.number(rows[0][1])-anchor-again.Boot)
	r.t.Logf("the gap begins %v before the kill and ends %v before the exporter is ready again", -from, -to)
	if from > 0 || from < -unsealed || to > exact || to < -time.Duration(again.Boot-killed.Boot) {
		r.t.Errorf("the gap is from %v after the kill to %v after the exporter is ready again", from, to)
	}
}

// checkBooks wants what was captured to be what is stored, by run: minutes that the clock made are minutes like others.
func (r *rig) checkBooks() {
	r.t.Helper()
	for _, row := range r.rows(`SELECT exporter_id, captured, lost, stored FROM
		(SELECT exporter_id, sum(captured) AS captured, sum(lost_rows) AS lost FROM exporter_completeness GROUP BY exporter_id) AS c
		INNER JOIN (SELECT exporter_id, count() AS stored FROM flows GROUP BY exporter_id) AS f USING exporter_id`) {
		r.t.Logf("%s: captured %s, lost %s, stored %s", row[0], row[1], row[2], row[3])
		if row[1] != row[3] || row[2] != "0" {
			r.t.Errorf("%s: that is not what is stored", row[0])
		}
	}
}
