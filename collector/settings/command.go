package settings

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tributary/service/config"
)

// Command returns the verb; api returns the base URL of the collector's API.
func Command(api func() (string, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "Tell exporters what to do differently, while they run",
		Example: `  tributary-collector settings apply settings.yaml
  tributary-collector settings status`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(applyCommand(api), statusCommand(api))
	return cmd
}

func applyCommand(api func() (string, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "apply FILE",
		Short: "Put a settings file in force on all exporters of this collector; - reads standard input",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.SilenceUsage = true
			base, err := api()
			if err != nil {
				return err
			}
			var data []byte
			if args[0] == "-" {
				data, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), MaxFileBytes+1))
			} else {
				data, err = config.ReadFile("settings file", args[0], MaxFileBytes)
			}
			if err != nil {
				return err
			}
			if _, err := Parse(args[0], data); err != nil {
				return err // the collector would say the same, without the file's name
			}
			generation, err := put(cmd.Context(), base, data)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "applied as generation %s; what the exporters make of it: tributary-collector settings status\n", generation)
			return nil
		},
	}
}

func statusCommand(api func() (string, error)) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what each connected exporter has applied, and what it refuses",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			if output != "table" && output != "json" {
				return fmt.Errorf("-o %q is not table or json", output)
			}
			base, err := api()
			if err != nil {
				return err
			}
			answer, err := ask(cmd.Context(), http.MethodGet, base, nil, "")
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			var status Status
			if err := json.NewDecoder(answer.Body).Decode(&status); err != nil {
				return fmt.Errorf("the collector's answer: %w", err)
			}
			return status.write(cmd.OutOrStdout(), output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, or json: one object a line")
	return cmd
}

func (s *Status) write(w io.Writer, output string) error {
	if output == "json" {
		lines := json.NewEncoder(w)
		for _, e := range s.Exporters {
			if err := lines.Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
	generation := s.Generation
	if generation == "" {
		generation = "none: no settings were ever applied on this collector"
	}
	fmt.Fprintln(w, "generation", generation)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tEXPORTER\tSTATE\tIN FORCE\tREFUSED")
	for _, e := range s.Exporters {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", e.Host, e.ExporterID, e.State, pairs(e.InForce, "="), pairs(e.Refused, ": "))
	}
	return table.Flush()
}

func pairs(m map[string]string, between string) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, key+between+m[key])
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, "; ")
}

// put sends the settings with the credential that the collector names. Only a collector on this host may name a file to read.
func put(ctx context.Context, base string, data []byte) (generation string, err error) {
	answer, err := ask(ctx, http.MethodPut, base, data, "")
	var refused *refusedError
	if errors.As(err, &refused) && refused.credential != "" && local(base) {
		credential, readErr := readCredential(refused.credential)
		if readErr != nil {
			return "", readErr
		}
		answer, err = ask(ctx, http.MethodPut, base, data, credential)
	}
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 256))
	return strings.TrimSpace(string(text)), err
}

func readCredential(path string) (string, error) {
	if !filepath.IsAbs(path) || filepath.Base(path) != credentialName {
		return "", fmt.Errorf("the collector names %.128q as its credential, which cannot be", path)
	}
	data, err := config.ReadFile("credential", path, 2*credentialBytes+2)
	if err != nil {
		return "", fmt.Errorf("%w; run this as root or as the collector's user", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func local(base string) bool {
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	host := u.Hostname()
	if name, err := os.Hostname(); err == nil && host == name || host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// refusedError is an answer other than success.
type refusedError struct {
	text, credential string
}

// Error implements error.
func (e *refusedError) Error() string { return e.text }

func ask(ctx context.Context, method, base string, body []byte, credential string) (*http.Response, error) {
	if base == "" {
		return nil, errors.New("the collector has no API: give its address with --api http://host:8747")
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(base, "/")+Path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("--api: %w", err)
	}
	if credential != "" {
		r.Header.Set("Authorization", "Bearer "+credential)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	answer, err := client.Do(r)
	var lost *net.OpError
	if errors.As(err, &lost) {
		return nil, fmt.Errorf("no collector answers at %s (--api): %w", base, lost)
	}
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 2048)) // what came of it helps
	return nil, &refusedError{strings.TrimSpace(string(text)), answer.Header.Get(credentialHeader)}
}
