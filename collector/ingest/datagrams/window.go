package datagrams

// windowSize is how far datagrams may overtake each other.
const windowSize = 1024

// window knows which of the latest windowSize sequence numbers were seen.
type window struct {
	highest uint64
	seen    [windowSize / 64]uint64 // by seq modulo windowSize
}

func place(seq uint64) (word int, bit uint64) {
	at := seq % windowSize
	return int(at / 64), 1 << (at % 64)
}

// admit notes a number; a result other than Accepted says why it must not be taken.
func (w *window) admit(seq uint64) Result {
	word, bit := place(seq)
	switch {
	case seq > w.highest:
		w.advance(seq)
	case seq == 0 || w.highest-seq >= windowSize:
		return TooOld
	case w.seen[word]&bit != 0:
		return Replayed
	}
	w.seen[word] |= bit
	return Accepted
}

// advance makes seq the highest and forgets what falls out.
func (w *window) advance(seq uint64) {
	if seq-w.highest >= windowSize {
		clear(w.seen[:])
	} else {
		for w.highest != seq { // counts up to the last number there is
			w.highest++
			word, bit := place(w.highest)
			w.seen[word] &^= bit
		}
	}
	w.highest = seq
}
