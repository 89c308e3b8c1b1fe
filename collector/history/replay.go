package history

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/collector/schema"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// before is how long before the time asked for the replay begins: by then every exporter's whole set has been said.
const before = setEvery + 10*time.Minute

// replay is what was known of addresses at a time.
type replay struct {
	table  *ownership.Table
	book   *session.Book
	events int
	last   int64 // when the last event was received
}

const replaySQL = `SELECT * FROM {database}.ownership FINAL
WHERE received_ns >= fromUnixTimestamp64Nano({from:Int64}) AND received_ns < fromUnixTimestamp64Nano({to:Int64})
ORDER BY received_ns, collector, seq`

// say says the history of a time again, to a table of its own.
func say(ctx context.Context, store *schema.Client, table ownership.Config, from, to time.Time) (*replay, error) {
	r := &replay{table: ownership.New(table)}
	var err error
	if r.book, err = session.New(maxExporters, r.table, nil); err != nil {
		return nil, err
	}
	err = store.EachRow(ctx, statement(store, replaySQL, map[string]string{
		"from": strconv.FormatInt(from.Add(-before).UnixNano(), 10), "to": strconv.FormatInt(to.UnixNano(), 10),
	}), func(line []byte) error {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("understand an event: %w", err)
		}
		r.apply(&e)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the history of claims: %w", err)
	}
	return r, nil
}

const maxExporters = 1 << 20

// apply says one event. What the table refused then it refuses again.
func (r *replay) apply(e *event) {
	r.events++
	r.last = max(r.last, int64(e.Received))
	if e.Verified > 0 && e.Event != eventHello {
		r.book.Mark(&flowv1.ExporterWatermark{
			ExporterId: e.Exporter, Host: e.Host, Stream: e.Stream, VerifiedToNs: int64(e.Verified), ClockNs: max(0, int64(e.Clock)), ReceivedNs: int64(e.Marked),
		})
	}
	step := &flowv1.OwnershipStep{ReceivedNs: int64(e.Received), Ownership: &flowv1.Ownership{}}
	addr := e.Addr.As16()
	switch e.Event {
	case eventHello:
		step.Hello, step.ClockNs = true, int64(e.Clock)
	case eventClaim, eventRepeatedClaim:
		step.RepeatedSet = e.Event == eventRepeatedClaim
		evidence := flowv1.Evidence_EVIDENCE_NONE
		if e.Evidence == flow.EvidenceNames[flow.EvidenceAssignment] {
			evidence = flowv1.Evidence_EVIDENCE_ASSIGNMENT
		}
		step.Ownership.Claims = []*flowv1.Claim{{
			Network: e.Network, Addr: addr[:], PortFrom: e.PortFrom, PortTo: e.PortTo, Workload: e.Workload, Instance: e.Instance, InstanceDerived: e.Derived,
			Zone: e.Zone, Region: e.Region, Release: e.Release, Evidence: evidence, FromNs: int64(e.At),
		}}
	case eventRelease, eventShared:
		reason := flowv1.ReleaseReason_RELEASE_REASON_UNSPECIFIED
		if e.Event == eventShared {
			reason = flowv1.ReleaseReason_RELEASE_REASON_SHARED
		}
		step.Ownership.Releases = []*flowv1.Release{{Network: e.Network, Addr: addr[:], PortFrom: e.PortFrom, PortTo: e.PortTo, AtNs: int64(e.At), Reason: reason}}
	case eventWholeSet, eventRepeatedSet:
		step.RepeatedSet, step.Ownership.Full = e.Event == eventRepeatedSet, true
	case eventWatermark:
		return
	}
	r.book.Apply(&flowv1.ExporterChanges{ExporterId: e.Exporter, Host: e.Host, Stream: e.Stream, Steps: []*flowv1.OwnershipStep{step}})
}
