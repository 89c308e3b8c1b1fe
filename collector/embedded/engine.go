package embedded

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tributary/collector/embedded/chdb"
)

// engine is the opened engine with its connections, all made before the first request: a connect resets signal handlers for a moment.
type engine struct {
	readers, writers chan *slot
	all              []*slot

	controlMu sync.Mutex
	control   *slot

	codes             map[string]int // symbolic error name -> number
	statuses          map[int]int    // error number -> HTTP status
	version, timezone string
}

// slot is one connection to the engine. It belongs to one request at a time.
type slot struct {
	conn     *chdb.Conn
	name     string            // the connection's log_comment: the handle by which its statement can be killed
	baseline map[string]string // settings of this connection that are not the profile's
	changed  map[string]string // settings of the request before, which are still set
	database string
}

// readerBaseline bounds what a reader's statement may take, so that inserts always find memory.
func readerBaseline(memoryBytes int64) map[string]string {
	return map[string]string{
		"max_memory_usage":   strconv.FormatInt(memoryBytes/3, 10),
		"max_execution_time": strconv.Itoa(int(readerTimeout.Seconds()) / 2),
		"max_result_bytes":   strconv.Itoa(maxResultBytes),
	}
}

func openEngine(cfg childConfig) (*engine, error) {
	dir := cfg.engineDir()
	store := filepath.Join(dir, "data")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, fmt.Errorf("make the engine's directory: %w", err)
	}
	configPath, err := writeEngineConfig(dir, cfg.MemoryBytes, cfg.Life)
	if err != nil {
		return nil, err
	}
	lib, err := chdb.Open(cfg.LibraryPath)
	if err != nil {
		return nil, err
	}
	e := &engine{readers: make(chan *slot, readerSlots), writers: make(chan *slot, writerSlots)}
	args := []string{"--path=" + store, "--config-file=" + configPath}
	if err := e.connectAll(lib, args, readerBaseline(cfg.MemoryBytes)); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func (e *engine) connectAll(lib *chdb.Library, args []string, baseline map[string]string) (err error) {
	if e.control, err = e.connect(lib, args, "control", nil); err != nil {
		return err
	}
	if _, err = e.control.text("CREATE DATABASE IF NOT EXISTS " + defaultDatabase); err != nil {
		return fmt.Errorf("create database %s: %w", defaultDatabase, err)
	}
	if err = e.learn(); err != nil {
		return err
	}
	for i := range writerSlots {
		s, err := e.connect(lib, args, "writer-"+strconv.Itoa(i), nil)
		if err != nil {
			return err
		}
		e.writers <- s
	}
	for i := range readerSlots {
		// readonly comes last, because it cannot be changed any more; the value 2 lets other settings be changed within the constraints.
		s, err := e.connect(lib, args, "reader-"+strconv.Itoa(i), baseline, "SET ROLE NONE", "SET readonly = 2")
		if err != nil {
			return err
		}
		e.readers <- s
	}
	return nil
}

// connect opens a connection, applies its baseline and then the statements.
func (e *engine) connect(lib *chdb.Library, args []string, name string, baseline map[string]string, statements ...string) (*slot, error) {
	conn, err := lib.Connect(args...)
	if err != nil {
		return nil, err
	}
	s := &slot{conn: conn, name: name, baseline: baseline}
	e.all = append(e.all, s)
	setup := []string{"SET log_comment = " + quote(name)}
	for setting, value := range baseline {
		setup = append(setup, "SET "+setting+" = "+quote(value))
	}
	for _, statement := range append(setup, statements...) {
		if _, err := s.text(statement); err != nil {
			return nil, fmt.Errorf("prepare connection %s: %q: %w", name, statement, err)
		}
	}
	return s, nil
}

// learn asks the engine for what every answer needs. The table of errors lists all codes only with the setting.
func (e *engine) learn() error {
	identity, err := e.control.text("SELECT version(), timezone()")
	if err != nil {
		return fmt.Errorf("ask the engine's version: %w", err)
	}
	e.version, e.timezone, _ = strings.Cut(strings.TrimSpace(identity), "\t")
	list, err := e.control.text("SELECT name, code FROM system.errors SETTINGS system_events_show_zero_values = 1")
	if err != nil {
		return fmt.Errorf("ask the engine's error codes: %w", err)
	}
	e.codes = make(map[string]int)
	for line := range strings.Lines(list) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), "\t")
		code, err := strconv.Atoi(number)
		if err != nil {
			return fmt.Errorf("error code of %s: %w", name, err)
		}
		e.codes[name] = code
	}
	e.statuses = statusTable(e.codes)
	return nil
}

