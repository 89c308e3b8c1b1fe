package kubernetestest

import "testing"

func TestKubernetesServerKeepsItsObjectsOverAKill(t *testing.T) {
	s := New(t)
	uid := s.Create(t, `
kind: Namespace
apiVersion: v1
metadata: {name: shop}`)
	s.Kill()
	s.Restart(t)
	meta, _ := s.Do(t, "GET", "/api/v1/namespaces/shop", "")["metadata"].(map[string]any)
	if uid == "" || meta["uid"] != uid {
		t.Errorf("the namespace has the UID %v, want %q", meta["uid"], uid)
	}
}
