package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/internal/testtext"
)

const hostile, harmless = testtext.Hostile, testtext.Harmless

// answers are what the daemon gives for each route.
var answers = map[string]any{
	"GET /v1/info": client.Info{}, "POST /v1/tasks": client.Task{}, "GET /v1/tasks": []client.Task{},
	"GET /v1/tasks/{id}":      client.Task{},
	"GET /v1/tasks/{id}/wait": client.Exit{}, "POST /v1/tasks/{id}/stop": client.Exit{}, "DELETE /v1/tasks/{id}": nil,
	"GET /v1/stats": map[string]client.Usage{}, "GET /v1/events": client.Event{},
	"GET /v1/images":  []client.ImageInfo{},
	"POST /v1/images": client.ImageProgress{}, "POST /v1/images/pull": client.ImageProgress{},
	"POST /v1/images/load": client.ImageProgress{},
	"GET /v1/image":        client.ImageInfo{},
	"DELETE /v1/image":     client.Untagged{}, "POST /v1/images/tag": client.ImageInfo{}, "GET /v1/exports": []client.Export{}, "POST /v1/exports": client.Export{},
	"DELETE /v1/exports": nil,
	"POST /v1/gc":        client.GCResult{}, "POST /v1/policy/check": client.Decision{},
	"POST /v1/policy/approvals": client.Approval{},
	"GET /v1/policy/approvals":  []client.Approval{}, "GET /v1/policy/log": []client.ApprovalRecord{},
	"DELETE /v1/policy/approvals": nil, "POST /v1/shutdown": client.ShutdownResult{},
	"GET /v1/devfs": []client.Ruleset{}, "GET /v1/devfs/explain": client.DevfsView{},
	"GET /v1/networks": []client.NetworkStatus{},
	"GET /v1/df":       client.DiskUse{}, "POST /v1/tasks/{id}/trace": client.TraceEvent{},
	"GET /v1/doctor": []client.Check{}, "POST /v1/reload": nil,
}

// lines are fields whose lines are the daemon's own, or an image's that are shown
// with a mark before each.
var linesKept = []string{"Permit", "Approve", "Sign", "Usage"}

// filled is a value of a type with a text in every string of it.
func filled(t reflect.Type, name, text string, flag bool) reflect.Value {
	v := reflect.New(t).Elem()
	switch {
	case t == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(1e9, 0)))
		return v
	case t == reflect.TypeFor[netip.Addr](): // with a zone, which can be anything
		v.Set(reflect.ValueOf(netip.MustParseAddr("fe80::1%" + text)))
		return v
	case t == reflect.TypeFor[*client.Error]():
		return v
	}
	switch t.Kind() {
	case reflect.String:
		if slices.Contains(linesKept, name) {
			text = strings.ReplaceAll(text, "\n", " ")
		}
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(flag)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		v.Elem().Set(filled(t.Elem(), name, text, flag))
	case reflect.Slice:
		v.Set(reflect.Append(v, filled(t.Elem(), name, text, flag), filled(t.Elem(), name, text, flag)))
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		v.SetMapIndex(filled(t.Key(), name, text, flag), filled(t.Elem(), name, text, flag))
	case reflect.Struct:
		for i := range t.NumField() {
			v.Field(i).Set(filled(t.Field(i).Type, t.Field(i).Name, text, flag))
		}
	}
	return v
}

// pretender answers on a socket as a daemon would that knows only what others
// wrote: the command line has no other way to learn it.
func pretender(t *testing.T, text string, flag bool, fail func(http.ResponseWriter)) *testHost {
	t.Helper()
	h := away(t)
	m := http.NewServeMux()
	for route, answer := range answers {
		m.HandleFunc(route, func(w http.ResponseWriter, _ *http.Request) {
			switch {
			case fail != nil:
				fail(w)
			case answer == nil:
				w.WriteHeader(http.StatusNoContent)
			default:
				check(t, json.NewEncoder(w).Encode(filled(reflect.TypeOf(answer), "", text, flag).Interface()))
			}
		})
	}
	for route, raw := range map[string]string{"GET /v1/metrics": strings.ReplaceAll(text, "\n", ""),
		"GET /v1/tasks/{id}/logs": text} {
		m.HandleFunc(route, func(w http.ResponseWriter, _ *http.Request) {
			if fail != nil {
				fail(w)
				return
			}
			check(t, writeAll(w, raw))
		})
	}
	l, err := net.Listen("unix", h.socket)
	check(t, err)
	srv := &http.Server{Handler: m}
	go srv.Serve(l)
	t.Cleanup(func() { check(t, srv.Close()) })
	return h
}

