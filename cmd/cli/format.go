package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/pflag"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/network"
)

// formatUsage is the help of a flag for printAs.
const formatUsage = "print by this `TEMPLATE` of Go, with the keys of the JSON and the function json, such as " +
	"'{{.state}} {{json .network}}'; or json"

// printAs prints a value by a template of the keys of its JSON.
func printAs[T any](a *commands, format string, v T) error { return printEach(a, format, []T{v}) }

// printEach prints each of a list in a line, or as JSON.
func printEach[T any](a *commands, format string, list []T) error {
	t, err := parseFormat(format)
	for _, v := range list {
		if err == nil {
			err = a.printBy(t, v)
		}
	}
	return err
}

// parseFormat reads the template of --format.
func parseFormat(format string) (*template.Template, error) {
	if format == "json" {
		format = "{{json .}}"
	}
	if word, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(format, `\t`, " ")), " "); word == "table" {
		return nil, app.Usagef("--format: %q: a table is printed without --format alone; a template without the word "+
			"table prints a line each, with the keys of --json", format)
	}
	t, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{"json": asJSON}).
		Parse(unescaped(format))
	if err != nil {
		return nil, app.Usagef("--format: %w; the functions are json and those of Go's text/template", err)
	}
	return t, nil
}

var escapes = strings.NewReplacer(`\t`, "\t", `\n`, "\n")

// unescaped has \t and \n in the text of a template mean a tab and a line's end, as shells leave them alone. Its
// actions, whose texts have escapes of their own, stay.
func unescaped(format string) string {
	var b strings.Builder
	for {
		text, rest, found := strings.Cut(format, "{{")
		b.WriteString(escapes.Replace(text))
		if !found {
			return b.String()
		}
		action, after, ended := strings.Cut(rest, "}}")
		if b.WriteString("{{" + action); !ended {
			return b.String()
		}
		b.WriteString("}}")
		format = after
	}
}

// printBy prints one value in a line.
func (a *commands) printBy(t *template.Template, v any) error {
	if err := a.execute(t, v); err != nil {
		return fmt.Errorf("--format: %w; the keys are those of the JSON (--format json)", err)
	}
	return nil
}

func (a *commands) execute(t *template.Template, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // as they are written
	var keys any
	if err := dec.Decode(&keys); err != nil {
		return err
	}
	if err := t.Execute(a.Out, inLine(whole(reflect.TypeOf(v), keys))); err != nil {
		return err
	}
	printable.Fprintln(a.Out)
	return nil
}

// whole has a value of JSON have all keys of its type: those that were left out are nil.
func whole(t reflect.Type, v any) any {
	switch {
	case t.Kind() == reflect.Pointer:
		return whole(t.Elem(), v)
	case t.Kind() == reflect.Slice:
		if list, is := v.([]any); is {
			for i := range list {
				list[i] = whole(t.Elem(), list[i])
			}
		}
	case t.Kind() == reflect.Struct:
		if keys, is := v.(map[string]any); is {
			for _, f := range reflect.VisibleFields(t) {
				if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
					keys[name] = whole(f.Type, keys[name])
				}
			}
		}
	}
	return v
}

