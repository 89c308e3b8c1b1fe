package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"tributary/exporter/config"
	"tributary/exporter/filter"
	"tributary/exporter/local"
)

// filterCommand changes what a running exporter records.
func filterCommand() *cobra.Command {
	ask := func(use, short, example string, method string, change func(*cobra.Command, config.Config) *wireSettings) *cobra.Command {
		var output string
		cmd := configured(use, short, func(ctx context.Context, cmd *cobra.Command, c config.Config, _ *slog.Logger) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("-o %q is not table or json", output)
			}
			if c.Socket == "" {
				return errors.New("no socket is configured: give --socket")
			}
			var body any
			if w := change(cmd, c); w != nil {
				body = w
			}
			var answer wireSettings
			if err := (local.Client{Path: c.Socket}).Ask(ctx, method, "/filter", body, &answer); err != nil {
				return err
			}
			return answer.write(cmd.OutOrStdout(), output)
		})
		cmd.Example = example
		cmd.Flags().StringVarP(&output, "output", "o", "table", "table, or json")
		return cmd
	}
	show := ask("filter", "Show or change what the running exporter records", "  tributary-exporter filter", http.MethodGet,
		func(*cobra.Command, config.Config) *wireSettings { return nil })
	show.Long = filterHelp
	set := ask("set", "Change it; what is not given stays", `  tributary-exporter filter set --filter-drop "port=9100 role=server,prefix=127.0.0.0/8"
  tributary-exporter filter set --filter-keep "workload=shop/* state=closed|failed" --sample-rate 10`, http.MethodPatch, givenSettings)
	clear := ask("clear", "Record everything again", "  tributary-exporter filter clear", http.MethodPatch, func(*cobra.Command, config.Config) *wireSettings {
		one := uint32(1)
		return &wireSettings{Keep: &[]filter.Rule{}, Drop: &[]filter.Rule{}, SampleRate: &one}
	})
	show.AddCommand(set, clear)
	return show
}

const filterHelp = `Show or change what the running exporter records. A change holds at once and until the exporter ends; what holds from its start
is in its configuration.

A rule is key=value parts with spaces between them, all of which must hold; a value is one or several with | between them:
  prefix, local_prefix, remote_prefix   an address or a prefix; prefix: of either end
  port, local_port, remote_port         a port or FROM-TO; port: of either end
  workload                              the local one; * stands for anything but a slash
  role                                  client, server, unknown
  state                                 active, closed, failed, or a last_state such as syn_sent

What a rule of filter_keep matches is recorded, unless one of filter_drop matches too. A connection of which something was recorded has its last record in
any case, and what a record left out had counted is in the next one that is kept: sums stay exact.`

// givenSettings are those of the flags that were given.
func givenSettings(cmd *cobra.Command, c config.Config) *wireSettings {
	var w wireSettings
	given := cmd.Flags().Changed
	if given("filter-keep") {
		w.Keep = &c.Capture.Keep
	}
	if given("filter-drop") {
		w.Drop = &c.Capture.Drop
	}
	if given("sample-rate") {
		w.SampleRate = &c.Capture.SampleRate
	}
	if given("sample-seed") {
		w.SampleSeed = &c.Capture.SampleSeed
	}
	if given("active-every") {
		every := c.Capture.ActiveEvery.String()
		w.ActiveEvery = &every
	}
	return &w
}

func (w *wireSettings) write(out io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(out).Encode(w)
	}
	texts := func(rules *[]filter.Rule) string {
		if rules == nil || len(*rules) == 0 {
			return "-"
		}
		list := make([]string, len(*rules))
		for i, r := range *rules {
			list[i] = r.String()
		}
		return strings.Join(list, "\n              ")
	}
	over := "kept to"
	if w.Budget != "" {
		over = w.Budget
	}
	_, err := fmt.Fprintf(out, "filter_keep   %s\nfilter_drop   %s\nsample_rate   %d\nsample_seed   %d\nactive_every  %s\nrecords       %d kept, %d filtered, %d sampled out\nbudget        %s\n",
		texts(w.Keep), texts(w.Drop), *w.SampleRate, *w.SampleSeed, *w.ActiveEvery,
		w.Records[filter.Kept.String()], w.Records[filter.Filtered.String()], w.Records[filter.SampledOut.String()], over)
	return err
}
