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

	"tributary/collector/embedded"
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

// serverLife is what a store says of its present life. One that is embedded in another collector tells that one's name for it; any other says only when it
// was started.
type serverLife struct {
	host, name string
	started    int64
}

// after reports whether this is another life than before.
func (l serverLife) after(before serverLife) bool {
	if l.name != "" || before.name != "" {
		return l.name != before.name
	}
	return l.started > before.started+lifeJitter
}

// called is the name under which exporters hear of it: the same from every collector.
func (l serverLife) called(before string) string {
	if l.name != "" {
		return l.name
	}
	name := fmt.Sprintf("%s@%d", l.host, l.started/lifeRound*lifeRound) // about the same for every collector
	if name == before {
		name = fmt.Sprintf("%s@%d", l.host, l.started)
	}
	return name
}

// watchLife asks a server which life it has. One that has another than before may have forgotten. Behind a balancer several servers answer; each
// has its own life, and a server that is new begins none.
func watchLife(ctx context.Context, server *schema.Client, every time.Duration, began func(name string)) {
	defer server.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	lives := make(map[string]serverLife)
	var name string
	for {
		if life, err := askLife(ctx, server); err == nil {
			before, known := lives[life.host]
			again := known && life.after(before)
			if len(lives) < maxServers && !known || again {
				lives[life.host] = life
			}
			if again || name == "" {
				name = life.called(name)
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

// askLife asks for what an embedded store tells, and only for what every user may know where that is refused.
func askLife(ctx context.Context, server *schema.Client) (serverLife, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	life, err := queryLife(ctx, server, "SELECT any(substitution) FROM system.macros WHERE macro = '"+embedded.LifeMacro+"'")
	var refused *schema.Error
	if errors.As(err, &refused) && refused.Code == accessDenied {
		life, err = queryLife(ctx, server, "''")
	}
	return life, err
}

// accessDenied is ClickHouse's number of the error: the system tables of a server may be closed to us.
const accessDenied = 497

func queryLife(ctx context.Context, server *schema.Client, name string) (life serverLife, err error) {
	err = server.EachRow(ctx, schema.Statement{
		Text: "SELECT hostName() AS host, toInt64(toUnixTimestamp(now())) - toInt64(uptime()) AS started, (" + name + ") AS life",
	}, func(line []byte) error {
		var row struct {
			Host    string `json:"host"`
			Started int64  `json:"started"`
			Life    string `json:"life"`
		}
		err := json.Unmarshal(line, &row)
		life = serverLife{row.Host, row.Life, row.Started}
		return err
	})
	if err == nil && life.started == 0 {
		err = errors.New("the server did not say when it was started")
	}
	return life, err
}
