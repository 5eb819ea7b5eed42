package client

import (
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A daemon that ends in its upgrade is told, not waited for without end.
func TestUpgradeOfADaemonThatEnds(t *testing.T) {
	was := goneTime
	goneTime = 100 * time.Millisecond
	t.Cleanup(func() { goneTime = was })
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/info", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"generation":"one"}`)) // the call fails without it
	})
	mux.HandleFunc("POST /v1/upgrade", func(w http.ResponseWriter, _ *http.Request) {
		l.Close()
		w.WriteHeader(http.StatusNoContent)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }() // ends as the listener is closed
	_, err = New(socket).Upgrade(t.Context(), UpgradeRequest{})
	if !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), "ended in the upgrade") {
		t.Errorf("the daemon is gone: %v", err)
	}
}
