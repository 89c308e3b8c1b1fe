package main

import "container/heap"

// epoch is when every run begins, in ns since 1970. A run's own time counts from 0.
const epoch = int64(1_790_000_000_000_000_000)

const (
	ms  = int64(1_000_000)
	sec = 1000 * ms
)

// event is something that happens at a moment; of several at one moment the one that was planned first.
type event struct {
	at    int64
	order uint64
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	old[len(old)-1] = event{}
	*e = old[:len(old)-1]
	return x
}

// timeline is virtual time and what is to happen in it.
type timeline struct {
	now    int64
	order  uint64
	events events
}

// at plans something, not before now.
func (t *timeline) at(when int64, do func()) {
	t.order++
	heap.Push(&t.events, event{max(when, t.now), t.order, do})
}

func (t *timeline) after(d int64, do func()) { t.at(t.now+d, do) }

// run works until the given moment.
func (t *timeline) run(until int64) {
	for len(t.events) > 0 && t.events[0].at <= until {
		e := heap.Pop(&t.events).(event)
		t.now = e.at
		e.do()
	}
	t.now = until
}
