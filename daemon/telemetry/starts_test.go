package telemetry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
)

func nomadTask(job, alloc string) client.TaskSpec {
	return client.TaskSpec{Owner: "nomad", Labels: map[string]string{"namespace": "default", "job": job, "group": "g",
		"task": "t", "alloc_id": alloc}}
}

// counted are the values of what Nomad's tasks are counted by.
func counted(r *Recorder) (lines []string) {
	w := httptest.NewRecorder()
	r.Handler(hclog.NewNullLogger(), 1).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "freejail_task_starts") || strings.HasPrefix(line, "freejail_task_restarts") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// A restart is another start in the same allocation; what nobody has seen for an hour is told no more.
func TestRestarts(t *testing.T) {
	r := New("test")
	now := time.Now()
	r.starts.now = func() time.Time { return now }
	r.Started(nomadTask("web", "a1"))
	r.Started(nomadTask("web", "a1"))
	r.Started(nomadTask("web", "a2"))
	r.Runs(nomadTask("db", "a3")) // of the daemon before
	r.Started(nomadTask("db", "a3"))
	r.Started(client.TaskSpec{Owner: "cli", Labels: map[string]string{"job": "forged"}})
	const web, db = `{group="g",job="web",name="t",namespace="default"}`, `{group="g",job="db",name="t",namespace="default"}`
	want := []string{"freejail_task_restarts_total" + db + " 1", "freejail_task_restarts_total" + web + " 1",
		"freejail_task_starts_total" + db + " 1", "freejail_task_starts_total" + web + " 3"}
	if got := counted(r); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	now = now.Add(50 * time.Minute)
	r.Runs(nomadTask("db", "a3"))
	now = now.Add(50 * time.Minute)
	if got := counted(r); len(got) != 2 || !strings.Contains(got[0], `"db"`) {
		t.Errorf("later %q", got)
	}
	for i := range 2 * startsMost {
		r.Started(nomadTask(fmt.Sprint("batch-", i), fmt.Sprint(i)))
	}
	if got := counted(r); len(got) != 2*startsMost || len(r.starts.seen) != startsMost {
		t.Errorf("%d lines of many jobs", len(got))
	}
}

// Nothing counts where nobody asked for it.
func TestNoRecorder(t *testing.T) {
	var r *Recorder
	_, took := r.Begin(t.Context(), Start)
	took(nil)
	r.Told("x")
	r.Started(nomadTask("web", "a"))
	r.Runs(nomadTask("web", "a"))
	r.Ended(client.Exit{})
	r.Swept("", nil)
	r.Replayed("read")
}

// One text that is not UTF-8 does not spoil the rest.
func TestLabelsAreText(t *testing.T) {
	r := New("v\xff")
	r.Started(nomadTask("web\xff", "a"))
	if _, err := r.Gather(); err != nil {
		t.Error(err)
	}
}
