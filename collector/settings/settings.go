// Package settings keeps what a user wants all exporters, or some of them, to do differently: it sends that down their Control streams,
// remembers it over a restart, and knows what each exporter made of it.
//
// What it promises. A file with one mistake changes nothing. What Apply returned for without an error is on disk (DIR/settings.yaml) and
// goes to every connected exporter at once, and to every other when it connects. Where no settings were ever applied nothing is sent, so that
// this node does not take back what another one asked for: a node knows its own settings alone.
//
// It holds at most maxExporters answers, the latest, and blocks for nothing but the disk in Apply.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
	known "tributary/proto/settings"
	"tributary/service/files"
)

const (
	fileName     = "settings.yaml"
	maxExporters = 65536
)

// Settings are the settings of this node.
type Settings struct {
	dir string
	log *slog.Logger

	mu        sync.Mutex
	set       *Set          // nil: never applied
	changed   chan struct{} // closed when set changes
	exporters *lru.Cache[string, *Exporter]
}

// Exporter is what an exporter made of the settings.
type Exporter struct {
	ExporterID string            `json:"exporter_id"`
	Host       string            `json:"host"`
	Connected  bool              `json:"connected"`
	State      string            `json:"state"` // see the constants
	AppliedAt  time.Time         `json:"applied_at,omitzero"`
	InForce    map[string]string `json:"in_force,omitempty"`
	Refused    map[string]string `json:"refused,omitempty"` // key: why

	streams    int
	generation uint64 // of the last answer
}

// The states of an exporter.
const (
	StateApplied = "applied" // all that is asked of it is in force
	StateRefused = "refused" // some of it is not, see Refused
	StatePending = "pending" // it has not answered yet
	StateNone    = "none"    // no settings were applied on this node
)

// Status is what GET answers.
type Status struct {
	Generation string      `json:"generation"` // '' if no settings were ever applied
	Exporters  []*Exporter `json:"exporters"`
}

// Open reads what was applied before; without a directory nothing was and can be. A file that cannot be understood is said in the log and left alone: the exporters keep what they have.
func Open(dir string, log *slog.Logger) (*Settings, error) {
	exporters, err := lru.New[string, *Exporter](maxExporters)
	if err != nil {
		return nil, err
	}
	s := &Settings{dir: dir, log: log, changed: make(chan struct{}), exporters: exporters}
	if dir == "" {
		return s, nil
	}
	path := filepath.Join(dir, fileName)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err == nil:
		s.set, err = Parse(path, data)
	}
	if err != nil {
		s.set = nil
		log.Error("the settings that were applied before are not in force: apply them again", "error", err)
	}
	return s, nil
}

// Apply puts a settings file in force, or says why none of it is.
func (s *Settings) Apply(name string, data []byte) (generation string, err error) {
	set, err := Parse(name, data)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.save(data); err != nil {
		return "", fmt.Errorf("the settings cannot be kept, so they are not applied: %w", err)
	}
	s.set = set
	close(s.changed)
	s.changed = make(chan struct{})
	s.log.Info("settings applied", "generation", s.generationLocked(), "rules", len(set.rules))
	return s.generationLocked(), nil
}

// errNowhere is why a collector without a directory takes no settings. It must not take the one that it happens to run in.
var errNowhere = errors.New("there is no --data to keep them in")

// save replaces the file as a whole.
func (s *Settings) save(data []byte) error {
	if s.dir == "" {
		return errNowhere
	}
	if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return err
	}
	return files.Write(filepath.Join(s.dir, fileName), data)
}

func (s *Settings) generationLocked() string {
	if s.set == nil {
		return ""
	}
	return fmt.Sprintf("%016x", s.set.generation)
}

// Connect notes that an exporter opened a Control stream, Disconnect that it ended.
func (s *Settings) Connect(exporterID, host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.exporters.Get(exporterID)
	if !ok {
		e = &Exporter{ExporterID: exporterID, Host: host}
		s.exporters.Add(exporterID, e)
	}
	e.streams++
}

// Disconnect notes that a Control stream has ended.
func (s *Settings) Disconnect(exporterID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.exporters.Peek(exporterID); ok {
		e.streams--
	}
}

// For returns what to send to the exporters of a host, nil for nothing, and what is closed when that may have changed.
func (s *Settings) For(host string) (*flowv1.Settings, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		return nil, s.changed
	}
	m := &flowv1.Settings{Generation: s.set.generation}
	values := s.set.For(host)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		m.Settings = append(m.Settings, &flowv1.Setting{Key: key, Value: values[key]})
	}
	return m, s.changed
}

// Answered notes what an exporter made of settings. The message is the network's: what is too much of it is left out.
func (s *Settings) Answered(exporterID string, m *flowv1.Applied, now time.Time) {
	inForce, refused := make(map[string]string), make(map[string]string)
	for _, a := range m.GetSettings()[:min(len(m.GetSettings()), 2*len(known.Keys()))] {
		key := clip(a.GetKey(), 64)
		inForce[key] = clip(a.GetValue(), 256)
		if why := a.GetRefused(); why != "" {
			refused[key] = clip(why, 256)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.exporters.Get(exporterID)
	if !ok {
		return
	}
	e.generation, e.AppliedAt, e.InForce, e.Refused = m.GetGeneration(), now.UTC(), inForce, refused
	for key, why := range refused {
		s.log.Warn("an exporter refused a setting", "exporter_id", exporterID, "host", e.Host, "key", key, "reason", why)
	}
}

func clip(text string, most int) string { return flow.Sanitize(text[:min(len(text), most)]) }

// Status tells about every exporter that is connected, by host.
func (s *Settings) Status() *Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &Status{Generation: s.generationLocked(), Exporters: []*Exporter{}}
	for _, e := range s.exporters.Values() {
		if e.streams <= 0 {
			continue
		}
		shown := *e
		shown.Connected = true
		switch {
		case s.set == nil:
			shown.State = StateNone
		case e.generation != s.set.generation:
			shown.State = StatePending
		case len(e.Refused) > 0:
			shown.State = StateRefused
		default:
			shown.State = StateApplied
		}
		out.Exporters = append(out.Exporters, &shown)
	}
	slices.SortFunc(out.Exporters, func(a, b *Exporter) int {
		return strings.Compare(a.Host+"\x00"+a.ExporterID, b.Host+"\x00"+b.ExporterID)
	})
	return out
}
