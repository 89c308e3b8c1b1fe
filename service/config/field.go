package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// field is one leaf of the configuration struct: something a flag or an environment variable can set with a text.
type field struct {
	value  reflect.Value
	env    string // "" for what only the file can set
	flag   string // "" for no flag
	usage  string
	secret string // "", "true" or "url"
}

// fieldsOf lists the leaves under a struct in declaration order; keys are the file keys that lead to it.
func fieldsOf(structure reflect.Value, prefix string, keys []string) []field {
	var fields []field
	for i := range structure.NumField() {
		def, value := structure.Type().Field(i), structure.Field(i)
		key, inline := keyOf(def)
		if inline {
			fields = append(fields, fieldsOf(value, prefix, keys)...)
		}
		if key == "" {
			continue
		}
		path := append(keys[:len(keys):len(keys)], key)
		switch {
		case textual(def.Type):
			fields = append(fields, leaf(def, value, prefix, path))
		case def.Type.Kind() == reflect.Struct:
			fields = append(fields, fieldsOf(value, prefix, path)...)
		case fileOnly(def.Type):
			fieldsOf(reflect.New(def.Type.Elem()).Elem(), prefix, path) // finds mistakes in the element type now
		default:
			panic(fmt.Sprintf("config: field %s has the unsupported type %s", def.Name, def.Type))
		}
	}
	return fields
}

// leaf derives the names of one field from its path and tags.
func leaf(def reflect.StructField, value reflect.Value, prefix string, path []string) field {
	name := strings.Join(path, "_")
	f := field{
		value:  value,
		env:    prefix + "_" + strings.ToUpper(name),
		flag:   strings.ReplaceAll(name, "_", "-"),
		usage:  def.Tag.Get("usage"),
		secret: secretOf(def),
	}
	switch tag := def.Tag.Get("flag"); {
	case tag == "-" || f.secret == "true":
		f.flag = ""
	case tag != "":
		f.flag = tag
	}
	return f
}

// keyOf returns the file key of a struct field, or says that the field's own fields stand in its place. A field without either is no setting.
func keyOf(def reflect.StructField) (key string, inline bool) {
	key, option, _ := strings.Cut(def.Tag.Get("yaml"), ",")
	if key == "" && option == "inline" && def.Type.Kind() == reflect.Struct {
		return "", true
	}
	if key == "-" {
		return "", false
	}
	if key == "" || !def.IsExported() || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		panic(fmt.Sprintf("config: field %s wants an exported name and a yaml tag in snake_case", def.Name))
	}
	return key, false
}

func secretOf(def reflect.StructField) string {
	secret := def.Tag.Get("secret")
	if secret != "" && secret != "true" && (secret != "url" || !holdsStrings(def.Type)) {
		panic(fmt.Sprintf("config: field %s has the secret tag %q; it takes true, or url on a string or list of strings", def.Name, secret))
	}
	return secret
}

func holdsStrings(t reflect.Type) bool {
	return t.Kind() == reflect.String || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String
}

// fileOnly accepts the shapes that have no one-line text: lists of structs.
func fileOnly(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct
}

// collects reports whether a repeated flag adds to the value instead of replacing it.
func (f *field) collects() bool {
	if isText(f.value.Type()) {
		return false
	}
	kind := f.value.Kind()
	return kind == reflect.Slice || kind == reflect.Map
}

// set parses texts into the field; more than one text only for lists and maps, which they fill together.
func (f *field) set(texts []string) error {
	err := setText(f.value, strings.Join(texts, ","), f.secret)
	if err != nil && f.secret != "" && !errors.Is(err, errRedacted) {
		return fmt.Errorf("the value is not %s (it is a secret and not shown)", typePhrase(f.value.Type()))
	}
	return err
}

// shown is the present value as a user may see it.
func (f *field) shown() string { return redactText(formatText(f.value), f.secret) }
