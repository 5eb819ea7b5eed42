package daemon

import (
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// Nothing ends a match that has begun: a job's value that takes too long is refused.
func TestAParametersValueIsBounded(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "")
	image := archive(t, `{"schemaVersion":1,"parameters":[{"name":"P","pattern":"^(x{0,900})y?$"}]}`)
	for value, want := range map[string]string{strings.Repeat("x", 30_000): "too long for its pattern",
		strings.Repeat("x", 300): ""} {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "bounded", Owner: "nomad", Image: image,
			Parameters: map[string]string{"P": value}})
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) || want == "" && err != nil {
			t.Errorf("%d bytes: %v", len(value), err)
		}
		if err == nil {
			err = c.Destroy(t.Context(), "bounded", true)
		}
		if err != nil && want == "" {
			t.Error(err)
		}
	}
}
