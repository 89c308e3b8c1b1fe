package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tributary/collector/config"
	"tributary/collector/region"
	"tributary/collector/schema"
	programconfig "tributary/service/config"
	"tributary/service/findings"
	"tributary/service/tlsconf"
)

// errDoctor says that a collector cannot run as configured; why has been printed.
var errDoctor = errors.New("a collector cannot run as configured")

// doctorPatience is how long each thing that is asked may take.
const doctorPatience = 3 * time.Second

func doctorCommand() *cobra.Command {
	cfg := config.Default()
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with a configuration, and with the collector that runs with it, one line a finding",
		Long: `Say what is wrong with a configuration, and with the collector that runs with it, one line a finding: files, the store, other regions, the Kubernetes API, and
what the metrics of the running collector say of exporters. It changes nothing, takes the configuration of serve, and ends with 1 where serve would not start.`,
		Example: `  tributary-collector doctor
  tributary-collector doctor --config /etc/tributary/collector.yaml`,
		Args: cobra.NoArgs,
	}
	loader := programconfig.NewLoader(config.EnvPrefix, cmd.Flags())
	loader.Bind(&cfg)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := loader.Load(); err != nil {
			return err
		}
		if done, err := loader.Answer(cmd.OutOrStdout()); done || err != nil {
			return err
		}
		return diagnose(untilSignal(cmd.Context()), &cfg, cmd.OutOrStdout())
	}
	return cmd
}

// doctor writes findings. What serve cannot do without is a failure.
type doctor struct {
	ctx context.Context //nolint:containedctx // of one verb
	cfg *config.Config
	*findings.Report
}

func diagnose(ctx context.Context, cfg *config.Config, out io.Writer) error {
	d := &doctor{Report: findings.New(out), ctx: ctx, cfg: cfg}
	d.certificates()
	d.data()
	d.store()
	d.regions()
	d.kubernetes()
	d.running()
	return d.Verdict(errDoctor)
}

func (d *doctor) certificates() {
	if d.cfg.TLSCert == "" {
		d.Line("ok", "listeners without TLS: loopback only, or --insecure")
		return
	}
	server, err := tlsconf.NewServer(tlsconf.ServerFiles{Cert: d.cfg.TLSCert, Key: d.cfg.TLSKey, ClientCA: d.cfg.TLSClientCA}, quietly("doctor"))
	d.Must(err, "certificate and key of the listeners can be used")
	if err != nil {
		return
	}
	fine, err := tlsconf.Expiry(server.Current(), time.Now())
	d.Should(err, fine)
	if d.cfg.TLSClientCA == "" {
		d.Line("warn", "clients need no certificate (--tls-client-ca): whoever reaches the listeners may send and claim")
		return
	}
	d.Line("ok", "clients must show a certificate of "+d.cfg.TLSClientCA)
}

func quietly(use string) tlsconf.Options {
	return tlsconf.Options{Use: use, Log: slog.New(slog.DiscardHandler)}
}

func (d *doctor) data() {
	dir := d.cfg.Data
	if dir == "" {
		d.Line("warn", "no directory (--data): what is known of addresses does not survive a restart")
		return
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		d.Line("ok", dir+" will be made")
		return
	case err == nil && !info.IsDir():
		err = errors.New("no directory")
	case err == nil:
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		err = fmt.Errorf("%s cannot be written: %w; choose another with --data", dir, err)
	}
	fine := dir + " can be written"
	if d.cfg.ClickHouse == "embedded" {
		d.Must(err, fine)
	} else {
		d.Should(err, fine)
	}
}

// store asks ClickHouse; the embedded one answers only while a collector runs.
func (d *doctor) store() {
	if d.cfg.ClickHouse == "none" {
		d.Line("ok", "no ClickHouse (--clickhouse none): flows go to Kafka only")
		return
	}
	server, err := asked(d.cfg)
	if err != nil {
		d.Must(err, "")
		return
	}
	ctx, cancel := context.WithTimeout(d.ctx, doctorPatience)
	defer cancel()
	client := schema.NewClient(server, 1)
	defer client.Close()
	if err = client.Exec(ctx, schema.Statement{Text: "SELECT 1"}); err != nil {
		err = fmt.Errorf("the store at %s does not answer: %w", programconfig.RedactURL(server.URL), err)
	}
	d.Should(err, "the store answers at "+programconfig.RedactURL(server.URL))
}

// regions asks one collector of each other region after the other.
func (d *doctor) regions() {
	if d.cfg.Regions == "" {
		return
	}
	entries, err := region.Load(d.cfg.Regions, d.cfg.Region)
	if d.Must(err, fmt.Sprintf("%s can be read: %d entries", d.cfg.Regions, len(entries))); err != nil {
		return
	}
	client, err := regionsClient(d.cfg, quietly("regions"))
	if err != nil {
		d.Must(err, "")
		return
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if e.Region == d.cfg.Region || seen[e.Region] {
			continue
		}
		seen[e.Region] = true
		for _, at := range e.Collectors {
			err := region.Try(d.ctx, at, e.ServerName, client.GRPC())
			if err != nil {
				err = fmt.Errorf("region %s does not answer at %s: %w", e.Region, at, err)
			}
			d.Should(err, fmt.Sprintf("region %s answers at %s", e.Region, at))
		}
	}
}

