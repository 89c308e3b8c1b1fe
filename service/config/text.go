package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"
)

// maxListItems bounds lists and maps, in a file as in a variable.
const maxListItems = 10_000

var errRedacted = errors.New("the value is the mark that --dump writes in place of a secret")

// isText reports whether the type parses itself (netip.Addr, netip.Prefix, slog.Level …).
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// scalar reports whether one word of text fills the type.
func scalar(t reflect.Type) bool {
	if isText(t) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	default:
		return false
	}
}

// textual reports whether a flag or an environment variable can fill the type.
func textual(t reflect.Type) bool {
	switch {
	case scalar(t):
		return true
	case t.Kind() == reflect.Slice:
		return scalar(t.Elem())
	case t.Kind() == reflect.Map:
		return t.Key().Kind() == reflect.String && scalar(t.Elem())
	default:
		return false
	}
}

// setText parses text into v, which must be textual.
func setText(v reflect.Value, text, secret string) error {
	switch {
	case scalar(v.Type()):
		return setScalar(v, text, secret)
	case v.Kind() == reflect.Slice:
		return setList(v, splitList(text), secret)
	default:
		return setMap(v, splitList(text), secret)
	}
}

// splitList cuts at commas and drops blanks around items and empty items, so that "a, b," is two items and "" none.
func splitList(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func setList(v reflect.Value, items []string, secret string) error {
	if len(items) > maxListItems {
		return fmt.Errorf("a list of %d items is too long, at most %d are allowed", len(items), maxListItems)
	}
	list := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		if err := setScalar(list.Index(i), item, secret); err != nil {
			return err
		}
	}
	v.Set(list)
	return nil
}

func setMap(v reflect.Value, items []string, secret string) error {
	if len(items) > maxListItems {
		return fmt.Errorf("a map of %d entries is too long, at most %d are allowed", len(items), maxListItems)
	}
	entries := reflect.MakeMapWithSize(v.Type(), len(items))
	for _, item := range items {
		key, text, ok := strings.Cut(item, "=")
		if !ok || key == "" {
			return fmt.Errorf("%q is not an entry such as key=value", clip(item))
		}
		value := reflect.New(v.Type().Elem()).Elem()
		if err := setScalar(value, text, secret); err != nil {
			return err
		}
		entries.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), value)
	}
	v.Set(entries)
	return nil
}

func setScalar(v reflect.Value, text, secret string) error {
	if secret != "" && strings.Contains(text, redacted) {
		return errRedacted
	}
	if err := parseScalar(v, text); err != nil {
		return fmt.Errorf("%q is not %s%s", clip(text), typePhrase(v.Type()), reason(v.Type(), err))
	}
	return nil
}

func parseScalar(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	bits := 0
	if v.Kind() != reflect.String && v.Kind() != reflect.Bool {
		bits = v.Type().Bits()
	}
	switch kind := v.Kind(); {
	case v.Type() == reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(text)
		v.SetInt(int64(d))
		return err
	case kind == reflect.String:
		v.SetString(text)
		return nil
	case kind == reflect.Bool:
		b, err := strconv.ParseBool(text)
		v.SetBool(b)
		return err
	case v.CanInt():
		n, err := strconv.ParseInt(text, 10, bits)
		v.SetInt(n)
		return err
	case v.CanUint():
		n, err := strconv.ParseUint(text, 10, bits)
		v.SetUint(n)
		return err
	default:
		n, err := strconv.ParseFloat(text, bits)
		v.SetFloat(n)
		return err
	}
}

// reason adds what the type itself says, where it knows more than its name.
func reason(t reflect.Type, err error) string {
	switch {
	case errors.Is(err, strconv.ErrRange):
		return ": it is out of range"
	case isText(t):
		return ": " + err.Error()
	default:
		return ""
	}
}

// typePhrase completes "… is not ".
func typePhrase(t reflect.Type) string {
	switch {
	case isText(t):
		return "a valid " + typeWord(t)
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 5s or 1m30s"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Map:
		return "a list of key=value entries"
	case strings.HasPrefix(t.Kind().String(), "uint"):
		return "a whole number of 0 or more"
	case strings.HasPrefix(t.Kind().String(), "int"):
		return "a whole number"
	default:
		return "a text"
	}
}

// typeWord names the type in one word, for the help text.
func typeWord(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case isText(t):
		return strings.ToLower(t.Name())
	case t.Kind() == reflect.Slice:
		return typeWord(t.Elem()) + ",…"
	case t.Kind() == reflect.Map:
		return "key=value,…"
	case strings.HasPrefix(t.Kind().String(), "uint"), strings.HasPrefix(t.Kind().String(), "int"):
		return "int"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "float"
	default:
		return t.Kind().String()
	}
}

// formatText is the inverse of setText.
func formatText(v reflect.Value) string {
	switch {
	case scalar(v.Type()):
		return formatScalar(v)
	case v.Kind() == reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = formatScalar(v.Index(i))
		}
		return strings.Join(items, ",")
	default:
		items := make([]string, 0, v.Len())
		for _, key := range v.MapKeys() {
			items = append(items, key.String()+"="+formatScalar(v.MapIndex(key)))
		}
		sort.Strings(items)
		return strings.Join(items, ",")
	}
}

func formatScalar(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		if err != nil {
			return ""
		}
		return string(text)
	}
	return fmt.Sprint(v.Interface())
}

// clip keeps a hostile key or value from filling the log.
func clip(text string) string {
	const limit = 80
	if len(text) <= limit {
		return text
	}
	return text[:limit] + "…"
}
