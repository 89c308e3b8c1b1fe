package assignment

import (
	"context"
	"sync/atomic"
	"time"

	"tributary/service/reload"
)

// RunFile keeps a source up to date with a file until ctx ends. One that cannot be read leaves what the last good one said.
func (s *Source) RunFile(ctx context.Context, path string) {
	var good atomic.Bool // a version has been taken
	go s.Run(ctx, good.Load)
	tick := time.NewTicker(reload.Every)
	defer tick.Stop()
	file := reload.New("assignments", path, maxBytes)
	for {
		if data, news, err := file.Look(time.Now()); news {
			var entries []Entry
			if err == nil {
				entries, err = Parse(path, data)
			}
			s.loaded(err)
			if err == nil {
				s.Set("", entries, time.Now())
				good.Store(true)
				s.log.Info("assignments loaded", "file", path, "entries", len(entries))
			} else {
				s.log.Warn("assignments stay as they were", "reason", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
