package config

import (
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// redacted stands in a dump for a secret that is set.
const redacted = "(redacted)"

// dump writes the struct as YAML that Load would read back, secrets excepted.
func dump(w io.Writer, root reflect.Value) error {
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(dumpStruct(root)); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

func dumpStruct(v reflect.Value) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode}
	for i := range v.NumField() {
		def := v.Type().Field(i)
		key, inline := keyOf(def)
		if inline {
			node.Content = append(node.Content, dumpStruct(v.Field(i)).Content...)
		}
		if key == "" {
			continue
		}
		keyNode := &yaml.Node{Kind: yaml.ScalarNode, Value: key, HeadComment: def.Tag.Get("usage")}
		node.Content = append(node.Content, keyNode, dumpValue(v.Field(i), secretOf(def)))
	}
	return node
}

func dumpValue(v reflect.Value, secret string) *yaml.Node {
	t := v.Type()
	switch {
	case scalar(t):
		return dumpScalar(v, secret)
	case t.Kind() == reflect.Struct:
		return dumpStruct(v)
	case t.Kind() == reflect.Slice:
		node := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			node.Content = append(node.Content, dumpValue(v.Index(i), secret))
		}
		if v.Len() == 0 {
			node.Style = yaml.FlowStyle
		}
		return node
	default:
		node := &yaml.Node{Kind: yaml.MappingNode}
		for _, key := range sortedKeys(v) {
			keyNode := &yaml.Node{}
			keyNode.SetString(key.String())
			node.Content = append(node.Content, keyNode, dumpValue(v.MapIndex(key), secret))
		}
		if v.Len() == 0 {
			node.Style = yaml.FlowStyle
		}
		return node
	}
}

func dumpScalar(v reflect.Value, secret string) *yaml.Node {
	node := &yaml.Node{}
	text := redactText(formatScalar(v), secret)
	number := v.CanInt() || v.CanUint() || v.CanFloat() || v.Kind() == reflect.Bool
	if number && text != redacted && !isText(v.Type()) && v.Type() != reflect.TypeFor[time.Duration]() {
		node.Kind, node.Value = yaml.ScalarNode, text
		return node
	}
	node.SetString(text)
	return node
}

func sortedKeys(v reflect.Value) []reflect.Value {
	return slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int {
		return strings.Compare(a.String(), b.String())
	})
}

// redactText hides a secret that is set; an empty one stays visible as empty. A list of URLs is redacted item by item.
func redactText(text, secret string) string {
	switch {
	case secret == "" || text == "":
		return text
	case secret == "true":
		return redacted
	}
	items := strings.Split(text, ",")
	for i, item := range items {
		items[i] = RedactURL(item)
	}
	return strings.Join(items, ",")
}

// RedactURL returns the URL without its password, be it in the user part or in a query parameter, for logs and dumps. What does not
// parse as a URL is hidden whole if it could hold a password, that is if it has an @.
func RedactURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || u.Host == "" {
		if strings.Contains(text, "@") {
			return redacted
		}
		return text
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), redacted)
	}
	query := u.Query()
	for key := range query {
		switch strings.ToLower(key) {
		case "password", "pass", "key", "token", "secret":
			query.Set(key, redacted)
			u.RawQuery = query.Encode()
		}
	}
	// The mark is for people: undo the escaping that String gives its parentheses.
	return strings.ReplaceAll(u.String(), url.QueryEscape(redacted), redacted)
}
