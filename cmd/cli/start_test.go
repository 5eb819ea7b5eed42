package cli

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// A start that takes long shows what it waits for: what is its own, and new.
func TestSlowStart(t *testing.T) {
	h := away(t)
	m := http.NewServeMux()
	wait := 2 * time.Second
	m.HandleFunc("POST /v1/tasks", func(w http.ResponseWriter, r *http.Request) {
		var spec client.TaskSpec
		check(t, json.NewDecoder(r.Body).Decode(&spec))
		time.Sleep(wait)
		check(t, json.NewEncoder(w).Encode(client.Task{Spec: spec}))
	})
	m.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		enc := json.NewEncoder(w)
		for _, e := range []client.Event{{Task: "x", Kind: "pulling", Message: "an old one"},
			{Task: "other", Kind: "pulling", At: time.Now(), Message: "another's"},
			{Task: "x", Kind: "unpacking", At: time.Now(), Message: "unpacking web: 1 of 4 layers"},
			{Task: "x", Kind: "refused", At: time.Now(), Message: "something else"}} {
			check(t, enc.Encode(e))
		}
		check(t, http.NewResponseController(w).Flush())
		<-r.Context().Done()
	})
	l, err := net.Listen("unix", h.socket)
	check(t, err)
	srv := &http.Server{Handler: m}
	go srv.Serve(l)
	t.Cleanup(func() { check(t, srv.Close()) })
	r := h.freejail("run", "-d", "--name", "x", "web")
	if r.code != 0 || strings.TrimSpace(r.out) != "x" || r.errout != "unpacking web: 1 of 4 layers\n" {
		t.Errorf("%d %q %q", r.code, r.out, r.errout)
	}
	wait = 0
	if r = h.freejail("run", "-d", "--name", "x", "web"); r.code != 0 || r.errout != "" {
		t.Errorf("a quick one: %d %q", r.code, r.errout)
	}
}
