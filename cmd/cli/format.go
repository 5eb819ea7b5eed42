package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"text/template"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// formatUsage is the help of a flag for printAs.
const formatUsage = "print by this `TEMPLATE` of Go, with the keys of the JSON and the function json, such as " +
	"'{{.state}} {{json .network}}'; or json"

// printAs prints a value by a template of the keys of its JSON.
func printAs[T any](a *commands, format string, v T) error { return printEach(a, format, []T{v}) }

// printEach prints each of a list in a line, or as JSON.
func printEach[T any](a *commands, format string, list []T) error {
	if format == "json" {
		format = "{{json .}}"
	}
	if strings.HasPrefix(format, "table ") {
		return app.Usagef("--format: %q: a table is printed without --format alone", format)
	}
	t, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{"json": asJSON}).Parse(format)
	if err != nil {
		return app.Usagef("--format: %w; the functions are json and those of Go's text/template", err)
	}
	for _, v := range list {
		if err := a.printBy(t, v); err != nil {
			return fmt.Errorf("--format: %w; the keys are those of the JSON (--format json)", err)
		}
	}
	return nil
}

func (a *commands) printBy(t *template.Template, v any) error {
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

// filter is a condition of a list of tasks.
type filter struct{ key, value string }

// filterKeys are the conditions that there are.
var filterKeys = map[string]func(t client.Task, value string) bool{
	"name":    func(t client.Task, value string) bool { return strings.Contains(rowID(t), value) },
	"status":  func(t client.Task, value string) bool { return string(t.State) == value },
	"network": func(t client.Task, value string) bool { return networkOf(t) == value },
	"image": func(t client.Task, value string) bool {
		return t.Spec.Image == value || strings.HasPrefix(strings.TrimPrefix(t.Digest, "sha256:"), value)
	},
	"label": func(t client.Task, value string) bool {
		name, want, valued := strings.Cut(value, "=")
		has, is := t.Spec.Labels[name]
		return is && (!valued || has == want)
	},
}

// networkOf is the name of a task's network.
func networkOf(t client.Task) string {
	if t.Network == nil {
		return "host"
	}
	return t.Network.Name
}

var errFilter = errors.New("expected name=, status=, network=, image= or label= with a value")

// states are those of filters.
var states = []client.State{client.Starting, client.Running, client.Stopping, client.Exited, client.Left}

func parseFilter(text string) (f filter, err error) {
	key, value, _ := strings.Cut(text, "=")
	switch {
	case filterKeys[key] == nil || value == "":
		err = errFilter
	case key == "status" && !slices.Contains(states, client.State(value)):
		err = fmt.Errorf("there is no status %q; expected starting, running, stopping, exited or left", value)
	}
	return filter{key, value}, err
}

// checkNetworks refuses filters by a network that neither the host nor one of its tasks has.
func checkNetworks(ctx context.Context, c *client.Client, tasks []client.Task, filters []filter) error {
	if !slices.ContainsFunc(filters, func(f filter) bool { return f.key == "network" }) {
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
	return unknownNetwork(filters, names)
}

func unknownNetwork(filters []filter, names []string) error {
	for _, f := range filters {
		if f.key == "network" && !slices.Contains(names, f.value) {
			return fmt.Errorf("--filter network=%s: neither this host nor one of its tasks has this network; "+
				"`freejail networks` lists them", f.value)
		}
	}
	return nil
}

// filtered are the tasks for which of each key one of the filters holds, and all labels. Ended ones are
// shown if all are, or a filter asks for a status.
func filtered(tasks []client.Task, filters []filter, all bool) (out []client.Task) {
	keys := map[string][]string{}
	for _, f := range filters {
		keys[f.key] = append(keys[f.key], f.value)
	}
	all = all || keys["status"] != nil
	for _, t := range tasks {
		ended := t.State == client.Exited || t.State == client.Left
		if (all || !ended) && holds(t, keys) {
			out = append(out, t)
		}
	}
	return out
}

func holds(t client.Task, keys map[string][]string) bool {
	for key, values := range keys {
		met := 0
		for _, value := range values {
			if filterKeys[key](t, value) {
				met++
			}
		}
		if met == 0 || key == "label" && met < len(values) {
			return false
		}
	}
	return true
}
