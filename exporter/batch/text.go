package batch

import (
	"strconv"

	"tributary/exporter/event"
)

// maxTexts bounds each cache. A host has fewer program names and network namespaces alive at a time; beyond it the cache
// starts again, which costs one allocation a name.
const maxTexts = 4096

// texts keeps the strings of values that come as bytes and numbers, so that rows that repeat them allocate nothing.
type texts struct {
	comms   map[[16]byte]string
	numbers map[uint32]string
}

func newTexts() *texts {
	return &texts{comms: make(map[[16]byte]string), numbers: make(map[uint32]string)}
}

func (t *texts) comm(e *event.Event) string {
	s, ok := t.comms[e.Comm]
	if !ok {
		if len(t.comms) >= maxTexts {
			clear(t.comms)
		}
		s = e.CommString()
		t.comms[e.Comm] = s
	}
	return s
}

func (t *texts) number(n uint32) string {
	s, ok := t.numbers[n]
	if !ok {
		if len(t.numbers) >= maxTexts {
			clear(t.numbers)
		}
		s = strconv.FormatUint(uint64(n), 10)
		t.numbers[n] = s
	}
	return s
}