func writeAll(w http.ResponseWriter, text string) error {
	_, err := w.Write([]byte(text))
	return err
}

// outputs are, for each command, the arguments that make it print all it can. raw
// is one that copies what a task writes, as it is. A command that is not here is
// an error.
var outputs = map[string]struct {
	args [][]string
	raw  bool
}{
	"freejail":                {args: [][]string{{"--help"}, {hostile}, {"--" + hostile}}},
	"freejail attach":         {args: [][]string{{"--detach-keys", hostile, "x"}}}, // else it is as logs
	"freejail config":         {args: [][]string{{hostile}}},
	"freejail config init":    {args: [][]string{{"-o", "/none/" + hostile}}},
	"freejail cp":             {args: [][]string{{"x:" + hostile, "-"}, {hostile, "x:/y"}, {hostile, hostile}}},
	"freejail daemon":         {args: [][]string{{"--check", "--config", "CONFIG"}, {"--check", "--config", hostile}}},
	"freejail devfs":          {args: [][]string{{hostile}}},
	"freejail devfs explain":  {args: [][]string{{"x"}, {"--all", "x"}}},
	"freejail devfs list":     {args: [][]string{{}}},
	"freejail devfs show":     {args: [][]string{{"7"}, {"8" + hostile}}},
	"freejail df":             {args: [][]string{{}, {"--format", "{{.Kind}}"}}},
	"freejail doctor":         {args: [][]string{{}}},
	"freejail networks":       {args: [][]string{{}, {"x"}}},
	"freejail port":           {args: [][]string{{"x"}, {"x", "80"}}},
	"freejail events":         {args: [][]string{{}}},
	"freejail exec":           {args: [][]string{{"x", hostile}, {"--env", hostile, "x", "y"}}},
	"freejail export":         {args: [][]string{{"x"}, {"--list"}, {"--remove", "x"}}},
	"freejail gc":             {args: [][]string{{}, {"--max-size", hostile}}},
	"freejail images":         {args: [][]string{{}, {"x"}}},
	"freejail images import":  {args: [][]string{{"x"}, {hostile}}},
	"freejail images rm":      {args: [][]string{{hostile}, {"sha256:x"}, {"--all"}, {"--filter", "name=evil"}}},
	"freejail inspect":        {args: [][]string{{"x"}, {"-f", "{{.spec.image}}", "x"}}},
	"freejail load":           {args: [][]string{{"-i", "x"}, {"-i", hostile}, {hostile}}},
	"freejail logs":           {args: [][]string{{"x"}}, raw: true},
	"freejail metrics":        {args: [][]string{{}}},
	"freejail policy":         {args: [][]string{{hostile}}},
	"freejail policy approve": {args: [][]string{{"--reason", "y", "x"}, {"--expires", hostile, "x"}}},
	"freejail policy check": {args: [][]string{{"x"}, {"--policy", "CONFIG", "IMAGE"},
		{"--policy", "CONFIG", hostile}}},
	"freejail policy list":   {args: [][]string{{}}},
	"freejail policy log":    {args: [][]string{{}}},
	"freejail policy reload": {args: [][]string{{}}},
	"freejail policy revoke": {args: [][]string{{"x"}}},
	"freejail policy sets":   {args: [][]string{{}, {"development"}, {hostile}}},
	"freejail policy test":   {args: [][]string{{"CONFIG"}, {hostile}}},
	"freejail ps":            {args: [][]string{{}, {"--all"}}},
	"freejail restart":       {args: [][]string{{"x"}, {hostile}}},
	"freejail pull":          {args: [][]string{{"x"}}},
	"freejail rm":            {args: [][]string{{"x", hostile}, {"--all"}, {"--filter", hostile}}},
	"freejail save":          {args: [][]string{{"x", "-o", "/none/" + hostile}, {hostile}, {"./" + hostile}}},
	"freejail serve":         {args: [][]string{{"--mirror", "--config", hostile}, {"--mirror", hostile}}},
	"freejail shutdown":      {args: [][]string{{}, {"--timeout", hostile}}},
	"freejail run": {args: [][]string{{"--detach", "x"}, {"--name", hostile, "-d", hostile},
		{"--port", hostile, "x"}, {"--memory", hostile, "x"}}},
	"freejail tag":       {args: [][]string{{"x", hostile}, {hostile, "x"}}},
	"freejail wait":      {args: [][]string{{"x"}, {hostile}}},
	"freejail top":       {args: [][]string{{"x"}, {hostile}, {"-b", "-d", "1"}, {"--order", hostile}}},
	"freejail processes": {args: [][]string{{"x"}, {hostile}}},
	"freejail stats":     {args: [][]string{{"--no-stream"}, {"--no-stream", "no" + hostile}}},
	"freejail kill":      {args: [][]string{{"x", hostile}, {"--signal", hostile, "x"}}},
	"freejail stop":      {args: [][]string{{"x", hostile}, {"--signal", hostile, "x"}}},
	"freejail trace": {args: [][]string{{"x"}, {hostile}, {"--files", "--for", hostile, "x"},
		{"--dtrace", hostile, "x"}}},
	"freejail version": {args: [][]string{{}}},
}

