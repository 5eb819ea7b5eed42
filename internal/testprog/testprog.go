// Package testprog lets a test binary be programs too: those of the images that its
// tests run, and those that a test runs on the host.
package testprog

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// variable names the program where the arguments do not.
const variable = "FREEJAIL_TEST_PROGRAM"

// Programs by their names. Each gets the arguments and returns its exit code.
type Programs map[string]func(args []string) int

// Main runs the program that the first argument names, with those after it, or the
// one of Command; else the tests. What follows the tests' end returns an error.
func Main(m *testing.M, programs Programs, after ...func() error) {
	if run, is := programs[os.Getenv(variable)]; is {
		os.Exit(run(os.Args[1:]))
	}
	if len(os.Args) > 1 {
		if run, is := programs[os.Args[1]]; is {
			os.Exit(run(os.Args[2:]))
		}
	}
	code := m.Run()
	var errs []error
	for _, f := range after {
		errs = append(errs, f())
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// Env has the test binary be a program, whatever its arguments.
func Env(name string) string { return variable + "=" + name }

// Command is the test binary as a program.
func Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), Env(name))
	return cmd
}
