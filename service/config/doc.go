// Package config fills a program's configuration struct: default < YAML file < environment < flag.
//
// The struct is the single source. A field Collector tagged yaml:"collector" gives the file key collector,
// the environment variable TRIBUTARY_EXPORTER_COLLECTOR and the flag --collector; a field of a nested struct joins the
// keys (tls.client_ca: TRIBUTARY_COLLECTOR_TLS_CLIENT_CA, --tls-client-ca). The tags:
//
//	yaml:"snake_case"   the key; required. yaml:",inline" on a struct puts its keys beside the others; yaml:"-" is no setting.
//	flag:"-"            no flag; flag:"name" another name than the kebab-case key.
//	usage:"text"        the help text of the flag and the comment in --dump.
//	secret:"true"       no flag (ps shows flags to everybody) and "(redacted)" in --dump.
//	secret:"url"        a URL that may carry a password: the flag stays, --dump shows the URL without the password.
//
// Fields may be strings, booleans, numbers, time.Duration ("5s"), anything with encoding.TextUnmarshaler (netip.Prefix …),
// slices of these ("a,b" in environment and flags, a list in the file), maps from string to these ("k=v,k=v"), nested
// structs, and, from the file only, slices of structs. A list from a later source replaces the one before.
//
// The room promises: every error is one sentence that names the place (file and line, variable or flag) and what would be
// right; an unknown key is an error; a file above MaxFileBytes is refused unread; a secret never appears in an error or a
// dump. It does not watch files and knows no key of any program. An environment variable that is set but empty counts as
// unset (compose files pass ${X:-}).
package config
