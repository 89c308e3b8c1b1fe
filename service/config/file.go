package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFileBytes is the largest configuration file that is read; a larger one is refused.
const MaxFileBytes = 1 << 20

// ReadFile reads a user's file whole, if it is not larger than limit bytes. The error is a sentence without the word
// "open" or an errno in front: what ("config file"), the path, and why. Other rooms use it for their own YAML files.
func ReadFile(what, path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, path, bare(err))
	}
	defer func() { _ = f.Close() }() // opened for reading: nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, path, bare(err))
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s %s: larger than %d bytes", what, path, limit)
	}
	return data, nil
}

// bare drops operation and path from a file error, which the caller's sentence already has.
func bare(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// Decode reads one YAML document into the struct that target points to, by the rules of this package (yaml tags, unknown
// keys are errors, one sentence with the line), for files that are no program configuration, such as the identity file.
// what and path name the file in errors. Fields without a key in the document keep their values.
func Decode(what, path string, data []byte, target any) error {
	root := reflect.ValueOf(target)
	if root.Kind() != reflect.Pointer || root.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: Decode wants a pointer to a struct, not %T", target))
	}
	return decodeDocument(what+" "+path, data, root.Elem())
}

func loadFile(path string, root reflect.Value) error {
	data, err := ReadFile("config file", path, MaxFileBytes)
	if err != nil {
		return err
	}
	return decodeDocument("config file "+path, data, root)
}

func decodeDocument(file string, data []byte, root reflect.Value) error {
	decoder := yaml.NewDecoder(strings.NewReader(string(data)))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %s", file, yamlMessage(err))
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: only one YAML document is allowed", file)
	}
	d := &fileDecoder{file: file}
	top := document.Content[0]
	if isNull(top) {
		return nil
	}
	if top.Kind != yaml.MappingNode {
		return d.errorf(top, "a list of \"key: value\" lines is expected")
	}
	return d.structure(top, root, "")
}

// yamlMessage turns the library's "yaml: line 3: …" into the form of our own errors.
func yamlMessage(err error) string {
	return strings.TrimPrefix(err.Error(), "yaml: ")
}

// fileDecoder walks a YAML tree and a struct side by side. It works on nodes because they know their lines, and never
// follows aliases, so a small file cannot become a large one.
type fileDecoder struct {
	file string
}

func (d *fileDecoder) errorf(node *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s, line %d: %w", d.file, node.Line, fmt.Errorf(format, args...))
}

// structure fills v from a mapping; where is the dotted path of the mapping, "" at the top.
func (d *fileDecoder) structure(node *yaml.Node, v reflect.Value, where string) error {
	if node.Kind != yaml.MappingNode {
		return d.errorf(node, "%s wants keys of its own below it", where)
	}
	members := map[string]member{}
	collectMembers(v, members)
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, child := node.Content[i], node.Content[i+1]
		m, ok := members[key.Value]
		if !ok {
			return d.errorf(key, "unknown key %q%s%s", clip(key.Value), inside(where), didYouMean(key.Value, keysOf(members)))
		}
		if seen[key.Value] {
			return d.errorf(key, "the key %q is there twice", clip(key.Value))
		}
		seen[key.Value] = true
		if err := d.value(child, m, join(where, clip(key.Value))); err != nil {
			return err
		}
	}
	return nil
}

// value fills one field. A key without a value keeps the default.
func (d *fileDecoder) value(node *yaml.Node, m member, where string) error {
	t := m.value.Type()
	switch {
	case isNull(node):
		return nil
	case node.Kind == yaml.AliasNode:
		return d.errorf(node, "%s: YAML aliases are not supported, write the value out", where)
	case textual(t) && node.Kind == yaml.ScalarNode:
		f := field{value: m.value, secret: m.secret}
		if err := f.set([]string{node.Value}); err != nil {
			return d.errorf(node, "%s: %w", where, err)
		}
		return nil
	case scalar(t):
		return d.errorf(node, "%s wants one value, not a list or keys", where)
	case t.Kind() == reflect.Struct:
		return d.structure(node, m.value, where)
	case t.Kind() == reflect.Slice:
		return d.list(node, m, where)
	default:
		return d.entries(node, m, where)
	}
}

func (d *fileDecoder) list(node *yaml.Node, m member, where string) error {
	if node.Kind != yaml.SequenceNode {
		return d.errorf(node, "%s wants a list", where)
	}
	if len(node.Content) > maxListItems {
		return d.errorf(node, "%s: a list of %d items is too long, at most %d are allowed", where, len(node.Content), maxListItems)
	}
	list := reflect.MakeSlice(m.value.Type(), len(node.Content), len(node.Content))
	for i, item := range node.Content {
		if isNull(item) {
			return d.errorf(item, "%s: item %d is empty", where, i+1)
		}
		if err := d.value(item, member{list.Index(i), m.secret}, fmt.Sprintf("%s[%d]", where, i)); err != nil {
			return err
		}
	}
	m.value.Set(list)
	return nil
}

func (d *fileDecoder) entries(node *yaml.Node, m member, where string) error {
	if node.Kind != yaml.MappingNode {
		return d.errorf(node, "%s wants \"key: value\" lines below it", where)
	}
	if len(node.Content)/2 > maxListItems {
		return d.errorf(node, "%s: too many entries, at most %d are allowed", where, maxListItems)
	}
	t := m.value.Type()
	entries := reflect.MakeMapWithSize(t, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, child := node.Content[i], node.Content[i+1]
		name := reflect.ValueOf(key.Value).Convert(t.Key())
		if entries.MapIndex(name).IsValid() {
			return d.errorf(key, "the key %q is there twice", clip(key.Value))
		}
		value := reflect.New(t.Elem()).Elem()
		if err := d.value(child, member{value, m.secret}, join(where, clip(key.Value))); err != nil {
			return err
		}
		entries.SetMapIndex(name, value)
	}
	m.value.Set(entries)
	return nil
}

// member is one key of a mapping: the field it fills and that field's secret tag.
type member struct {
	value  reflect.Value
	secret string
}

func collectMembers(v reflect.Value, members map[string]member) {
	for i := range v.NumField() {
		def := v.Type().Field(i)
		key, inline := keyOf(def)
		if inline {
			collectMembers(v.Field(i), members)
		}
		if key == "" {
			continue
		}
		members[key] = member{v.Field(i), secretOf(def)}
	}
}

func keysOf(members map[string]member) []string {
	keys := make([]string, 0, len(members))
	for key := range members {
		keys = append(keys, key)
	}
	return keys
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }

func inside(where string) string {
	if where == "" {
		return ""
	}
	return fmt.Sprintf(" in %q", where)
}

func join(where, key string) string {
	if where == "" {
		return key
	}
	return where + "." + key
}
