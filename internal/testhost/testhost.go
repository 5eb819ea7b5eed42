// Package testhost tells tests what a host has of the networks of tasks, and gives them a host of their own where
// the system can.
package testhost

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Answer answers what would go to the network by http.DefaultTransport, until the test's end.
func Answer(t testing.TB, f func(*http.Request) (*http.Response, error)) {
	before := http.DefaultTransport
	http.DefaultTransport = roundTripper(f)
	t.Cleanup(func() { http.DefaultTransport = before })
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// call runs a program of the system and returns its lines, sorted.
func call(command string) ([]string, error) {
	args := strings.Fields(command)
	out, err := exec.Command(args[0], args[1:]...).Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%s: %w: %s", command, err, exit.Stderr)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	return lines, nil
}
