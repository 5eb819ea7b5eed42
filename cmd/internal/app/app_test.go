package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

var errKnown = errors.New("known to the program")

// program has a command for each way to end.
func program(out, messages io.Writer) (*App, *cobra.Command) {
	a := New("prog", "1.2", out, messages)
	a.Instead = map[string]string{"restart": "use done"}
	a.CodeOf = func(err error) int {
		if errors.Is(err, errKnown) {
			return 77
		}
		return 0
	}
	ends := func(use string, err error) *cobra.Command {
		return Command(use, "end", cobra.NoArgs, func(context.Context, []string) error { return err })
	}
	group := &cobra.Command{Use: "group", Short: "a group"}
	group.AddCommand(ends("inner", nil))
	two := Command("two", "two", cobra.MinimumNArgs(2), func(context.Context, []string) error { return nil })
	return a, a.Root("for tests", group, two, ends("done", nil), ends("fail", errors.New("it failed")),
		ends("known", fmt.Errorf("wrapped: %w", errKnown)), ends("code", ExitCode(9)),
		ends("usage", Usagef("not valid")),
		ends("stopped", fmt.Errorf("call: %w", stopped{syscall.SIGTERM})),
		ends("each", Each([]error{errors.New("one"), nil, errors.New("two")})),
		ends("cancelled", fmt.Errorf("call: %w", context.Canceled)),
		ends("both", errors.Join(context.Canceled, errors.New("left behind"))))
}

func TestExitCodes(t *testing.T) {
	for line, want := range map[string]struct {
		code int
		text string
	}{
		"done":             {0, ""},
		"version":          {0, ""},
		"--version":        {0, ""},
		"-v":               {0, ""},
		"away -v":          {Usage, `unknown command "away"; see prog --help`},
		"fail":             {Failed, "prog: it failed\n"},
		"known":            {77, "prog: wrapped: known to the program\n"},
		"code":             {9, ""},
		"each":             {Failed, "prog: one\nprog: two\n"},
		"away -i x":        {Usage, `unknown command "away"; see prog --help`},
		"done --hlep":      {Usage, "unknown flag: --hlep (did you mean --help?); see prog done --help"},
		"usage":            {Usage, "prog: not valid\n"},
		"done extra":       {Usage, "usage: prog done [flags]\n"},
		"done --frob":      {Usage, "unknown flag: --frob; see prog done --help"},
		"doen":             {Usage, `unknown command "doen" (did you mean done?); see prog --help`},
		"group x":          {Usage, "see prog group --help"},
		"help":             {0, ""},
		"help done":        {0, ""},
		"help group inner": {0, ""},
		"help doen":        {Usage, `unknown command "doen" (did you mean done?)`},
		"help group x":     {Usage, `unknown command "x"; see prog group --help`},
		"two x":            {Usage, "requires at least 2 arguments, only received 1; usage: prog two"},
		"restart":          {Usage, `unknown command "restart": use done`},
		"completion":       {0, ""},
	} {
		var out, messages strings.Builder
		a, root := program(&out, &messages)
		if code := a.Run(t.Context(), root, strings.Fields(line)); code != want.code ||
			!strings.Contains(messages.String(), want.text) ||
			want.text == "" && messages.Len() > 0 {
			t.Errorf("prog %s: %d %q, want %d %q", line, code, messages.String(), want.code, want.text)
		}
	}
}

// A signal is told with what it broke off, but for the news that the context ended.
func TestSignal(t *testing.T) {
	for line, want := range map[string]string{
		"cancelled": "prog: interrupted by SIGTERM\n",
		"both":      "prog: interrupted by SIGTERM: context canceled\nleft behind\n",
		"fail":      "prog: interrupted by SIGTERM: it failed\n",
		"stopped":   "prog: interrupted by SIGTERM\n", // what ended the context is not told twice
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stopped{syscall.SIGTERM})
		var messages strings.Builder
		a, root := program(io.Discard, &messages)
		if code := a.Run(ctx, root, []string{line}); code != 128+15 || messages.String() != want {
			t.Errorf("prog %s: %d %q, want %q", line, code, messages.String(), want)
		}
	}
}

// What could not be printed is no success.
func TestOutputThatFails(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	var messages strings.Builder
	a, root := program(full, &messages)
	if code := a.Run(t.Context(), root, []string{"version"}); code != Failed || !strings.Contains(messages.String(),
		"write standard output: ") {
		t.Errorf("%d %s", code, messages.String())
	}
}
