package config

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/pflag"
)

// Loader fills one configuration struct from file, environment and flags. It is used once, from one goroutine:
// NewLoader, Bind, parse the flags, Load.
type Loader struct {
	prefix  string
	flags   *pflag.FlagSet
	environ []string
	root    reflect.Value
	fields  []field

	file  string
	check bool
	dump  bool
}

// Validator is implemented by configuration structs that can tell whether their values make sense together. The error is
// a sentence for the user that names the key.
type Validator interface {
	Validate() error
}

// NewLoader returns a loader whose environment variables start with prefix (TRIBUTARY_EXPORTER) and whose flags go to
// flags, which the program parses itself between Bind and Load.
func NewLoader(prefix string, flags *pflag.FlagSet) *Loader {
	return &Loader{prefix: prefix, flags: flags, environ: os.Environ()}
}

// WithEnviron replaces the process environment ("KEY=value" entries), for tests and for children.
func (l *Loader) WithEnviron(environ []string) *Loader {
	l.environ = environ
	return l
}

// Bind registers --config, --check, --dump and one flag for each field of the struct that cfg points to. cfg holds the
// defaults at this moment (they are shown by --help) and receives the result in Load. A struct that breaks the rules of
// the package comment is a programming error and panics.
func (l *Loader) Bind(cfg any) {
	root := reflect.ValueOf(cfg)
	if root.Kind() != reflect.Pointer || root.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: Bind wants a pointer to a struct, not %T", cfg))
	}
	l.root = root.Elem()
	l.fields = fieldsOf(l.root, l.prefix, nil)
	l.flags.StringVar(&l.file, "config", "", "YAML file with the keys of these flags in snake_case")
	l.flags.BoolVar(&l.check, "check", false, "validate the configuration and exit")
	l.flags.BoolVar(&l.dump, "dump", false, "print the effective configuration as YAML, secrets redacted, and exit")
	for i := range l.fields {
		f := &l.fields[i]
		if f.flag == "" {
			continue
		}
		flag := l.flags.VarPF(&flagValue{field: f}, f.flag, "", f.usage)
		if f.value.Kind() == reflect.Bool {
			flag.NoOptDefVal = "true"
		}
	}
}

// Load applies file, environment and flags to the bound struct, in this order, and then asks its Validate method if it
// has one. After an error the struct is half filled and must not be used.
func (l *Loader) Load() error {
	if path := l.filePath(); path != "" {
		if err := loadFile(path, l.root); err != nil {
			return err
		}
	}
	for _, f := range l.fields {
		text, ok := l.lookup(f.env)
		if !ok || f.env == "" {
			continue
		}
		if err := f.set([]string{text}); err != nil {
			return fmt.Errorf("environment variable %s: %w", f.env, err)
		}
	}
	for _, f := range l.fields {
		if f.flag == "" || !l.flags.Changed(f.flag) {
			continue
		}
		value, ok := l.flags.Lookup(f.flag).Value.(*flagValue)
		if !ok {
			continue
		}
		if err := f.set(value.texts); err != nil {
			return fmt.Errorf("flag --%s: %w", f.flag, err)
		}
	}
	if v, ok := l.root.Addr().Interface().(Validator); ok {
		return v.Validate()
	}
	return nil
}

// Answer does what --dump and --check ask for after a successful Load: it writes the effective configuration or a
// sentence to w. done tells the program to exit now, with status 0.
func (l *Loader) Answer(w io.Writer) (done bool, err error) {
	switch {
	case l.dump:
		return true, dump(w, l.root)
	case l.check:
		_, err := fmt.Fprintln(w, "the configuration is valid")
		return true, err
	default:
		return false, nil
	}
}

// Checking reports whether --check was given, for a program that wants to look further than the values (files,
// certificates) before it calls Answer.
func (l *Loader) Checking() bool { return l.check }

// Warnings names the environment variables that start with the prefix and belong to no key, one sentence each: probably
// a typing mistake, but never an error, because Kubernetes sets variables of this form for a Service of the same name.
func (l *Loader) Warnings() []string {
	known := []string{l.prefix + "_CONFIG"}
	for _, f := range l.fields {
		known = append(known, f.env)
	}
	var warnings []string
	for _, entry := range l.environ {
		name, _, _ := strings.Cut(entry, "=")
		rest, ours := strings.CutPrefix(name, l.prefix+"_")
		if !ours || slices.Contains(known, name) || kubernetesServiceVariable(rest) {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("environment variable %s belongs to no key%s", name, didYouMean(name, known)))
	}
	sort.Strings(warnings)
	return warnings
}

// kubernetesServiceVariable recognises what kubelet derives from a Service (SERVICE_HOST, SERVICE_PORT_…, PORT,
// PORT_4747_TCP_ADDR; https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
func kubernetesServiceVariable(rest string) bool {
	return rest == "SERVICE_HOST" || strings.HasPrefix(rest, "SERVICE_PORT") || rest == "PORT" || strings.HasPrefix(rest, "PORT_")
}

func (l *Loader) filePath() string {
	if l.file != "" {
		return l.file
	}
	path, _ := l.lookup(l.prefix + "_CONFIG")
	return path
}

func (l *Loader) lookup(name string) (string, bool) {
	for _, entry := range slices.Backward(l.environ) {
		if key, value, ok := strings.Cut(entry, "="); ok && key == name {
			return value, value != ""
		}
	}
	return "", false
}

// flagValue keeps what the command line said until Load, because flags are parsed before the file is read and win over it.
type flagValue struct {
	field *field
	texts []string
}

// Set implements pflag.Value. A scalar keeps the last text; a list or map collects them.
func (v *flagValue) Set(text string) error {
	scratch := field{value: reflect.New(v.field.value.Type()).Elem(), secret: v.field.secret}
	if err := scratch.set([]string{text}); err != nil {
		return err
	}
	if !v.field.collects() {
		v.texts = nil
	}
	v.texts = append(v.texts, text)
	return nil
}

// String implements pflag.Value: the default, for the help text.
func (v *flagValue) String() string {
	if v.field == nil {
		return ""
	}
	return v.field.shown()
}

// Type implements pflag.Value: the word behind the flag in the help text.
func (v *flagValue) Type() string { return typeWord(v.field.value.Type()) }
