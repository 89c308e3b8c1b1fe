package app

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tributary/collector/query"
	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
)

func TestMain(m *testing.M) { schematest.Main(m) }

// TestDisagreements: the API lists what is in the store, says so where that cannot be asked, and refuses a limit that is none.
func TestDisagreements(t *testing.T) {
	s := schematest.Migrated(t)
	client := schema.NewClient(s, 1)
	defer client.Close()
	at := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	row := `{"job": "pairs", "run": 1, "exporter_id": "x", "flow_id": 18446744073709551615, "record_seq": 2, "remote_workload": "shop/api", "remote_instance": "api-1",
		"was_workload": "shop/wrong", "was_evidence": "claim", "end_time_ns": "` + at.Format("2006-01-02 15:04:05") + `", "network": "lab", "remote_addr": "::ffff:10.0.0.2", "remote_port": 80,
		"peer_exporter_id": "y"}`
	if err := client.Exec(t.Context(), schema.Statement{Text: "INSERT INTO " + s.Database + ".renames FORMAT JSONEachRow", Data: strings.NewReader(row)}); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User, u.Path = url.UserPassword(s.User, s.Password), s.Database
	cfg := base(t)
	cfg.ClickHouse = u.String()
	serve(t, cfg)
	code, body := get(t, "http://"+cfg.APIListen+query.DisagreementsPath)
	var answer query.DisagreementsAnswer
	if err := json.Unmarshal([]byte(body), &answer); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	want := query.Disagreement{
		Time: at, Network: "lab", Address: "10.0.0.2", Port: 80, Workload: "shop/wrong", Evidence: "claim", PeerWorkload: "shop/api", PeerInstance: "api-1",
		ExporterID: "x", PeerExporterID: "y", FlowID: 1<<64 - 1, RecordSeq: 2,
	}
	if len(answer.Disagreements) != 1 || answer.Disagreements[0] != want || answer.Incomplete != "" {
		t.Errorf("got %s, want %+v", body, want)
	}
	for _, bad := range []string{"0", "-1", "1001", "x"} {
		if code, _ := get(t, "http://"+cfg.APIListen+query.DisagreementsPath+"?limit="+bad); code != http.StatusBadRequest {
			t.Errorf("limit=%s: %d", bad, code)
		}
	}

	alone := base(t) // its store does not answer
	serve(t, alone)
	if code, body := get(t, "http://"+alone.APIListen+query.DisagreementsPath); code != http.StatusOK || !strings.Contains(body, `"disagreements":[]`) || !strings.Contains(body, "incomplete") {
		t.Errorf("without a store: %d %s", code, body)
	}
}
