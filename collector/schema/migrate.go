package schema

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// The oldest ClickHouse that has everything we use: types IPv6, DateTime64 and Bool, deduplication of inserts into plain MergeTree tables
// by token, session_timezone, the codec GCD. It is the oldest by its documentation; tests run against 26.
const oldestMajor, oldestMinor = 23, 9

// ErrNewer is wrapped by the refusal of a database that a newer collector has migrated.
var ErrNewer = errors.New("the database is newer than this collector")

// Migrate brings the server's database up to this program's schema and checks the result. It may run anywhere, any time, and at the
// same time in several collectors: every statement can be repeated, and a version is noted only after all of its statements.
func Migrate(ctx context.Context, s Server, o Options, log *slog.Logger) error {
	o.Database = s.Database
	if err := s.Check(); err != nil {
		return err
	}
	steps, err := Migrations(o)
	if err != nil {
		return err
	}
	if err := checkServer(ctx, s); err != nil {
		return err
	}
	conn, err := s.open()
	if err != nil {
		return err
	}
	defer conn.Close()
	m := &migrator{conn: conn, o: o.withDefaults(), log: log.With("component", "schema")}
	return m.run(ctx, steps)
}

// open returns a connection that does nothing until it is used. It names no database: that may not exist yet.
func (s Server) open() (driver.Conn, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, fmt.Errorf("parse the URL of the ClickHouse server: %w", err)
	}
	options := &clickhouse.Options{
		Protocol:    clickhouse.HTTP,
		Addr:        []string{u.Host},
		Auth:        clickhouse.Auth{Username: s.User, Password: s.Password},
		DialTimeout: 10 * time.Second,
		ReadTimeout: 5 * time.Minute,
	}
	if u.Path != "" && u.Path != "/" {
		options.HttpUrlPath = u.Path
	}
	if u.Scheme == "https" {
		options.TLS = s.Transport(1).TLSClientConfig
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return nil, fmt.Errorf("open a connection to ClickHouse: %w", err)
	}
	return conn, nil
}

// checkServer asks for the version in the plainest way there is: the client library's own greeting fails on old servers with an error
// about something else.
func checkServer(ctx context.Context, s Server) error {
	version, err := serverVersion(ctx, s)
	if err != nil {
		return err
	}
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("what answers at %s is not ClickHouse: asked for its version it says %.60q", s.URL, version)
	}
	if major < oldestMajor || (major == oldestMajor && minor < oldestMinor) {
		return fmt.Errorf("the ClickHouse server at %s has version %s; Tributary needs %d.%d or later (types IPv6 and DateTime64, deduplicated inserts, the codec GCD)",
			s.URL, version, oldestMajor, oldestMinor)
	}
	return nil
}

func serverVersion(ctx context.Context, s Server) (string, error) {
	transport := s.Transport(1)
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/?query="+url.QueryEscape("SELECT version()"), nil)
	if err != nil {
		return "", fmt.Errorf("ask ClickHouse for its version: %w", err)
	}
	s.Authorize(r)
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return "", Unreachable(s, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1000))
	if err != nil {
		return "", Unreachable(s, err)
	}
	text := strings.TrimSpace(string(body))
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the ClickHouse server at %s refuses a query (%s): %s", s.URL, answer.Status, text)
	}
	return text, nil
}

// Unreachable says in one sentence that a server does not answer, and what to look at.
func Unreachable(s Server, err error) error {
	var cause *url.Error
	if errors.As(err, &cause) {
		err = cause.Err
	}
	return fmt.Errorf("the ClickHouse server at %s does not answer (%w): is it running, and is the URL right?", s.URL, err)
}

type migrator struct {
	conn driver.Conn
	o    Options
	log  *slog.Logger
}

// attempts is how often something is tried: two collectors that create the same table at the same instant can make one of them fail.
const attempts = 5

func (m *migrator) run(ctx context.Context, steps []Migration) error {
	if err := m.prepare(ctx); err != nil {
		return err
	}
	version, err := m.version(ctx)
	if err != nil {
		return err
	}
	if version > len(steps) {
		return fmt.Errorf("%w: database %s was migrated to version %d and this program knows %d; upgrade this collector",
			ErrNewer, m.o.Database, version, len(steps))
	}
	for _, step := range steps[version:] {
		if err := m.step(ctx, step); err != nil {
			return err
		}
		m.log.Info("migrated the database", "database", m.o.Database, "version", step.Version, "name", step.Name)
	}
	if err := m.check(ctx); err != nil {
		return err
	}
	return m.setTTL(ctx)
}

