package tlsconf

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"tributary/service/files"
)

// maxFileBytes bounds each file: the largest bundles of public authorities are a quarter of it.
const maxFileBytes = 1 << 20

// watched is a configuration together with the files it came from.
type watched struct {
	paths   []string // "" entries are files that are not used
	build   func(contents [][]byte) (*tls.Config, error)
	log     *slog.Logger
	use     string
	metrics *Metrics
	every   time.Duration

	config atomic.Pointer[tls.Config]

	mu      sync.Mutex // held while the files are read; the fields below belong to it
	next    time.Time
	content [sha256.Size]byte // what config was built from
	reason  string            // why the last attempt failed; "" after a success
}

func watch(paths []string, options Options, build func([][]byte) (*tls.Config, error)) (*watched, error) {
	w := &watched{
		paths: paths, build: build, use: options.Use, metrics: options.Metrics, every: options.Every,
		log: options.Log.With("component", "tls", "use", options.Use),
	}
	if w.every <= 0 {
		w.every = DefaultEvery
	}
	w.metrics.prepare(w.use)
	contents, digest, err := w.read()
	if err != nil {
		return nil, err
	}
	config, err := build(contents)
	if err != nil {
		return nil, err
	}
	w.content, w.next = digest, time.Now().Add(w.every)
	w.config.Store(config)
	w.metrics.expires(w.use, config)
	return w, nil
}

// current returns the configuration in force. Of several handshakes at the same moment one reads the files; the others
// go on with what is there.
func (w *watched) current() *tls.Config {
	if w.mu.TryLock() {
		if now := time.Now(); !now.Before(w.next) {
			w.next = now.Add(w.every)
			w.reload()
		}
		w.mu.Unlock()
	}
	return w.config.Load()
}

// reload replaces the configuration if the files differ from what it was built from. The caller holds mu.
func (w *watched) reload() {
	contents, digest, err := w.read()
	if err == nil && digest == w.content {
		w.reason = "" // a broken change was taken back
		return
	}
	var config *tls.Config
	if err == nil {
		config, err = w.build(contents)
	}
	if err != nil {
		w.metrics.reloaded(w.use, resultFailed)
		if reason := err.Error(); reason != w.reason {
			w.reason = reason
			w.log.Error("changed TLS files cannot be used, the old ones stay in force", "error", err)
		}
		return
	}
	w.content, w.reason = digest, ""
	w.config.Store(config)
	w.metrics.reloaded(w.use, resultLoaded)
	w.metrics.expires(w.use, config)
	w.log.Info("changed TLS files are in force")
}

// read returns the contents in the order of paths, and one digest of all.
func (w *watched) read() (contents [][]byte, digest [sha256.Size]byte, err error) {
	hash := sha256.New()
	contents = make([][]byte, len(w.paths))
	for i, path := range w.paths {
		if path == "" {
			continue
		}
		if contents[i], err = readFile(path); err != nil {
			return nil, digest, err
		}
		_, _ = fmt.Fprintf(hash, "%d:", len(contents[i])) // a hash never returns an error
		_, _ = hash.Write(contents[i])
	}
	copy(digest[:], hash.Sum(nil))
	return contents, digest, nil
}

func readFile(path string) ([]byte, error) {
	if _, err := files.Stat(path); err != nil {
		return nil, fmt.Errorf("TLS file: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("TLS file: %w", err)
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing to lose
	content, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("TLS file: %w", err)
	}
	if len(content) > maxFileBytes {
		return nil, fmt.Errorf("TLS file %s is larger than %d bytes", path, maxFileBytes)
	}
	return content, nil
}
