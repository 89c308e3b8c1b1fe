package app

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/proto/flowv1"
)

// TestSettingsStandForThemselves: one that cannot be applied is refused and the others are applied; what is asked for no longer goes back.
func TestSettingsStandForThemselves(t *testing.T) {
	c := testConfig(t, "127.0.0.1:1")
	a, err := New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := newSettings(a)
	told := func(pairs ...string) map[string]string {
		m := &flowv1.Settings{Generation: 7}
		for i := 0; i < len(pairs); i += 2 {
			m.Settings = append(m.Settings, &flowv1.Setting{Key: pairs[i], Value: pairs[i+1]})
		}
		out := map[string]string{}
		answer := s.apply(m)
		for _, one := range answer.GetSettings() {
			out[one.GetKey()] = one.GetValue() + "|" + one.GetRefused()
		}
		if answer.GetGeneration() != 7 {
			t.Errorf("generation %d", answer.GetGeneration())
		}
		return out
	}
	want := map[string]string{
		"batch_age": "2s|", "transports": "grpc|" + `transports "pigeon" is not a list of grpc and https, best first, nor one with udp before them`,
		"colour": "|this exporter does not have it",
	}
	if diff := cmp.Diff(want, told("batch_age", "2s", "transports", "pigeon", "colour", "red")); diff != "" {
		t.Error(diff)
	}
	if a.pipeline.age.String() != "2s" || a.transport.Way() != "grpc" {
		t.Errorf("in force: %v, %v", a.pipeline.age, a.transport.Way())
	}
	if diff := cmp.Diff(map[string]string{"transports": "https,grpc|"}, told("transports", "https,grpc")); diff != "" {
		t.Error(diff)
	}
	if a.pipeline.age != c.BatchAge || a.transport.Way() != "https" {
		t.Errorf("in force: %v, %v", a.pipeline.age, a.transport.Way())
	}
	// Filters and sampling go through Change, each key for itself.
	want = map[string]string{
		"filter_drop": "port=443 role=client,workload=shop/*|", "sample_rate": "10|", "active_every": "10s|",
		"filter_keep": "|" + `rule "colour=red": "colour" is none of prefix, local_prefix, remote_prefix, port, local_port, remote_port, workload, role, state`,
	}
	if diff := cmp.Diff(want, told("filter_drop", "port=443 role=client,workload=shop/*", "sample_rate", "10", "active_every", "10s", "filter_keep", "colour=red")); diff != "" {
		t.Error(diff)
	}
	if in := a.Applied(); len(in.Drop) != 2 || in.SampleRate != 10 || in.ActiveEvery != 10*time.Second || len(in.Keep) != 0 {
		t.Errorf("in force: %+v", in)
	}
	told()
	if in := a.Applied(); len(in.Drop) != 0 || in.SampleRate != 1 || in.ActiveEvery != c.Capture.ActiveEvery {
		t.Errorf("in force again: %+v", in)
	}
}
