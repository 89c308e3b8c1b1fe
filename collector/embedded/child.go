package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// RunChild is the whole life of the child process: it opens the engine, serves HTTP on the inherited socket until ctx ends or the parent
// is gone, and closes the engine. Only the parent (Store) starts it: the settings come through the environment, the
// socket and the lifeline as inherited descriptors.
func RunChild(ctx context.Context, logger *slog.Logger) error {
	var cfg childConfig
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &cfg); err != nil {
		return errors.New("embedded-child is started by tributary-collector serve, not by hand")
	}
	unix.CloseOnExec(lifelineFD)
	unix.CloseOnExec(listenerFD)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go dieWithParent(cancel)
	listener, err := net.FileListener(os.NewFile(listenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("take over the listener: %w", err)
	}
	defer listener.Close()
	credential, err := EnsureCredential(cfg.DataDir)
	if err != nil {
		return err
	}
	if err := privateTemp(cfg); err != nil {
		return err
	}
	e, err := openEngine(cfg)
	if err != nil {
		return fmt.Errorf("open the engine: %w", err)
	}
	logger.Info("engine opened", "version", e.version, "data", cfg.engineDir())
	err = serve(ctx, listener, newHandler(e, credential, logger))
	return errors.Join(err, e.close())
}

// dieWithParent waits for the end of the lifeline: the parent holds its other end open for as long as it lives. An engine that does not
// close in time is left to its crash safety.
func dieWithParent(cancel context.CancelFunc) {
	_, _ = io.Copy(io.Discard, os.NewFile(lifelineFD, "lifeline"))
	cancel()
	time.Sleep(5 * time.Second)
	os.Exit(1)
}

// privateTemp gives the engine a temporary directory of its own and empties it: a killed engine leaves directories there.
func privateTemp(cfg childConfig) error {
	dir := filepath.Join(cfg.engineDir(), "tmp")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clean the engine's temporary directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the engine's temporary directory: %w", err)
	}
	return os.Setenv("TMPDIR", dir)
}

// serve answers requests until ctx ends, then lets those under way finish.
func serve(ctx context.Context, listener net.Listener, h *handler) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       5 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    2 * maxQueryBytes,
		ErrorLog:          slog.NewLogLogger(h.logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve ClickHouse's HTTP interface: %w", err)
	case <-ctx.Done():
	}
	timeout, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	if err := server.Shutdown(timeout); err != nil {
		return fmt.Errorf("requests did not end in time: %w", err)
	}
	return nil
}
