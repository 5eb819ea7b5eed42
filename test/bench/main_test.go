package main

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/testprog"
)

func TestMain(m *testing.M) { testprog.Main(m, testprog.Programs{"program": program}) }

// printed is what a function writes to the standard output, and its error.
func printed(t *testing.T, f func() error) (string, error) {
	t.Helper()
	stdout := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = w
	failed := f()
	os.Stdout = stdout
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), failed
}

// A contestant that fails at last has no table.
func TestContestOfAFailure(t *testing.T) {
	n := 0
	text, err := printed(t, func() error {
		return contest(3, "Starts", contestant{name: "one", run: func() (time.Duration, error) {
			if n++; n == 3 {
				return 0, errors.New("exit status 1")
			}
			return time.Second, nil
		}})
	})
	if err == nil || text != "" {
		t.Errorf("printed %q: %v", text, err)
	}
}

// Of a task that runs by its answer and fails then no start is measured.
func TestStartsOfAFailure(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv("FREEJAIL_BIN") == "" {
		t.Skip("needs root and FREEJAIL_BIN; `make test` sets it")
	}
	exit, sleep := exitArgs, sleepArgs
	t.Cleanup(func() { exitArgs, sleepArgs = exit, sleep })
	for _, missing := range []*[]string{&exitArgs, &sleepArgs} {
		exitArgs, sleepArgs = exit, sleep
		*missing = []string{"/bin/nothere"}
		text, err := printed(t, func() error { return run(t.Context(), []string{"starts"}) })
		if err == nil || len(text) > len("freebsd/amd64, 1000 CPUs\n") {
			t.Errorf("%v: printed %q: %v", *missing, text, err)
		}
	}
}
