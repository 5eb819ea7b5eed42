// Command web is a small web server, as an example of a program for a jail: it
// takes its settings from the environment, writes its log to standard output,
// and ends when it is asked to.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		return serve()
	case len(args) == 2 && args[0] == "get":
		return get(args[1])
	}
	return errors.New("usage: web, or web get PATH")
}

// address is where freejail wants the manifest's port "http" to be: the port
// that Nomad chose, or the image's own. Where the task has addresses of its own, and not the
// host's, it is all of them: of IPv4, IPv6, and loopback.
func address() string {
	port := os.Getenv("FREEJAIL_PORT_http")
	if port == "" {
		port = "8080"
	}
	addr := os.Getenv("FREEJAIL_ADDR_http")
	if addr != os.Getenv("FREEJAIL_HOST_ADDR_http") {
		addr = ""
	}
	return net.JoinHostPort(addr, port)
}

func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	l, err := net.Listen("tcp", address())
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	srv := &http.Server{Handler: logged(routes()), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// Requests under way are answered; no new ones are taken.
	sctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = srv.Shutdown(sctx)
	fmt.Println("bye")
	return err
}

func routes() http.Handler {
	host, err := os.Hostname()
	if err != nil {
		host = "a jail"
	}
	m := http.NewServeMux()
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s, from %s\n", os.Getenv("GREETING"), host)
	})
	m.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "healthy") })
	return m
}

// logged prints a line for each request, except for Consul's checks that succeed.
func logged(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &status{w, http.StatusOK}
		start := time.Now()
		h.ServeHTTP(s, r)
		if r.URL.Path != "/health" || s.code != http.StatusOK {
			fmt.Printf("%s %s %d %s\n", r.Method, r.URL.Path, s.code, time.Since(start).Round(time.Microsecond))
		}
	})
}

type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// get asks the server of this jail: an image from scratch has no curl.
func get(path string) error {
	host, port, err := net.SplitHostPort(address())
	if err != nil {
		return err
	}
	if host == "" {
		host = "127.0.0.1"
	}
	resp, err := http.Get("http://" + net.JoinHostPort(host, port) + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
