package assignment

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tributary/service/files"
)

// Path is where the API has assignments.
const Path = "/v1/assignments"

const (
	apiFile   = "assignments.json"
	tokenFile = "assignments.token"
)

// Handler is the API: GET lists, PUT replaces all that the API was told. It keeps them in a directory, and so does it with the token that PUT needs.
type Handler struct {
	source *Source
	dir    string
	token  string

	mu sync.Mutex // of writers
}

// NewHandler reads what the API was told before, and makes the token where there is none. An error leaves a handler that lists and refuses to write.
func NewHandler(source *Source, dir string) (*Handler, error) {
	h := &Handler{source: source, dir: dir}
	if dir == "" {
		return h, errors.New("there is no --data to keep them in")
	}
	if err := h.load(); err != nil {
		return h, err
	}
	token, err := tokenIn(dir)
	h.token = token
	return h, err
}

// load brings the source what is kept.
func (h *Handler) load() error {
	path := filepath.Join(h.dir, apiFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("assignments of the API: %w", err)
	}
	entries, err := Parse(path, data)
	h.source.loaded(err)
	if err != nil {
		return err
	}
	h.source.Set("", entries, time.Now())
	return nil
}

// tokenIn reads or makes the token: whoever can read the directory may write.
func tokenIn(dir string) (string, error) {
	path := filepath.Join(dir, tokenFile)
	data, err := os.ReadFile(path)
	if token := strings.TrimSpace(string(data)); err == nil && len(token) >= 32 {
		return token, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("token of the assignments API: %w", err)
	}
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	token := hex.EncodeToString(b[:])
	return token, files.Write(path, []byte(token+"\n"))
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		h.list(w)
	case http.MethodPut:
		h.put(w, r)
	default:
		w.Header().Set("Allow", "GET, PUT")
		http.Error(w, "assignments are read with GET and replaced with PUT", http.StatusMethodNotAllowed)
	}
}

func (h *Handler) list(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	entries := h.source.List("")
	if entries == nil {
		entries = []Entry{}
	}
	_ = json.NewEncoder(w).Encode(Document{entries}) // a client that went away
}

func (h *Handler) put(w http.ResponseWriter, r *http.Request) {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if h.token == "" || !ok || subtle.ConstantTimeCompare([]byte(given), []byte(h.token)) != 1 {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "assignments are written with the token of the collector's data directory, file "+tokenFile, http.StatusUnauthorized)
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBytes))
	if err != nil {
		http.Error(w, fmt.Sprintf("assignments of the request: not read whole (%v), or larger than %d bytes", err, maxBytes), http.StatusRequestEntityTooLarge)
		return
	}
	entries, err := Parse("of the request", data)
	h.source.loaded(err)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	kept := h.dated(entries, now)
	data, err = json.Marshal(Document{kept})
	if err == nil {
		err = files.Write(filepath.Join(h.dir, apiFile), append(data, '\n'))
	}
	if err != nil {
		http.Error(w, "not kept, and so not taken: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h.source.Set("", kept, now)
	w.WriteHeader(http.StatusNoContent)
}

// dated gives entries without a time the one at which they came: that of the same entry in what is there, or now. So they keep it over a restart.
func (h *Handler) dated(entries []Entry, now time.Time) []Entry {
	since := map[string]time.Time{}
	name := func(e Entry) string {
		e.From, e.To = time.Time{}, time.Time{}
		return fmt.Sprintf("%+v", e)
	}
	for _, e := range h.source.List("") {
		since[name(e)] = e.From
	}
	out := make([]Entry, len(entries))
	for i, e := range entries {
		out[i] = e
		if known := since[name(e)]; e.From.IsZero() && !known.IsZero() && known.Before(now) {
			out[i].From = known
		} else if e.From.IsZero() {
			out[i].From = now
		}
	}
	return out
}
