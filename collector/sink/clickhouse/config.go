package clickhouse

import (
	"fmt"
	"time"

	"tributary/collector/schema"
)

// Compression says how an insert's body travels.
type Compression string

// The compressions. LZ4 costs more CPU than everything else a row needs here (references: 441 instead of 63 ns), so it pays only
// where the network is dearer than the processor.
const (
	CompressionAuto Compression = ""     // none on loopback, else LZ4
	CompressionNone Compression = "none" //
	CompressionLZ4  Compression = "lz4"  // ClickHouse's own framing (decompress=1)
	CompressionZSTD Compression = "zstd" // Content-Encoding: zstd
)

// Config is what a Sink needs to know. Zero values mean the defaults.
type Config struct {
	Server          schema.Server
	BlockRows       int           // rows of a full block; 100,000. A larger block is cheaper for the server and dearer in memory: 310 bytes a row, in up to 5 places
	BlockAge        time.Duration // a block that is not full goes out after this, if an inserter is free; 500 ms
	MaxPendingBytes int64         // columns that wait for an answer before Write blocks; 96 MiB
	Inserters       int           // inserts at the same time; 2
	InsertTimeout   time.Duration // of one try; 2 min
	Compression     Compression
}

func (c Config) withDefaults() Config {
	if c.BlockRows == 0 {
		c.BlockRows = 100_000
	}
	if c.BlockAge == 0 {
		c.BlockAge = 500 * time.Millisecond
	}
	if c.MaxPendingBytes == 0 {
		c.MaxPendingBytes = 96 << 20
	}
	if c.Inserters == 0 {
		c.Inserters = 2
	}
	if c.InsertTimeout == 0 {
		c.InsertTimeout = 2 * time.Minute
	}
	if c.Compression == CompressionAuto {
		c.Compression = CompressionLZ4
		if c.Server.Loopback() {
			c.Compression = CompressionNone
		}
	}
	return c
}

// maxBlockRows keeps a block below what the server would cut in two by its own settings.
const maxBlockRows = 1_000_000

func (c Config) check() error {
	if err := c.Server.Check(); err != nil {
		return err
	}
	switch {
	case c.BlockRows < 1 || c.BlockRows > maxBlockRows:
		return fmt.Errorf("block_rows is %d; it must be between 1 and %d", c.BlockRows, maxBlockRows)
	case c.BlockAge < time.Millisecond || c.MaxPendingBytes < 1 || c.InsertTimeout < time.Second:
		return fmt.Errorf("block_age, max_pending_bytes and insert_timeout must be positive, the timeout at least 1 s")
	case c.Inserters < 1 || c.Inserters > 16:
		return fmt.Errorf("inserters is %d; it must be between 1 and 16", c.Inserters)
	}
	switch c.Compression {
	case CompressionNone, CompressionLZ4, CompressionZSTD:
		return nil
	}
	return fmt.Errorf("compression is %q; it must be none, lz4 or zstd", c.Compression)
}
