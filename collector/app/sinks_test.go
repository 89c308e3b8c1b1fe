package app

import (
	"errors"
	"fmt"
	"testing"

	"tributary/collector/sink/clickhouse"
	"tributary/collector/sink/kafka"
)

// A batch that comes again must not be refused, and one that no sink will ever take must not be forgotten: its exporter would wait for ever.
func TestWhichErrorsSayThatASinkStops(t *testing.T) {
	for err, want := range map[error]bool{
		clickhouse.ErrClosed: true, fmt.Errorf("write: %w", kafka.ErrStopped): true,
		fmt.Errorf("%w: too large", kafka.ErrDropped): false, errors.New("encode a block"): false,
	} {
		if got := stops(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}
