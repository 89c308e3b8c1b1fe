package reachability

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"tributary/collector/schema"
)

// Regression is a path that worked and fails, in one version: a row of the table regressions.
type Regression struct {
	ID string `json:"id"`
	Path
	CauseOf     string    `json:"cause_of"` // server:NAME or client:NAME
	Verdict     Verdict   `json:"verdict"`
	Explanation string    `json:"explanation"`
	Evidence    string    `json:"evidence"` // JSON, the first failing flows
	LastSuccess time.Time `json:"last_success"`
	BrokeAt     time.Time `json:"broke_at"`
	OpenedAt    time.Time `json:"opened_at"`
	VerdictAt   time.Time `json:"verdict_at"` // later than OpenedAt: the verdict was corrected then
	ClosedAt    time.Time `json:"closed_at"`  // 1970: open
	ClosedWhy   string    `json:"closed_why"`
	LastSeen    time.Time `json:"last_seen"`
	LostSight   bool      `json:"lost_sight"`
	Failures    uint64    `json:"failures"`
	UsualRate   float64   `json:"usual_rate"`
	LeastRx     uint64    `json:"least_rx"`
	Times       int       `json:"times"`
	Collector   string    `json:"collector"`
}

// Open says that it lasts.
func (r *Regression) Open() bool { return r.ClosedWhy == "" }

var noTime = time.Unix(0, 0).UTC()

func fromNs(ns int64) time.Time { return time.Unix(0, ns).UTC() }

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// comesBackWithin is how soon after its end a regression of the same path counts as one that flaps.
const comesBackWithin = 10 * time.Minute

// isKnown is the SQL condition of the regressions that are open, those that ended lately, and those that ended while one that is open was: they may
// be part of its alert.
func isKnown(now time.Time) string {
	return fmt.Sprintf("(open OR closed_at >= fromUnixTimestamp64Nano(%d, 'UTC') OR closed_at >= (SELECT minOrNull(opened_at) FROM $database.regressions WHERE open))", now.Add(-usualFor).UnixNano())
}

// known reads them.
func (j *Judge) known(ctx context.Context, now time.Time) ([]*Regression, error) {
	found, err := schema.Rows[*Regression](ctx, j.store, j.statement("SELECT * FROM $database.regressions WHERE "+isKnown(now)+" ORDER BY opened_at, id"))
	if err != nil {
		return nil, fmt.Errorf("read the regressions: %w", err)
	}
	return found, nil
}

// row is a version as it is written.
type row struct {
	*Regression
	Version     uint64 `json:"version"`
	LastSuccess string `json:"last_success"`
	BrokeAt     string `json:"broke_at"`
	OpenedAt    string `json:"opened_at"`
	VerdictAt   string `json:"verdict_at"`
	ClosedAt    string `json:"closed_at"`
	LastSeen    string `json:"last_seen"`
}

func clickhouseTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000") }

// write stores new versions.
func (j *Judge) write(ctx context.Context, changed []*Regression, now time.Time) error {
	if len(changed) == 0 {
		return nil
	}
	rows := make([]row, len(changed))
	for i, r := range changed {
		r.Collector = j.cfg.Collector
		rows[i] = row{
			r, uint64(now.UnixNano()), clickhouseTime(r.LastSuccess), clickhouseTime(r.BrokeAt), clickhouseTime(r.OpenedAt), clickhouseTime(r.VerdictAt), clickhouseTime(r.ClosedAt), clickhouseTime(r.LastSeen),
		}
	}
	if err := schema.Insert(ctx, j.store, "regressions_raw", slices.Values(rows)); err != nil {
		return fmt.Errorf("write regressions: %w", err)
	}
	return nil
}
