package app

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tributary/collector/config"
	"tributary/collector/embedded"
	"tributary/collector/query"
	"tributary/collector/schema"
	"tributary/collector/settings"
	programconfig "tributary/service/config"
)

// askConfig is what the verbs that ask need to know. Its keys are those of serve, so that the same file and environment serve both.
type askConfig struct {
	ClickHouse string
	API        string
	Data       string
}

// askCommands are the verbs that ask, each with --clickhouse and --api.
func askCommands() []*cobra.Command {
	var ask askConfig
	commands := query.Commands(func(context.Context) (query.Connection, error) { return connect(&ask) })
	for _, c := range commands {
		c.PersistentFlags().StringVar(&ask.ClickHouse, "clickhouse", "", "the ClickHouse to ask: embedded or http[s]://[user:password@]host:8123[/database] (environment: "+config.EnvPrefix+"_CLICKHOUSE)")
		if c.Name() == "reachability" || c.Name() == "schema" {
			c.PersistentFlags().StringVar(&ask.Data, "data", "", "the collector's directory, whose credential allows the embedded store to be written (environment: "+config.EnvPrefix+"_DATA)")
		}
		c.PersistentFlags().StringVar(&ask.API, "api", "", apiUsage)
	}
	return commands
}

const apiUsage = "the collector's API, http://host:8747 (default: where the environment or the defaults of serve say)"

// settingsCommand asks the API alone.
func settingsCommand() *cobra.Command {
	var api string
	cmd := settings.Command(func() (string, error) {
		cfg := config.Default()
		loader := programconfig.NewLoader(config.EnvPrefix, pflag.NewFlagSet("settings", pflag.ContinueOnError))
		loader.Bind(&cfg)
		if err := loader.Load(); err != nil {
			return "", err
		}
		return apiURL(api, &cfg), nil
	})
	cmd.PersistentFlags().StringVar(&api, "api", "", apiUsage)
	return cmd
}

// connect finds the store and the collector as serve would with the same environment.
func connect(ask *askConfig) (query.Connection, error) {
	cfg := config.Default()
	flags := pflag.NewFlagSet("ask", pflag.ContinueOnError)
	loader := programconfig.NewLoader(config.EnvPrefix, flags)
	loader.Bind(&cfg)
	if ask.ClickHouse != "" {
		if err := flags.Set("clickhouse", ask.ClickHouse); err != nil {
			return query.Connection{}, fmt.Errorf("--clickhouse: %w", err)
		}
	}
	if ask.Data != "" {
		if err := flags.Set("data", ask.Data); err != nil {
			return query.Connection{}, fmt.Errorf("--data: %w", err)
		}
	}
	if err := loader.Load(); err != nil {
		return query.Connection{}, err
	}
	server, err := asked(&cfg)
	if err != nil {
		return query.Connection{}, err
	}
	writer := func() (schema.Server, error) {
		if cfg.ClickHouse != "embedded" {
			return server, nil
		}
		credential, err := embedded.ReadCredential(cfg.Data)
		return schema.Server{URL: server.URL, Database: server.Database, User: credential.User, Password: credential.Password}, err
	}
	return query.Connection{Client: query.NewClient(server), API: apiURL(ask.API, &cfg), Writer: writer}, nil
}

// asked is the server that a reader asks; the embedded one answers without credentials.
func asked(cfg *config.Config) (schema.Server, error) {
	switch cfg.ClickHouse {
	case "none":
		return schema.Server{}, fmt.Errorf("there is nothing to ask: %s_CLICKHOUSE is none", config.EnvPrefix)
	case "embedded":
		return schema.Server{URL: "http://" + cfg.Store.EmbeddedListen, Database: schema.DefaultDatabase}, nil
	}
	return RemoteServer(cfg)
}

func apiURL(flag string, cfg *config.Config) string {
	if flag != "" {
		return flag
	}
	if cfg.APIListen == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(cfg.APIListen)
	if err != nil {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		if host, err = os.Hostname(); err != nil {
			return ""
		}
	}
	return "http://" + net.JoinHostPort(host, port)
}
