package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

type tlsSection struct {
	ClientCA string `yaml:"client_ca" usage:"CA of the clients"`
}

type shared struct {
	LogLevel string `yaml:"log_level"`
}

type grant struct {
	Identity string         `yaml:"identity"`
	Networks []netip.Prefix `yaml:"networks"`
	Key      string         `yaml:"key" secret:"true"`
}

type program struct {
	shared    `yaml:",inline"`
	Collector string            `yaml:"collector" usage:"address of the collector"`
	Interval  time.Duration     `yaml:"interval"`
	BatchRows uint32            `yaml:"batch_rows"`
	Ratio     float64           `yaml:"ratio"`
	Insecure  bool              `yaml:"insecure"`
	Internal  []netip.Prefix    `yaml:"internal"`
	Kafka     []string          `yaml:"kafka"`
	Labels    map[string]string `yaml:"labels"`
	TLS       tlsSection        `yaml:"tls"`
	Store     string            `yaml:"store" flag:"clickhouse" secret:"url"`
	Password  string            `yaml:"password" secret:"true"`
	Hidden    int               `yaml:"hidden" flag:"-"`
	Derived   []any             `yaml:"-"`
	Claims    []grant           `yaml:"claims_allowed"`
}

// Validate stands for the checks of a real program.
func (p *program) Validate() error {
	if p.BatchRows == 0 {
		return errors.New("batch_rows must be at least 1")
	}
	return nil
}

func defaults() program {
	return program{Collector: "127.0.0.1:4747", Interval: 5 * time.Second, BatchRows: 1000, Kafka: []string{"none"}, Ratio: 0.05}
}

// load runs one program start: file ("" for none), environment, arguments.
func load(t *testing.T, file string, environ, args []string) (program, *Loader, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "x.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config", path}, args...)
	}
	cfg := defaults()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	loader := NewLoader("TRIBUTARY_TEST", flags).WithEnviron(environ)
	loader.Bind(&cfg)
	if err := flags.Parse(args); err != nil {
		return cfg, loader, err
	}
	return cfg, loader, loader.Load()
}

