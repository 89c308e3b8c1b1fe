package assignment

import (
	"fmt"
	"sync"
	"time"
)

// Topic takes the messages of a topic of assignments: Set is for each one, Whole for when there are no more.
type Topic struct {
	source *Source

	mu      sync.Mutex
	changed map[string][]Entry
	sizes   map[string]int // addresses of each key
	total   int
}

// NewTopic makes the taker of a source's messages.
func NewTopic(source *Source) *Topic {
	return &Topic{source: source, changed: map[string][]Entry{}, sizes: map[string]int{}}
}

// Set takes one message: the key names an entry, no value withdraws it. An entry without a time begins with the message. What cannot be read leaves the entry as
// it was; what is over maxAddresses of all keys is left out, and so is what its key said before.
func (t *Topic) Set(key string, value []byte, at time.Time) {
	var entries []Entry
	if len(value) > 0 {
		e, err := ParseEntry(fmt.Sprintf("%.64q", key), value)
		t.source.loaded(err)
		if err != nil {
			t.source.log.Warn("an assignment stays as it was", "reason", err)
			return
		}
		if e.From.IsZero() {
			e.From = at
		}
		entries = []Entry{e}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	before, known := t.sizes[key]
	if n := addressesOf(entries); t.total-before+n > maxAddresses {
		t.source.metrics.refused(t.source.kind, tooMany, n)
		t.source.log.Warn("the topic has more addresses than are kept", "most", maxAddresses)
		entries = nil
	}
	if len(entries) == 0 && !known {
		return // there is nothing to withdraw
	}
	n := addressesOf(entries)
	t.total += n - before
	if t.sizes[key] = n; n == 0 {
		delete(t.sizes, key)
	}
	t.changed[key] = entries
}

func addressesOf(entries []Entry) (n int) {
	for i := range entries {
		n += len(entries[i].Addresses)
	}
	return n
}

// Whole applies what has come.
func (t *Topic) Whole() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.changed) > 0 {
		t.source.change(t.changed, time.Now(), time.Time{})
		t.changed = map[string][]Entry{}
	}
}
