package cli

import (
	"strings"
	"testing"

	"github.com/docker/go-units"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
)

// Values of one key are alternatives, but labels, of which all have to be there.
func TestFilters(t *testing.T) {
	tasks := []client.Task{{State: client.Running, Network: &client.NetworkInfo{Name: "lan"}}, {State: client.Exited}}
	tasks[0].Spec.ID, tasks[0].Spec.Labels = "web-1", map[string]string{"job": "web", "group": "g"}
	tasks[1].Spec.ID = "db-1"
	for _, c := range []struct {
		texts []string
		all   bool
		want  string
	}{
		{nil, false, "web-1"}, {nil, true, "web-1db-1"}, {[]string{"name=-1"}, true, "web-1db-1"},
		{[]string{"name=web", "name=db"}, true, "web-1db-1"}, {[]string{"name=web", "network=host"}, true, ""},
		{[]string{"network=host"}, true, "db-1"}, {[]string{"network=lan"}, false, "web-1"},
		{[]string{"status=exited"}, false, "db-1"}, {[]string{"label=job"}, true, "web-1"},
		{[]string{"label=job=web", "label=group=h"}, true, ""}, {[]string{"label=job=web", "label=group=g"}, true, "web-1"},
	} {
		f := filters{}
		for _, text := range c.texts {
			if err := taskConditions.parse(text, f); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		for _, task := range filtered(tasks, f, c.all) {
			got += task.Spec.ID
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.texts, got, c.want)
		}
	}
	for _, text := range []string{"", "name", "name=", "volume=x"} {
		if err := taskConditions.parse(text, filters{}); err == nil || strings.Contains(err.Error(), "[") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for name, known := range map[string]bool{"lan": true, "LAN": false} {
		if err := unknownNetwork(filters{"network": {name}}, []string{"host", "lan"}); (err == nil) != known {
			t.Errorf("network %s: %v", name, err)
		}
	}
}

// A tab and a line's end are written as shells pass them on; what an action says is Go's.
func TestEscapesOfFormats(t *testing.T) {
	for text, want := range map[string]string{`{{.a}}\t{{.b}}`: "{{.a}}\t{{.b}}", `\n{{"x\ty"}}\n`: "\n{{\"x\\ty\"}}\n",
		`{{.a`: "{{.a", `a\\b`: `a\\b`} {
		if got := unescaped(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Samples are filtered and printed as the list of tasks is.
func TestStatsOfSome(t *testing.T) {
	h := newHost(t, "")
	for _, name := range []string{"one", "two"} {
		h.gives(0, nil, "run", "-d", "--name", name, "prog", "wait")
	}
	for want, args := range map[string][]string{"one\t1\ntwo\t1\n": nil, "two\t1\n": {"-f", "name=tw"},
		"one\t1\n": {"one"}, "": {"-f", "image=other"}} {
		args = append([]string{"stats", "--no-stream", "--format", `{{.task}}\t{{len .procs}}`}, args...)
		if r := h.freejail(args...); r.code != 0 || r.out != want {
			t.Errorf("%q: %+v", args, r)
		}
	}
	h.gives(app.Usage, []string{"there is no status"}, "stats", "--no-stream", "--filter", "status=zz")
	h.gives(app.Usage, []string{"--format"}, "stats", "--no-stream", "--format", "{{")
}

// The list of images ends with what all of them take: a layer of several counts once.
func TestTotalsOfImages(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, nil, "tag", "prog", "prog:2")
	size := decoded[client.DiskUse](h, "df").Parts[0].Bytes
	h.gives(0, []string{"\n2 names of 1 image: " + units.BytesSize(float64(size)) +
		" as stored (compressed, each layer once, not unpacked), of which 0B are of several images"}, "images")
	h.gives(0, nil, "images", "rm", "--all")
	h.gives(0, []string{"0 names of 0 images: " + units.BytesSize(float64(size)), "and " +
		units.BytesSize(float64(size)) + " of none; freejail df"}, "images")
	for _, args := range [][]string{{"images", "-q"}, {"images", "-f", "used=true"}, {"images", "--format", "json"}} {
		if r := h.freejail(args...); strings.Contains(r.out, "names") {
			t.Errorf("%q: %s", args, r.out)
		}
	}
}