func TestLaterSourcesWin(t *testing.T) {
	const file = "collector: file:1\ninterval: 7s\nkafka: [f1, f2]\ntls:\n  client_ca: file.pem\n"
	cases := []struct {
		name    string
		file    string
		environ []string
		args    []string
		change  func(p *program)
	}{
		{"defaults", "", nil, nil, func(*program) {}},
		{"file", file, nil, nil, func(p *program) {
			p.Collector, p.Interval, p.Kafka, p.TLS.ClientCA = "file:1", 7*time.Second, []string{"f1", "f2"}, "file.pem"
		}},
		{"environment over file", file, []string{"TRIBUTARY_TEST_COLLECTOR=env:1", "TRIBUTARY_TEST_TLS_CLIENT_CA=env.pem", "TRIBUTARY_TEST_KAFKA=e1, e2", "TRIBUTARY_TEST_INTERVAL="}, nil, func(p *program) {
			p.Collector, p.Interval, p.Kafka, p.TLS.ClientCA = "env:1", 7*time.Second, []string{"e1", "e2"}, "env.pem"
		}},
		{"flag over environment", file, []string{"TRIBUTARY_TEST_COLLECTOR=env:1"}, []string{"--collector", "flag:1", "--kafka=a,b", "--kafka", "c", "--insecure", "--tls-client-ca=flag.pem"}, func(p *program) {
			p.Collector, p.Interval, p.Kafka, p.TLS.ClientCA, p.Insecure = "flag:1", 7*time.Second, []string{"a", "b", "c"}, "flag.pem", true
		}},
		{"renamed flag, maps, prefixes", "", nil, []string{"--clickhouse=http://h", "--labels=a=b,c=d", "--internal", "10.0.0.0/8,fd00::/8"}, func(p *program) {
			p.Store, p.Labels = "http://h", map[string]string{"a": "b", "c": "d"}
			p.Internal = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
		}},
		{"what only a file says", "claims_allowed:\n  - identity: a\n    networks: [10.0.0.0/8]\nlabels: {x: y}\nlog_level: debug\npassword: p\nratio: 0.5\n", []string{"TRIBUTARY_TEST_HIDDEN=3"}, nil, func(p *program) {
			p.Claims = []grant{{Identity: "a", Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
			p.Labels, p.LogLevel, p.Password, p.Ratio, p.Hidden = map[string]string{"x": "y"}, "debug", "p", 0.5, 3
		}},
		{"a key without value keeps the default", "collector:\ninterval: ~\n", nil, nil, func(*program) {}},
		{"empty file", "# nothing\n", nil, nil, func(*program) {}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := load(t, c.file, c.environ, c.args)
			if err != nil {
				t.Fatal(err)
			}
			want := defaults()
			c.change(&want)
			if diff := cmp.Diff(want, got, comparePrograms...); diff != "" {
				t.Error(diff)
			}
		})
	}
}

var comparePrograms = []cmp.Option{cmp.AllowUnexported(program{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}

func TestErrorsAreOneSentenceThatNamesThePlace(t *testing.T) {
	cases := []struct {
		name    string
		file    string
		environ []string
		args    []string
		want    string
	}{
		{"unknown key", "interval: 1s\n\ncolector: x\n", nil, nil, `line 3: unknown key "colector" (did you mean "collector"?)`},
		{"unknown nested key", "tls:\n  cert: x\n", nil, nil, `line 2: unknown key "cert" in "tls"`},
		{"unknown key in a list", "claims_allowed:\n- identty: x\n", nil, nil, `line 2: unknown key "identty" in "claims_allowed[0]" (did you mean "identity"?)`},
		{"wrong type", "collector: a\ninterval: 5\n", nil, nil, `line 2: interval: "5" is not a duration such as 5s or 1m30s`},
		{"out of range", "batch_rows: 4294967296\n", nil, nil, `line 1: batch_rows: "4294967296" is not a whole number of 0 or more: it is out of range`},
		{"bad prefix", "internal: [10.0.0.0/8, 10.0.0.1]\n", nil, nil, `line 1: internal[1]: "10.0.0.1" is not a valid prefix: `},
		{"list for a scalar", "collector: [a]\n", nil, nil, `line 1: collector wants one value, not a list or keys`},
		{"scalar for a section", "tls: x\n", nil, nil, `line 1: tls wants keys of its own below it`},
		{"scalar for a list of sections", "claims_allowed: x\n", nil, nil, `line 1: claims_allowed wants a list`},
		{"twice", "collector: a\ncollector: b\n", nil, nil, `line 2: the key "collector" is there twice`},
		{"alias", "kafka: &k [a]\ncollector: *k\n", nil, nil, `line 2: collector: YAML aliases are not supported`},
		{"not a mapping", "- a\n", nil, nil, `line 1: a list of "key: value" lines is expected`},
		{"two documents", "collector: a\n---\ncollector: b\n", nil, nil, `only one YAML document is allowed`},
		{"not YAML", "collector: [\n", nil, nil, `x.yaml: line 1: `},
		{"secret not shown", "password: [s3cret]\n", nil, nil, `line 1: password wants one value`},
		{"environment", "", []string{"TRIBUTARY_TEST_INSECURE=yes"}, nil, `environment variable TRIBUTARY_TEST_INSECURE: "yes" is not true or false`},
		{"flag", "", nil, []string{"--batch-rows=-1"}, `"-1" is not a whole number of 0 or more`},
		{"map flag", "", nil, []string{"--labels=a"}, `"a" is not an entry such as key=value`},
		{"validation", "batch_rows: 0\n", nil, nil, `batch_rows must be at least 1`},
		{"a dump used as a file", "password: (redacted)\n", nil, nil, `line 1: password: the value is the mark that --dump writes in place of a secret`},
		{"file missing", "", []string{"TRIBUTARY_TEST_CONFIG=/nonexistent/x.yaml"}, nil, `config file /nonexistent/x.yaml: no such file or directory`},
		{"file too large", "# " + strings.Repeat("x", MaxFileBytes), nil, nil, `larger than 1048576 bytes`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := load(t, c.file, c.environ, c.args)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v\nwant one line with %s", err, c.want)
			}
		})
	}
}

func TestDumpIsReadBackAndHidesSecrets(t *testing.T) {
	file := "store: https://u:pw1@h:8443/?password=pw2&x=1\npassword: pw3\nclaims_allowed: [{identity: a, key: pw4}]\nlabels: {\"1\": \"true\"}\ncollector: \"5\"\n"
	cfg, loader, err := load(t, file, nil, []string{"--dump"})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if done, err := loader.Answer(&out); !done || err != nil {
		t.Fatalf("Answer: %v, %v", done, err)
	}
	for _, secret := range []string{"pw1", "pw2", "pw3", "pw4"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the dump shows %s:\n%s", secret, out.String())
		}
	}
	for _, part := range []string{"# address of the collector\ncollector: \"5\"", "store: https://u:(redacted)@h:8443/?password=(redacted)&x=1", "  client_ca: \"\"", "interval: 5s", "batch_rows: 1000", "internal: []"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the dump lacks %q:\n%s", part, out.String())
		}
	}
	cfg.Store, cfg.Password, cfg.Claims[0].Key = "", "", ""
	var clean strings.Builder
	loader.root.FieldByName("Store").SetString("")
	loader.root.FieldByName("Password").SetString("")
	if err := dump(&clean, loader.root); err != nil {
		t.Fatal(err)
	}
	again, _, err := load(t, clean.String(), nil, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, clean.String())
	}
	if diff := cmp.Diff(cfg, again, comparePrograms...); diff != "" {
		t.Error(diff)
	}
}

