package app

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"tributary/collector/query"
	"tributary/collector/schema"
	"tributary/proto/flow"
)

const (
	usualDisagreements = 100
	mostDisagreements  = 1000
	storePatience      = 5 * time.Second
)

// answerDisagreements lists what this node's pipeline met, and what was found in the store.
func (c *collector) answerDisagreements(w http.ResponseWriter, r *http.Request) {
	limit := usualDisagreements
	if text := r.URL.Query().Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > mostDisagreements {
			http.Error(w, "limit must be a number from 1 to "+strconv.Itoa(mostDisagreements), http.StatusBadRequest)
			return
		}
	}
	answer := query.DisagreementsAnswer{Disagreements: c.metDisagreements(limit)}
	if c.cfg.ClickHouse != "none" {
		stored, err := c.storedDisagreements(r.Context(), limit)
		if err != nil {
			answer.Incomplete = err.Error()
		}
		answer.Disagreements = append(answer.Disagreements, stored...)
	}
	slices.SortStableFunc(answer.Disagreements, func(a, b query.Disagreement) int { return b.Time.Compare(a.Time) })
	answer.Disagreements = answer.Disagreements[:min(limit, len(answer.Disagreements))]
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // a client that went away
}

func (c *collector) metDisagreements(limit int) []query.Disagreement {
	out := []query.Disagreement{}
	if c.attributor == nil {
		return out
	}
	for _, d := range c.attributor.Disagreements(limit) {
		out = append(out, query.Disagreement{
			Time: time.Unix(0, d.EndTimeNs).UTC(), Network: d.Network, Address: d.Addr.Netip().String(), Port: d.Port, Workload: d.Named.Workload,
			Instance: d.Named.Instance, Evidence: flow.EvidenceNames.Name(d.Evidence), PeerWorkload: d.Peer.Workload, PeerInstance: d.Peer.Instance,
			ExporterID: d.Exporter, PeerExporterID: d.PeerExporter, FlowID: d.FlowID, RecordSeq: d.RecordSeq,
		})
	}
	return out
}

func (c *collector) storedDisagreements(ctx context.Context, limit int) ([]query.Disagreement, error) {
	server, err := asked(c.cfg)
	if err != nil {
		return nil, err
	}
	client := schema.NewClient(server, 1)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	rows, err := schema.Rows[query.Disagreement](ctx, client, schema.Statement{
		Text: query.DisagreementsSQL, Params: map[string]string{"limit": strconv.Itoa(limit)},
	})
	for i := range rows {
		if a, err := netip.ParseAddr(rows[i].Address); err == nil {
			rows[i].Address = a.Unmap().String()
		}
	}
	return rows, err
}