// asJSON is the function json of templates.
func asJSON(v any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// inLine has the texts of a value, which are of others, begin no line and steer no terminal.
func inLine(v any) any {
	switch v := v.(type) {
	case string:
		return printable.Line(v)
	case []any:
		for i := range v {
			v[i] = inLine(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for key := range v {
			out[printable.Line(key)] = inLine(v[key])
		}
		return out
	}
	return v
}

// conditions are those that a list can be filtered by.
type conditions[T any] map[string]func(v T, value string) bool

// filters are the values that are asked for, by the conditions.
type filters map[string][]string

// parse reads KEY=VALUE.
func (c conditions[T]) parse(text string, to filters) error {
	key, value, _ := strings.Cut(text, "=")
	if c[key] == nil || value == "" {
		keys := slices.Sorted(maps.Keys(c))
		last := len(keys) - 1
		return fmt.Errorf("expected %s= or %s= with a value", strings.Join(keys[:last], "=, "), keys[last])
	}
	if err := checkValue(key, value); err != nil {
		return err
	}
	to[key] = append(to[key], value)
	return nil
}

// checkValue refuses a value that nothing can have.
func checkValue(key, value string) error {
	switch known := knownValues[key]; {
	case known != nil && !slices.Contains(known, value):
		return fmt.Errorf("there is no %s %q; expected one of %s", key, value, strings.Join(known, ", "))
	case key == "platform" && strings.Count(value, "/") != 1:
		return fmt.Errorf("platform %q: expected OS/ARCHITECTURE, such as freebsd/amd64", value)
	}
	return nil
}

// knownValues are all that there are, by the key of a filter.
var knownValues = map[string][]string{"used": {"true", "false"}, "kind": client.EventKinds,
	"mode": {string(network.Host), string(network.None), string(network.Alias), string(network.NAT),
		string(network.Bridged)}}

// holds tells whether of each key one of the values is met, and all of a label.
func (c conditions[T]) holds(v T, f filters) bool {
	for key, values := range f {
		met := 0
		for _, value := range values {
			if c[key](v, value) {
				met++
			}
		}
		if met == 0 || key == "label" && met < len(values) {
			return false
		}
	}
	return true
}

// of are those of a list for which the filters hold; never nil.
func (c conditions[T]) of(list []T, f filters) []T {
	out := []T{}
	for _, v := range list {
		if c.holds(v, f) {
			out = append(out, v)
		}
	}
	return out
}

// view is how a list is asked for: by --filter and --format.
type view[T any] struct {
	by      conditions[T]
	filters filters
	format  string
}

// newView adds the flags of a view, with what a filter is in words. The letter for --filter may be empty.
func newView[T any](fl *pflag.FlagSet, by conditions[T], letter, words string) *view[T] {
	v := &view[T]{by: by, filters: filters{}}
	fl.FuncP("filter", letter, words, func(text string) error { return by.parse(text, v.filters) })
	fl.StringVar(&v.format, "format", "", formatUsage)
	return v
}

// print prints what is asked for of a list, for people by f.
func (v *view[T]) print(a *commands, list []T, f func(io.Writer, []T)) error {
	list = v.by.of(list, v.filters)
	if v.format != "" {
		return printEach(a, v.format, list)
	}
	return a.Print(list, func(w io.Writer) { f(w, list) })
}

// beginsDigest tells whether a digest begins with digits, given with or without sha256:.
func beginsDigest(digest, digits string) bool {
	return strings.HasPrefix(strings.TrimPrefix(digest, "sha256:"), strings.TrimPrefix(digits, "sha256:"))
}

// label is the condition of NAME or NAME=VALUE.
func label(labels map[string]string, value string) bool {
	name, want, valued := strings.Cut(value, "=")
	has, is := labels[name]
	return is && (!valued || has == want)
}

// taskConditions are those of tasks.
var taskConditions = conditions[client.Task]{
	"name":    func(t client.Task, value string) bool { return strings.Contains(rowID(t), value) },
	"status":  func(t client.Task, value string) bool { return string(t.State) == value },
	"network": func(t client.Task, value string) bool { return networkOf(t) == value },
	"image": func(t client.Task, value string) bool {
		return t.Spec.Image == value || beginsDigest(t.Digest, value)
	},
	"label": func(t client.Task, value string) bool { return label(t.Spec.Labels, value) },
}

// networkOf is the name of a task's network.
func networkOf(t client.Task) string {
	if t.Network == nil {
		return "host"
	}
	return t.Network.Name
}

// states are those of filters.
var states = []client.State{client.Starting, client.Running, client.Stopping, client.Exited, client.Left}

const taskFilter = "tasks alone for which `KEY=VALUE` holds: name (a part of it), status, network, image, or label " +
	"(NAME or NAME=VALUE, of a job); repeatable"

// checkFilters refuses filters of tasks by what there is not: a status, or a network that neither the host
// nor one of its tasks has.
func checkFilters(ctx context.Context, c *client.Client, tasks []client.Task, f filters) error {
	for _, status := range f["status"] {
		if !slices.Contains(states, client.State(status)) {
			return app.Usagef("--filter: there is no status %q; expected starting, running, stopping, exited or left",
				status)
		}
	}
	if len(f["network"]) == 0 {
		return nil
	}
	list, err := c.Networks(ctx)
	if err != nil {
		return err
	}
	names := []string{"host", "none"}
	for _, n := range list {
		names = append(names, n.Name)
	}
	for _, t := range tasks {
		names = append(names, networkOf(t))
	}
	return unknownNetwork(f, names)
}

func unknownNetwork(f filters, names []string) error {
	for _, name := range f["network"] {
		if !slices.Contains(names, name) {
			return fmt.Errorf("--filter network=%s: neither this host nor one of its tasks has this network; "+
				"`freejail networks` lists them", name)
		}
	}
	return nil
}

// filtered are the tasks for which the filters hold. Ended ones are among them if all are wanted, or a
// filter asks for a status.
func filtered(tasks []client.Task, f filters, all bool) []client.Task {
	all = all || f["status"] != nil
	return slices.DeleteFunc(taskConditions.of(tasks, f), func(t client.Task) bool { return !all && ended(t) })
}

func ended(t client.Task) bool { return t.State == client.Exited || t.State == client.Left }
