package embedded

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// DefaultListen is ClickHouse's usual HTTP port, on loopback.
	DefaultListen = "127.0.0.1:8123"
	// DefaultMemoryBytes bounds the engine as a whole.
	DefaultMemoryBytes = 2 << 30

	// LifeMacro is the name in system.macros under which the engine tells Config.Life.
	LifeMacro = "store_life"

	// maxQueryBytes bounds the text of a statement without the data of an INSERT.
	maxQueryBytes = 1 << 20
	// maxBodyBytes bounds the data of one INSERT, decompressed: it is held in memory until the engine has read it.
	maxBodyBytes = 256 << 20
	// maxResultBytes bounds a reader's answer, which the engine builds in memory.
	maxResultBytes = 256 << 20
	// temporaryDiskBytes bounds what sorts and aggregations of all queries may spill.
	temporaryDiskBytes = 8 << 30

	readerSlots = 3
	writerSlots = 3
	// slotWait is how long a request waits for one of the slots before it is refused as one too many.
	slotWait = 10 * time.Second
	// readerTimeout ends a reader's statement, whatever max_execution_time it asks for.
	readerTimeout = 120 * time.Second
)

// Config of the embedded store. Zero values mean the default.
type Config struct {
	// DataDir is the collector's --data. The engine's files are in its subdirectory clickhouse.
	DataDir string
	// Listen is the loopback address of the HTTP interface; port 0 takes a free one.
	Listen string
	// LibraryPath of libchdb.so.
	LibraryPath string
	// MemoryBytes the engine may use for everything (its max_server_memory_usage).
	MemoryBytes int64
	// Life names this life of the store; whoever asks gets it as the macro store_life ([LifeMacro]). Empty: the store has no name for it.
	Life string
	// Command starts the child: a program and arguments that end in RunChild. Default: this program with "embedded-child".
	Command []string
	// StartTimeout bounds Start, StopTimeout the child's clean shutdown. Defaults 60 s and 10 s.
	StartTimeout, StopTimeout time.Duration
	Logger                    *slog.Logger
	// Registerer takes the store's metrics; nil for none.
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = DefaultMemoryBytes
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = time.Minute
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("component", "embedded")
	return c
}

// childConfig travels to the child as JSON in childEnv.
type childConfig struct {
	DataDir     string `json:"data_dir"`
	LibraryPath string `json:"library_path"`
	MemoryBytes int64  `json:"memory_bytes"`
	Life        string `json:"life"`
}

const (
	childEnv = "TRIBUTARY_EMBEDDED_CHILD"
	// The descriptors the child inherits.
	lifelineFD = 3
	listenerFD = 4
)

func (c childConfig) engineDir() string { return filepath.Join(c.DataDir, "clickhouse") }
