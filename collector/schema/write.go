package schema

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// blockBytes bound one INSERT of Insert, but for its last row.
const blockBytes = 8 << 20

// Insert writes rows into a table of the database, as JSON objects of its columns, in blocks. Of an error some rows may have been written.
func Insert[T any](ctx context.Context, c *Client, table string, rows iter.Seq[T]) error {
	var body bytes.Buffer
	out := json.NewEncoder(&body)
	flush := func() error {
		if body.Len() == 0 {
			return nil
		}
		block := bytes.NewReader(body.Bytes())
		body = bytes.Buffer{} // a transport may read on after an early answer
		return c.Exec(ctx, Statement{Text: "INSERT INTO " + c.server.Database + "." + table + " FORMAT JSONEachRow", Data: block})
	}
	for row := range rows {
		if err := out.Encode(row); err != nil {
			return fmt.Errorf("write a row of %s: %w", table, err)
		}
		if body.Len() >= blockBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// WriteEvery calls write every so often until ctx ends, and then once more, for what still waits: the store has a second to take it.
func WriteEvery(ctx context.Context, every time.Duration, write func(ctx context.Context, last bool)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			write(last, true)
			return
		case <-tick.C:
			write(ctx, false)
		}
	}
}
