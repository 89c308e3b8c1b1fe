package app

import "tributary/exporter/event"

// maxComms bounds the kept names. A host runs fewer programs at a time; beyond it they are made again.
const maxComms = 4096

// comms keeps the text of program names, so that records that repeat one allocate nothing. One goroutine uses it.
type comms map[[16]byte]string

func (c comms) of(e *event.Event) string {
	if e.Comm[0] == 0 {
		return ""
	}
	s, ok := c[e.Comm]
	if !ok {
		if len(c) >= maxComms {
			clear(c)
		}
		s = e.CommString()
		c[e.Comm] = s
	}
	return s
}