// close ends every connection; the engine stops cleanly with the last one. Requests must have ended.
func (e *engine) close() error {
	var errs []error
	for _, s := range slices.Backward(e.all) {
		errs = append(errs, s.conn.Close())
	}
	e.all = nil
	return errors.Join(errs...)
}

// acquire takes a connection of the pool, or refuses after slotWait.
func (e *engine) acquire(ctx context.Context, pool chan *slot) (*slot, error) {
	timer := time.NewTimer(slotWait)
	defer timer.Stop()
	select {
	case s := <-pool:
		return s, nil
	case <-ctx.Done():
		return nil, exception(codeCancelled, "the client went away")
	case <-timer.C:
		return nil, exception(codeTooManyQueries, "Too many simultaneous queries of this kind (%d run at once here)", cap(pool))
	}
}

// run executes one statement; when ctx ends first, the statement is killed and run returns once it has stopped.
func (e *engine) run(ctx context.Context, s *slot, statement, format string, params []chdb.Param) (*chdb.Result, error) {
	finished := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		select {
		case <-ctx.Done():
			e.kill(s, finished)
		case <-finished:
		}
	})
	result, err := s.conn.Query(statement, format, params...)
	close(finished)
	killer.Wait()
	if err != nil {
		s.drain()
	}
	if err != nil && ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return nil, exception(codeTimeout, "Timeout exceeded: the statement ran for more than %v", readerTimeout)
		}
		return nil, exception(codeCancelled, "Query was cancelled: the client went away")
	}
	return result, err
}

// kill repeats until the statement has ended: at its very start it is not in the list of processes yet.
func (e *engine) kill(s *slot, finished <-chan struct{}) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		e.controlMu.Lock()
		_, _ = e.control.text("KILL QUERY WHERE Settings['log_comment'] = " + quote(s.name) + " ASYNC")
		e.controlMu.Unlock()
		select {
		case <-finished:
			return
		case <-ticker.C:
		}
	}
}

// prepare gives the connection the request's database and settings. Those of the request before that this one has not are taken back in the same
// statement; most requests have the same ones, and then there is nothing to do.
func (s *slot) prepare(database string, settings []setting) error {
	if database != s.database {
		if _, err := s.text("USE " + quoteName(database)); err != nil {
			return err
		}
		s.database = database
	}
	var assignments []string
	wanted := make(map[string]string, len(settings))
	for _, set := range settings {
		wanted[set.name] = set.value
		if value, ok := s.changed[set.name]; !ok || value != set.value {
			assignments = append(assignments, set.name+" = "+quote(set.value))
		}
	}
	for name := range s.changed {
		if _, ok := wanted[name]; !ok {
			assignments = append(assignments, name+" = "+s.usual(name))
		}
	}
	if len(assignments) == 0 {
		return nil
	}
	if _, err := s.text("SET " + strings.Join(assignments, ", ")); err != nil {
		maps.Copy(wanted, s.changed)
		s.changed = wanted
		s.clean()
		return err
	}
	s.changed = wanted
	return nil
}

// clean takes back what a request has set. What could not be set cannot be taken back either, so each stands alone.
func (s *slot) clean() {
	for name := range s.changed {
		_, _ = s.text("SET " + name + " = " + s.usual(name))
	}
	s.changed = nil
}

// drain runs a statement that says nothing, behind one that failed: what that had already written, such as the names of its columns, the engine puts
// in front of the connection's next answer.
func (s *slot) drain() { _, _ = s.text("SET log_comment = " + quote(s.name)) }

// usual is what a setting is on this connection, in SQL.
func (s *slot) usual(name string) string {
	if base, ok := s.baseline[name]; ok {
		return quote(base)
	}
	return "DEFAULT"
}

// text runs a statement of ours and returns its answer as raw text.
func (s *slot) text(statement string) (string, error) {
	result, err := s.conn.Query(statement, "TSVRaw")
	if err != nil {
		return "", err
	}
	defer result.Release()
	return string(result.Bytes()), nil
}

// quote makes a string literal of ClickHouse SQL.
func quote(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

// quoteName makes an identifier of ClickHouse SQL.
func quoteName(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name) + "`"
}