func TestCheckAnswersAndStops(t *testing.T) {
	_, loader, err := load(t, "", nil, []string{"--check"})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	done, err := loader.Answer(&out)
	if !done || err != nil || !loader.Checking() || out.String() != "the configuration is valid\n" {
		t.Errorf("done %v, error %v, text %q", done, err, out.String())
	}
	_, loader, err = load(t, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := loader.Answer(&out); done || err != nil {
		t.Errorf("without --check: done %v, error %v", done, err)
	}
}

func TestUnknownVariablesAreWarningsUnlessKubernetesMadeThem(t *testing.T) {
	_, loader, err := load(t, "", []string{
		"TRIBUTARY_TEST_COLECTOR=a", "TRIBUTARY_TEST_SERVICE_HOST=10.0.0.1", "TRIBUTARY_TEST_PORT=tcp://10.0.0.1:4747",
		"TRIBUTARY_TEST_PORT_4747_TCP_ADDR=10.0.0.1", "TRIBUTARY_TEST_CONFIG=", "OTHER=1",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`environment variable TRIBUTARY_TEST_COLECTOR belongs to no key (did you mean "TRIBUTARY_TEST_COLLECTOR"?)`}
	if diff := cmp.Diff(want, loader.Warnings()); diff != "" {
		t.Error(diff)
	}
}

func TestSecretsHaveNoFlagAndTheOthersDo(t *testing.T) {
	_, loader, err := load(t, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var flags []string
	loader.flags.VisitAll(func(f *pflag.Flag) { flags = append(flags, f.Name+" "+f.Value.Type()+" "+f.DefValue) })
	want := []string{
		"batch-rows int 1000", "check bool false", "clickhouse string ", "collector string 127.0.0.1:4747", "config string ", "dump bool false",
		"insecure bool false", "internal prefix,… ", "interval duration 5s", "kafka string,… none", "labels key=value,… ", "log-level string ",
		"ratio float 0.05", "tls-client-ca string ",
	}
	if diff := cmp.Diff(want, flags); diff != "" {
		t.Error(diff)
	}
}

func TestRedactURL(t *testing.T) {
	cases := map[string]string{
		"embedded":                        "embedded",
		"http://h:8123":                   "http://h:8123",
		"http://u:p@h:8123/db":            "http://u:(redacted)@h:8123/db",
		"http://h/?user=u&Password=p&x=1": "http://h/?Password=(redacted)&user=u&x=1",
		"http://u:p%zz@h":                 "(redacted)",
		"u:p@h:9092":                      "(redacted)",
		"host:9092":                       "host:9092",
	}
	for in, want := range cases {
		if got := RedactURL(in); got != want {
			t.Errorf("RedactURL(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestMistakesInTheStructPanic(t *testing.T) {
	cases := map[string]any{
		"not a pointer": program{},
		"no tag":        &struct{ A int }{},
		"not snake": &struct {
			A int `yaml:"aB"`
		}{},
		"no text": &struct {
			A chan int `yaml:"a"`
		}{},
		"in an element": &struct {
			A []struct{ B int } `yaml:"a"`
		}{},
		"secret": &struct {
			A int `yaml:"a" secret:"url"`
		}{},
	}
	for name, cfg := range cases {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("Bind accepted it")
				}
			}()
			NewLoader("X", pflag.NewFlagSet("x", pflag.ContinueOnError)).Bind(cfg)
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"", "collector: a\ntls: {client_ca: b}\n", "a: &a [*a]\n", "? [x]\n: y\n", "claims_allowed: [{identity: 1}]\n", "---\n---\n", "labels: {a: b}\n<<: {}\n", "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg := defaults()
		if err := Decode("config file", "x.yaml", data, &cfg); err != nil && len(err.Error()) > 2000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
