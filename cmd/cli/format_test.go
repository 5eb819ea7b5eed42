package cli

import (
	"strings"
	"testing"

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