func (m *migrator) prepare(ctx context.Context) error {
	if err := m.exec(ctx, "CREATE DATABASE IF NOT EXISTS "+m.o.Database); err != nil {
		return fmt.Errorf("create database %s: %w", m.o.Database, err)
	}
	err := m.exec(ctx, "CREATE TABLE IF NOT EXISTS "+m.o.Database+`.schema_migrations
(version UInt32, name String, applied_at DateTime DEFAULT now())
ENGINE = ReplacingMergeTree ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1`)
	if err != nil {
		return fmt.Errorf("create table schema_migrations: %w", err)
	}
	return nil
}

func (m *migrator) version(ctx context.Context) (int, error) {
	var version uint32
	err := m.conn.QueryRow(ctx, "SELECT max(version) FROM "+m.o.Database+".schema_migrations").Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	return int(version), nil
}

// step runs a migration, and from its beginning after an error: another collector may be ahead and have dropped what the statement needs.
// Then it is over when the other has noted it.
func (m *migrator) step(ctx context.Context, step Migration) error {
	return again(ctx, func() error {
		if version, err := m.version(ctx); err != nil || version >= step.Version {
			return err
		}
		for i, statement := range step.Statements {
			if err := m.conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("migration %d (%s), statement %d: %w", step.Version, step.Name, i+1, err)
			}
		}
		note := fmt.Sprintf("INSERT INTO %s.schema_migrations (version, name) SELECT %d, '%s'", m.o.Database, step.Version, step.Name)
		if err := m.conn.Exec(ctx, note); err != nil {
			return fmt.Errorf("note migration %d: %w", step.Version, err)
		}
		return nil
	})
}

// exec runs a statement that may be repeated, again after an error.
func (m *migrator) exec(ctx context.Context, statement string) error {
	return again(ctx, func() error { return m.conn.Exec(ctx, statement) })
}

// again tries something until it succeeds, some times.
func again(ctx context.Context, try func() error) error {
	for i := 1; ; i++ {
		err := try()
		if err == nil || i == attempts || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(i) * 50 * time.Millisecond):
		}
	}
}

// check compares flows_raw with the table of fields: the sink's inserts depend on every name and type.
func (m *migrator) check(ctx context.Context) error {
	rows, err := m.conn.Query(ctx, "SELECT name, type FROM system.columns WHERE database = '"+m.o.Database+"' AND table = 'flows_raw'")
	if err != nil {
		return fmt.Errorf("read the columns of flows_raw: %w", err)
	}
	defer rows.Close()
	have := map[string]string{}
	for rows.Next() {
		var name, typ string
		if err := rows.Scan(&name, &typ); err != nil {
			return fmt.Errorf("read the columns of flows_raw: %w", err)
		}
		have[name] = typ
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the columns of flows_raw: %w", err)
	}
	for _, f := range Fields() {
		if have[f.Name] != f.Type {
			return fmt.Errorf("table %s.flows_raw was changed by hand or by another program: column %s should be %s and is %q; repair it or use another database",
				m.o.Database, f.Name, f.Type, have[f.Name])
		}
	}
	return nil
}

// setTTL follows a changed setting; parts that exist expire by the new rule at their next merge.
func (m *migrator) setTTL(ctx context.Context) error {
	var engine string
	err := m.conn.QueryRow(ctx, "SELECT engine_full FROM system.tables WHERE database = '"+m.o.Database+"' AND name = 'flows_raw'").Scan(&engine)
	if err != nil {
		return fmt.Errorf("read the engine of flows_raw: %w", err)
	}
	if strings.HasPrefix(engine, "Distributed") {
		return nil // a cluster's tables are made by hand, from ClusterDDL
	}
	want := ttlExpression(m.o.RawTTL)
	if strings.Contains(engine, "TTL "+want+" ") {
		return nil
	}
	if err := m.exec(ctx, "ALTER TABLE "+m.o.Database+".flows_raw MODIFY TTL "+want); err != nil {
		return fmt.Errorf("change the time to live of flows_raw: %w", err)
	}
	m.log.Info("changed the time to live of raw flows", "hours", int(m.o.RawTTL.Hours()))
	return nil
}
