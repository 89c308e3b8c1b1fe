package query

import "time"

// DisagreementsPath is where the collector's API lists disagreements: GET DisagreementsPath[?limit=…] with DisagreementsAnswer.
const DisagreementsPath = "/v1/disagreements"

// DisagreementsAnswer lists records that were named otherwise than their peer's own record says, the newest first: those that this collector has met since it
// began, and those of the last day that were found in the store. There should be none.
type DisagreementsAnswer struct {
	Disagreements []Disagreement `json:"disagreements"`
	Incomplete    string         `json:"incomplete,omitempty"` // why the store's are missing
}

// Disagreement is one of them.
type Disagreement struct {
	Time           time.Time `json:"time"` // end of the record
	Network        string    `json:"network"`
	Address        string    `json:"address"` // of the remote end
	Port           uint16    `json:"port"`
	Workload       string    `json:"workload"` // as it was named
	Instance       string    `json:"instance,omitempty"`
	Evidence       string    `json:"evidence"` // by which it was named
	PeerWorkload   string    `json:"peer_workload"`
	PeerInstance   string    `json:"peer_instance"`
	ExporterID     string    `json:"exporter_id"`      // whose record it is
	PeerExporterID string    `json:"peer_exporter_id"` // whose record says otherwise
	FlowID         uint64    `json:"flow_id"`
	RecordSeq      uint32    `json:"record_seq"`
}

// DisagreementsSQL reads those that were found in the store, the newest first.
const DisagreementsSQL = `SELECT end_time_ns AS time, network, toString(remote_addr) AS address, remote_port AS port, was_workload AS workload, toString(was_evidence) AS evidence,
    peer_workload, peer_instance, exporter_id, peer_exporter_id, flow_id, record_seq
FROM disagreements ORDER BY made DESC, end_time_ns DESC LIMIT {limit:UInt32}`
