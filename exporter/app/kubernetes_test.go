package app

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"tributary/deploy/dev/kubernetestest"
	"tributary/exporter/config"
	"tributary/service/findings"
)

func asked(t *testing.T, c config.Config) string {
	t.Helper()
	var out bytes.Buffer
	d := doctor{findings.New(&out)}
	d.kubernetes(t.Context(), c)
	return out.String()
}

func TestDoctorWithoutKubernetes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	c := config.Default()
	if got := asked(t, c); got != "" {
		t.Errorf("not asked to, it says %q", got)
	}
	c.Kubernetes.Enabled = true
	if got := asked(t, c); !strings.HasPrefix(got, "FAIL") || !strings.Contains(got, "kubeconfig") {
		t.Errorf("outside a cluster it says %q", got)
	}
}

func TestKubernetesDoctor(t *testing.T) {
	server := kubernetestest.New(t)
	rights, err := os.ReadFile("../../deploy/kubernetes/exporter-rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	server.Create(t, string(rights))
	server.Create(t, `{kind: Pod, apiVersion: v1, metadata: {name: web, namespace: tributary}, spec: {nodeName: node-1, containers: [{name: c, image: i}]}}`)
	server.Create(t, `{kind: ServiceAccount, apiVersion: v1, metadata: {name: nobody, namespace: tributary}}`)
	c := config.Default()
	c.Kubernetes = config.Kubernetes{Enabled: true, Kubeconfig: server.Kubeconfig(t, "tributary", "tributary-exporter"), NodeName: "node-1"}
	says := func(want string) {
		t.Helper()
		if got := asked(t, c); !strings.HasPrefix(got, want[:4]) || !strings.Contains(got, want[6:]) || strings.Count(got, "\n") != 1 {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
	says("ok    names the pods of the node node-1: 1")
	c.Kubernetes.NodeName = "node-2"
	says("warn  is --node-name right?")
	c.Kubernetes.Kubeconfig = server.Kubeconfig(t, "tributary", "nobody")
	says("warn  forbidden")
	server.Kill()
	says("warn  connection refused")
}