// TestNoOutputLies runs every command of the command line against answers, errors
// and arguments with hostile text in every field: nothing that steers a terminal
// or hides comes out, and there are as many lines as for harmless text.
func TestNoOutputLies(t *testing.T) {
	kinds := map[string]func(text string) *testHost{
		"permitted": func(text string) *testHost { return pretender(t, text, true, nil) },
		"refused":   func(text string) *testHost { return pretender(t, text, false, nil) },
		"error": func(text string) *testHost {
			return pretender(t, text, false, func(w http.ResponseWriter) {
				w.WriteHeader(http.StatusForbidden)
				check(t, json.NewEncoder(w).Encode(client.Errorf(client.CodeRefused, "no: %s", text)))
			})
		},
		"no JSON": func(text string) *testHost {
			return pretender(t, text, false, func(w http.ResponseWriter) {
				w.WriteHeader(http.StatusBadGateway)
				check(t, writeAll(w, text))
			})
		},
	}
	files := map[string][2]string{}
	for i, text := range []string{hostile, harmless} {
		for name, path := range hostileFiles(t, text) {
			pair := files[name]
			pair[i] = path
			files[name] = pair
		}
	}
	root := newCommands("").root()
	for kind, serve := range kinds {
		bad, good := serve(hostile), serve(harmless)
		for name, o := range outputs {
			words := strings.Fields(name)[1:]
			if c, _, err := root.Find(words); err == nil && c.Flags().Lookup("progress") != nil {
				words = append(words, "--progress=none") // a slow host has lines of it
			}
			for _, args := range o.args {
				args = slices.Concat(words, args)
				for _, more := range [][]string{nil, {"--json"}} {
					was, want := bad.freejail(argsFor(append(more, args...), files, 0)...),
						good.freejail(argsFor(append(more, args...), files, 1)...)
					compare(t, kind+": "+strings.Join(append(more, args...), " "), was, want, o.raw &&
						(kind == "permitted" || kind == "refused"))
				}
			}
		}
	}
}

// argsFor are arguments with files, and for the harmless side harmless ones.
func argsFor(args []string, files map[string][2]string, side int) []string {
	args = slices.Clone(args)
	for i, a := range args {
		if f, is := files[a]; is {
			args[i] = f[side]
		} else if side == 1 {
			args[i] = strings.ReplaceAll(a, hostile, harmless)
		}
	}
	return args
}

// hostileFiles are a configuration with a policy, and an image.
func hostileFiles(t *testing.T, text string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	quoted := `"`
	for _, r := range text {
		quoted += fmt.Sprintf(`\U%08x`, r)
	}
	quoted += `"`
	conf := "permit {\n  users = [" + quoted + "]\n}\ntest " + quoted +
		" {\n  allowed {\n    ports = [\"80\"]\n  }\n}\n"
	check(t, os.WriteFile(dir+"/freejail.hcl", []byte(conf), 0o600))
	image, err := testimage.Write(t.Context(), dir, testimage.Spec{Name: "hostile", User: text,
		Labels: map[string]string{text: text},
		Manifest: `{"schemaVersion":1,"requires":{"devfs":["path 'x' unhide"],"mounts":[{"type":"tmpfs","target":"/x` +
			"\u202e\u200b" + `"}]}}`})
	check(t, err)
	return map[string]string{"CONFIG": dir + "/freejail.hcl", "IMAGE": image}
}