// troubles are what a running collector's metrics say, and what it means. A series counts if it is not 0.
var troubles = map[string]string{
	"tributary_collector_ownership_bad_clock_exporters":                            "exporters have a clock that is off by more than max_clock_error: their claims name nobody (whois shows which)",
	"tributary_collector_ingest_claims_total{result=\"not_allowed\"}":              "claims were refused by claims_allowed (the log says whose)",
	"tributary_collector_ingest_refused_identities_total{use=\"flows\"}":           "streams were refused: somebody used an exporter_id that belongs to the owner of another certificate (the log says who)",
	"tributary_collector_ingest_refused_identities_total{use=\"control\"}":         "streams of claims were refused: somebody used an exporter_id that belongs to the owner of another certificate (the log says who)",
	"tributary_collector_ingest_refused_identities_total{use=\"batch\"}":           "batches were refused: somebody used an exporter_id that belongs to the owner of another certificate (the log says who)",
	"tributary_collector_ownership_feed_unready":                                   "the other collectors' news are not complete: rows wait, or are written as pending",
	"tributary_collector_attribute_mirror_rows_total{result=\"disagreed\"}":        "rows were named otherwise by their peer than by claims: this must not be, please report it (GET /v1/disagreements of the API lists them)",
	"tributary_collector_pairs_rows_total{result=\"disagreed\"}":                   "rows in the store were named otherwise than their peers say: this must not be, please report it (GET /v1/disagreements of the API lists them)",
	"tributary_collector_hold_late_rows_total{reason=\"full\"}":                    "rows were written without waiting for evidence, for want of memory (hold_bytes)",
	"tributary_collector_region_served_questions_total{result=\"not_allowed\"}":    "questions of other regions were refused by resolve_allowed",
	"tributary_collector_ownership_refused_total{reason=\"table_full\"}":           "claims found no room in the table of addresses",
	"tributary_collector_ownership_refused_total{reason=\"exporter_full\"}":        "claims were more than one exporter may make",
	"tributary_collector_region_loads_total{result=\"error\"}":                     "versions of the file of regions could not be used",
	"tributary_collector_assignment_loads_total{result=\"error\",source=\"file\"}": "versions of the file of assignments could not be used",
}

// maxDoctorMetrics bounds what is read of a running collector.
const maxDoctorMetrics = 4 << 20

// running asks a collector that runs with the same configuration.
func (d *doctor) running() {
	if d.cfg.MetricsListen == "" {
		d.Line("warn", "no metrics (--metrics-listen): whether a collector runs cannot be seen")
		return
	}
	ready, err := d.ask("/readyz")
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		d.Line("warn", fmt.Sprintf("no collector runs at %s (--metrics-listen)", d.cfg.MetricsListen))
		return
	case err != nil: // it wants a client's certificate, say
		d.Line("warn", "what runs at --metrics-listen cannot be asked: "+err.Error())
		return
	}
	if ready = strings.TrimSpace(ready); ready == "ready" {
		d.Line("ok", "the running collector is ready")
	} else {
		d.Line("warn", "the running collector is not ready: "+strings.ReplaceAll(ready, "\n", "; "))
	}
	body, err := d.ask("/metrics")
	if err != nil {
		d.Line("warn", "the running collector's metrics cannot be read: "+err.Error())
		return
	}
	well := true
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		if text := trouble(lines.Text()); text != "" {
			d.Line("warn", text)
			well = false
		}
	}
	if well {
		d.Line("ok", "its metrics show nothing wrong")
	}
}

// trouble reads a line of /metrics; "" where nothing is wrong.
func trouble(line string) string {
	series, text, _ := strings.Cut(line, " ")
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || value == 0 {
		return ""
	}
	if name, ok := strings.CutPrefix(series, `tributary_collector_region_down{region="`); ok {
		return fmt.Sprintf("region %s does not answer: rows towards it say peer_region_down", strings.TrimSuffix(name, `"}`))
	}
	if what, ok := troubles[series]; ok {
		return fmt.Sprintf("%.0f %s", value, what)
	}
	return ""
}

func (d *doctor) ask(path string) (string, error) {
	scheme, by := "http://", &http.Transport{DisableKeepAlives: true}
	if d.cfg.TLSCert != "" && tlsconf.CheckListener("", d.cfg.MetricsListen, false, false) != nil {
		trusted, err := tlsconf.Itself(d.cfg.TLSCert)
		if err != nil {
			return "", err
		}
		scheme, by.TLSClientConfig = "https://", trusted
	}
	ctx, cancel := context.WithTimeout(d.ctx, doctorPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+d.cfg.MetricsListen+path, nil)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", path, err)
	}
	answer, err := (&http.Client{Transport: by}).Do(r)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", path, err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxDoctorMetrics))
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", path, err)
	}
	return string(body), nil
}
