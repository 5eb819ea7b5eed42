package cli

import (
	"cmp"

	"github.com/freejail/freejail/daemon/client"
)

// severity is of what the checks of a service say.
var severity = map[string]int{"healthy": 1, "starting": 2, "unknown": 3, "warning": 4, "unhealthy": 5}

// health is the worst that the checks of a task's services say.
func health(t client.Task) string {
	worst := ""
	for _, s := range t.Services {
		if severity[s.Health] > severity[worst] {
			worst = s.Health
		}
	}
	return cmp.Or(worst, "-")
}
