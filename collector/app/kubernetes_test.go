package app

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"tributary/collector/config"
	"tributary/collector/query"
	"tributary/deploy/dev/kubernetestest"
	"tributary/service/findings"
)

// A collector with the RBAC of deploy/kubernetes says whose the API server's own address is.
func TestKubernetesIsAFeed(t *testing.T) {
	server := kubernetestest.New(t)
	for _, file := range []string{"exporter-rbac.yaml", "collector-rbac.yaml"} {
		rights, err := os.ReadFile("../../deploy/kubernetes/" + file)
		if err != nil {
			t.Fatal(err)
		}
		server.Create(t, string(rights))
	}
	server.Create(t, "{kind: ServiceAccount, apiVersion: v1, metadata: {name: nobody, namespace: tributary}}")
	cfg := base(t)
	cfg.Kubernetes = config.Kubernetes{Enabled: true, Kubeconfig: server.Kubeconfig(t, "tributary", "tributary-collector"), Network: "lab"}
	doctorSays(t, cfg, "ok    ", " tells of Services", " tells of EndpointSlices", " tells of pods")
	refused := *cfg
	refused.Kubernetes.Kubeconfig = server.Kubeconfig(t, "tributary", "nobody")
	doctorSays(t, &refused, "warn  ", "not tell of Services: list: ", "not tell of EndpointSlices: ", "not tell of pods: ")
	serve(t, cfg)
	var body string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		q := url.Values{"address": {"10.96.0.1"}, "port": {"443"}, "at": {time.Now().Add(-1500 * time.Millisecond).Format(time.RFC3339Nano)}}
		_, body = get(t, "http://"+cfg.APIListen+query.WhoisPath+"?"+q.Encode())
		var answer query.WhoisAnswer
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		if len(answer.Answers) == 1 && answer.Answers[0].Workload == "default/kubernetes" && answer.Answers[0].Network == "lab" {
			return
		}
	}
	t.Errorf("whois says %s", body)
}

// doctorSays expects a line for each text, with a mark.
func doctorSays(t *testing.T, cfg *config.Config, mark string, texts ...string) {
	t.Helper()
	var out bytes.Buffer
	(&doctor{Report: findings.New(&out), ctx: t.Context(), cfg: cfg}).kubernetes()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, text := range texts {
		if len(lines) != len(texts) || !strings.HasPrefix(lines[i], mark) || !strings.Contains(lines[i], text) {
			t.Fatalf("%q is missing in:\n%s", text, out.String())
		}
	}
}

func TestKubernetesNeedsACluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	cfg := base(t)
	cfg.Kubernetes.Enabled = true
	if err := Serve(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
		t.Errorf("outside a cluster: %v", err)
	}
	doctorSays(t, cfg, "FAIL  ", "kubeconfig")
}
