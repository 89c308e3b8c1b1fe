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
}

// NewTopic makes the taker of a source's messages.
func NewTopic(source *Source) *Topic {
	return &Topic{source: source, changed: map[string][]Entry{}}
}

// Set takes one message: the key names an entry, no value withdraws it. An entry without a time begins with the message. What cannot be read leaves the entry as
// it was.
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
	t.changed[key] = entries
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
