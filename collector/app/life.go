package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tributary/collector/schema"
	"tributary/service/files"
)

// life is one life of the embedded store, told by a file in the data directory. The store syncs its inserts, so that only a host that went down with
// it may cost something, or a directory that is not the one before: then another life begins.
type life struct {
	name string // "" if there is no embedded store, or the file cannot be kept
	path string
	boot string
}

const (
	lifeName = "store.life"
	bootPath = "/proc/sys/kernel/random/boot_id"
	running  = "running"
	stopped  = "stopped"
)

// beginLife reads how the life before ended.
func beginLife(dir string) (life, error) {
	l := life{path: filepath.Join(dir, lifeName)}
	boot, err := os.ReadFile(bootPath)
	if err != nil {
		return life{}, fmt.Errorf("boot id: %w", err)
	}
	l.boot = strings.TrimSpace(string(boot))
	before, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return life{}, err
	}
	parts := strings.Fields(string(before))
	if len(parts) == 3 && (parts[2] == stopped || parts[1] == l.boot) {
		l.name = parts[0]
	} else {
		l.name = randomID()
	}
	return l, l.write(running)
}

func (l life) write(state string) error {
	return files.Write(l.path, fmt.Appendln(nil, l.name, l.boot, state))
}

// end notes that the store was stopped in order. If that fails, the next life is another one, which costs only repetitions.
func (l life) end() {
	if l.name != "" {
		_ = l.write(stopped)
	}
}

const (
	lifeEvery  = 2 * time.Second
	lifeJitter = 5 // seconds by which the time of a start may seem to move
	lifeRound  = 60
)

// watchLife asks a server when it was started. One that has a later start than before may have forgotten. Behind a balancer several servers answer; each
// has its own life, and a server that is new begins none.
func watchLife(ctx context.Context, server *schema.Client, every time.Duration, began func(name string)) {
	defer server.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	started := make(map[string]int64)
	var name string
	for {
		if host, at, err := askLife(ctx, server); err == nil {
			before, known := started[host]
			again := known && at > before+lifeJitter
			if len(started) < maxServers && !known || again {
				started[host] = at
			}
			if again || name == "" {
				next := fmt.Sprintf("%s@%d", host, at/lifeRound*lifeRound) // about the same for every collector
				if next == name {
					next = fmt.Sprintf("%s@%d", host, at)
				}
				name = next
				began(name)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

const maxServers = 1000

func askLife(ctx context.Context, server *schema.Client) (host string, started int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err = server.EachRow(ctx, schema.Statement{
		Text: "SELECT hostName() AS host, toInt64(toUnixTimestamp(now())) - toInt64(uptime()) AS started",
	}, func(line []byte) error {
		var row struct {
			Host    string `json:"host"`
			Started int64  `json:"started"`
		}
		err := json.Unmarshal(line, &row)
		host, started = row.Host, row.Started
		return err
	})
	if err == nil && started == 0 {
		err = errors.New("the server did not say when it was started")
	}
	return host, started, err
}
