package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/proto/flowv1"
)

const sound = `
rules:
- batch_age: 2s
  transports: [https, grpc]
- hosts: [db-*]
  batch_age: 1s
`

func TestLaterRulesWin(t *testing.T) {
	set, err := Parse("f", []byte(sound))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]map[string]string{
		"web-1": {"batch_age": "2s", "transports": "https,grpc"},
		"db-1":  {"transports": "https,grpc", "batch_age": "1s"},
	} {
		if diff := cmp.Diff(want, set.For(host)); diff != "" {
			t.Error(host, diff)
		}
	}
}

func TestOneMistakeRefusesAll(t *testing.T) {
	for say, text := range map[string]string{
		"rule 2: batch_age":            "rules: [{batch_age: 1s}, {batch_age: 5}]",
		"sets nothing":                 "rules: [{hosts: [a]}]",
		"hosts is an empty list":       "rules: [{hosts: [], batch_age: 1s}]",
		"has no rules":                 "",
		"write rules: []":              "rules:",
		"not a pattern":                "rules: [{hosts: ['[a'], batch_age: 1s}]",
		"colour":                       "rules: [{colour: red}]",
		"grpc and https":               "rules: [{transports: [pigeon]}]",
		"rule 1: batch_age":            "rules: [{batch_age: 1h}]",
		"larger than":                  strings.Repeat("#", MaxFileBytes+1),
		"at most 1000":                 "rules: [" + strings.Repeat("{batch_age: 1s},", 1001) + "]",
		"settings file f":              "rules: {",
		`"key: value" lines is expect`: "- 1",
	} {
		if _, err := Parse("f", []byte(text)); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%.40q: %v, want %q", text, err, say)
		}
	}
}

func TestNoRules(t *testing.T) {
	if set, err := Parse("f", []byte("rules: []")); err != nil || len(set.For("a")) != 0 {
		t.Errorf("%+v, %v", set, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sound))
	f.Fuzz(func(t *testing.T, data []byte) {
		if set, err := Parse("f", data); err == nil && set.generation == 0 {
			t.Error("the generation of no settings")
		}
	})
}

func opened(t *testing.T, dir string) *Settings {
	t.Helper()
	s, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSettingsSurvive applies, is opened again, and meets a file that somebody broke.
func TestSettingsSurvive(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, dir)
	if m, _ := s.For("db-1"); m != nil {
		t.Errorf("asked for %v before anything was applied", m)
	}
	_, changed := s.For("db-1")
	if _, err := s.Apply("f", []byte(sound)); err != nil {
		t.Fatal(err)
	}
	<-changed
	if _, err := s.Apply("f", []byte("rules: [{batch_age: 1h}]")); err == nil {
		t.Error("a bad file was applied")
	}
	before, _ := s.For("db-1")
	after, _ := opened(t, dir).For("db-1")
	if before.GetGeneration() == 0 || before.GetGeneration() != after.GetGeneration() || len(after.GetSettings()) != 2 {
		t.Errorf("before %v, after %v", before, after)
	}
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("rubbish: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, _ := opened(t, dir).For("db-1"); m != nil {
		t.Errorf("rubbish asks for %v", m)
	}
}

// TestNoDirectory: a collector without --data keeps nothing in the directory that it runs in, and reads nothing there.
func TestNoDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile(fileName, []byte(sound), 0o600); err != nil {
		t.Fatal(err)
	}
	s := opened(t, "")
	if m, _ := s.For("db-1"); m != nil {
		t.Errorf("asks for %v", m)
	}
	if _, err := s.Apply("f", []byte(sound)); !errors.Is(err, errNowhere) {
		t.Errorf("applied: %v", err)
	}
	answer := httptest.NewRecorder()
	s.answerApply(answer, httptest.NewRequest(http.MethodPut, Path, strings.NewReader(sound)))
	if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "--data") {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	if files, _ := os.ReadDir("."); len(files) != 1 {
		t.Errorf("%v", files)
	}
}

func TestStatus(t *testing.T) {
	s := opened(t, t.TempDir())
	for _, id := range []string{"silent", "willing", "refusing", "gone"} {
		s.Connect(id, "h-"+id)
	}
	s.Disconnect("gone")
	states := func() map[string]string {
		out := map[string]string{}
		for _, e := range s.Status().Exporters {
			out[e.ExporterID] = e.State
		}
		return out
	}
	if diff := cmp.Diff(map[string]string{"silent": StateNone, "willing": StateNone, "refusing": StateNone}, states()); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Apply("f", []byte(sound)); err != nil {
		t.Fatal(err)
	}
	m, _ := s.For("h")
	s.Answered("willing", &flowv1.Applied{Generation: m.GetGeneration()}, time.Now())
	s.Answered("refusing", &flowv1.Applied{Generation: m.GetGeneration(), Settings: []*flowv1.AppliedSetting{
		{Key: "transports", Value: "grpc", Refused: "https has no URL\n"},
	}}, time.Now())
	s.Answered("never seen", &flowv1.Applied{}, time.Now())
	if diff := cmp.Diff(map[string]string{"silent": StatePending, "willing": StateApplied, "refusing": StateRefused}, states()); diff != "" {
		t.Error(diff)
	}
	var out bytes.Buffer
	if err := s.Status().write(&out, "table"); err != nil || !strings.Contains(out.String(), "transports: https has no URL") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestTheVerb goes through the API with its credential.
func TestTheVerb(t *testing.T) {
	dir := t.TempDir()
	s := opened(t, dir)
	s.Connect("e1", "db-1")
	mux := http.NewServeMux()
	s.Register(mux)
	server := httptest.NewServer(mux)
	defer server.Close()
	verb := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := Command(func() (string, error) { return server.URL, nil })
		cmd.SetArgs(args)
		cmd.SetOut(&out)
		cmd.SetErr(io.Discard)
		err := cmd.Execute()
		return out.String(), err
	}
	file := filepath.Join(dir, "mine.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("rules: [{batch_age: 1h}]")
	if _, err := verb("apply", file); err == nil || !strings.Contains(err.Error(), "mine.yaml, rule 1: batch_age") {
		t.Errorf("a bad file: %v", err)
	}
	write(sound)
	if _, err := verb("apply", file); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, credentialName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("credential: %v %v", info, err)
	}
	r, _ := http.NewRequest("PUT", server.URL+Path, strings.NewReader(sound))
	r.Header.Set("Authorization", "Bearer wrong")
	answer, err := http.DefaultClient.Do(r)
	if err != nil || answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong credential: %v %v", answer, err)
	}
	status := s.Status()
	if text, err := json.Marshal(status); err != nil || !strings.Contains(string(text), `"state":"pending"`) {
		t.Errorf("%s %v", text, err)
	}
	if _, err := verb("status", "-o", "yaml"); err == nil {
		t.Error("-o yaml was accepted")
	}
}