func compare(t *testing.T, what string, was, want result, raw bool) {
	t.Helper()
	if raw && was.out != hostile {
		t.Errorf("%q: what a task wrote came out as %q", what, was.out)
	}
	if was.code != want.code {
		t.Errorf("%q: exit code %d, and %d for harmless text\n%s%s", what, was.code, want.code, was.errout, want.errout)
	}
	texts := []string{was.errout}
	if !raw {
		texts = append(texts, was.out)
	}
	for _, text := range texts {
		if r, bad := testtext.Steers(text); bad || testtext.Forged(text) {
			t.Errorf("%q: %q or a forged line comes out: %q", what, r, text)
		}
	}
	if n, m := strings.Count(was.out+was.errout, "\n"), strings.Count(want.out+want.errout, "\n"); n != m && !raw {
		t.Errorf("%q: %d lines, and %d for harmless text:\n%s%s\n%s%s", what, n, m, was.out, was.errout, want.out,
			want.errout)
	}
}

// Each command has a row in the table of outputs.
func TestEveryOutputIsTried(t *testing.T) {
	var walk func(c *cobra.Command)
	seen := map[string]bool{}
	walk = func(c *cobra.Command) {
		seen[c.CommandPath()] = true
		if _, there := outputs[c.CommandPath()]; !there {
			t.Errorf("what %q prints is not tried with hostile text: give it a row in outputs", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newCommands("").root())
	for name := range outputs {
		if !seen[name] {
			t.Errorf("there is no command %q", name)
		}
	}
	if printable.Text(harmless) != harmless {
		t.Error("harmless is not")
	}
}

// An image and a job with hostile text go all the way: no output of any command, no
// event and no line of the daemon's log has it.
func TestHostileImageOnAHost(t *testing.T) {
	h := newHost(t, "permit {\n  users = [\"root\"]\n}\n")
	sly, err := json.Marshal(testtext.Sly)
	check(t, err)
	line, err := json.Marshal(strings.ReplaceAll(testtext.Sly, "\n", ""))
	check(t, err)
	dir := h.path(strings.ReplaceAll(hostile, "/", ""))
	check(t, os.Mkdir(dir, 0o700))
	manifest := fmt.Sprintf(`{"schemaVersion":1,"summary":%s,"usage":%s,"parameters":[{"name":"WORD","description":%s,"required":true}],
		"ports":[{"name":"http","port":80,"protocol":"tcp","description":%s}],"requires":{"jail":{"children.max":%s},
		"mounts":[{"type":"tmpfs","target":"/x\u202e\u200b"}]},"volumes":[{"name":"data","path":"/d\u202e","description":%s,"required":true}]}`, sly, sly, sly, sly, line, sly)
	_, err = testimage.Write(t.Context(), dir, testimage.Spec{Name: "hostile", User: hostile,
		Labels: map[string]string{hostile: hostile}, Cmd: []string{hostile}, Manifest: manifest})
	check(t, err)
	image := dir + "/hostile.tar"
	for _, args := range [][]string{{"images", "import", image + hostile}, {"images", "import", image}, {"images"},
		{"images", "hostile"}, {"images", image}, {"policy", "check", "hostile"},
		{"policy", "check", image}, {"run", "hostile"}, {"run", "--param", "WORD=" + hostile, "hostile"},
		{"run", "--param", "WORD=x", "--volume", hostile + ":/d\u202e", "hostile"},
		{"run", "--param", "WORD=x", "--volume", "/etc:/d\u202e", "--user", hostile, "hostile"}, {"run", image},
		{"run", "--devfs", hostile, "prog"}, {"run", "--user", hostile, "prog"},
		{"run", "--workdir", hostile, "prog"}, {"run", "--entrypoint", hostile, "prog"},
		{"run", "--hostname", hostile, "--rm", "prog", "say", "x"}, {"run", "--storage", hostile, "prog"},
		{"run", "--port", hostile + "=80", "prog"}, {"run", "--env", hostile + "=x", "prog", "exit", "3"},
		{"policy", "approve", "--reason", hostile, "hostile"}, {"policy", "list"},
		{"policy", "log"}, {"policy", "revoke", "--reason", hostile, "hostile"}, {"policy", "log"}, {"pull", hostile},
		{"ps", "-a"}, {"events"}, {"gc"}, {"doctor"}, {"metrics"}, {"devfs", "explain", "hostile"}} {
		for _, more := range [][]string{nil, {"--json"}} {
			r := h.freejail(append(more, args...)...)
			if c, steers := testtext.Steers(r.out + r.errout); steers || testtext.Forged(r.out) ||
				testtext.Forged(r.errout) {
				t.Errorf("%q: %q or a forged line comes out:\n%s%s", args, c, r.out, r.errout)
			}
		}
	}
	log := h.read("log")
	if c, steers := testtext.Steers(log); steers || testtext.Forged(log) || !strings.Contains(log, "FORGED") {
		t.Errorf("the log has %q or a forged line in it, or nothing of this:\n%s", c, log)
	}
}
