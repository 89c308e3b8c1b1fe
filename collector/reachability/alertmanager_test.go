package reachability

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"tributary/collector/schema/schematest"
	"tributary/deploy/dev/ports"
)

// TestAlertmanagerCorrected: the real one has a corrected verdict under the same alert, whichever collector tells it, and the end of it.
func TestAlertmanagerCorrected(t *testing.T) {
	h := newHook(t, func([]byte) string { return "" })
	address := ports.Address(t)
	url := "http://" + address + "/prefix"
	startAlertmanager(t, address, h.URL)
	s := schematest.Migrated(t)
	j, first := teller(t, s, targetAlertmanager, url)
	other, second := teller(t, s, targetAlertmanager, url)
	a := firing("shop/web")
	a.Paths[0].Verdict = VerdictNoReply
	tell := func(alerts *Alert, now time.Time) {
		t.Helper()
		j.alerts.set([]*Alert{alerts})
		other.alerts.set([]*Alert{alerts})
		for _, target := range []*target{first, second} {
			if err := target.tell(t.Context(), now); err != nil {
				t.Fatal(err)
			}
		}
	}
	has := func(want ...string) {
		t.Helper()
		var got []string
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if got = alertsIn(t, url); slices.Equal(got, want) {
				return
			}
		}
		t.Fatalf("Alertmanager has %q, want %q", got, want)
	}
	now := time.Now()
	since := " since " + a.StartsAt.UTC().Format(time.RFC3339Nano)
	tell(a, now)
	has("shop/db no_reply" + since)
	better := *a.Paths[0]
	better.Verdict, better.VerdictAt = VerdictOverflow, now.Add(time.Second).UTC()
	corrected := *a
	corrected.Paths = []*Regression{&better}
	tell(&corrected, now.Add(time.Second))
	has("shop/db listener_overflow" + since)
	tell(over(&corrected), now.Add(2*time.Second))
	has()
}

// alertsIn lists what an Alertmanager has as firing.
func alertsIn(t *testing.T, url string) (out []string) {
	t.Helper()
	answer, err := http.Get(url + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var alerts []struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
		StartsAt    time.Time         `json:"startsAt"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&alerts); err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts {
		out = append(out, a.Labels["server_workload"]+" "+a.Annotations["verdict"]+" since "+a.StartsAt.UTC().Format(time.RFC3339Nano))
	}
	return out
}
