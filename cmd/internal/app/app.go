// Package app is the frame of a command line, which freejail and freejail-build
// share: how a program is told what to do, prints, is interrupted, and ends.
package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/freejail/freejail/internal/near"
	"github.com/freejail/freejail/internal/printable"
)

// Exit codes of every program.
const (
	Failed = 1
	Usage  = 2
)

// ExitCode is an error that ends the program with a code and no further words.
type ExitCode int

func (e ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// UsageError is a command line that is not valid: it ends with the code Usage.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }

func (e UsageError) Unwrap() error { return e.Err }

// Usagef formats a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// App is a program: where it writes, and what its commands share.
type App struct {
	Name, Version string
	JSON          bool                // print JSON for programs
	Out           *Output             // what was asked for
	Messages      io.Writer           // for people: errors and how it goes on
	Terminal      io.Writer           // messages as they are, for a Bar
	CodeOf        func(err error) int // the exit code of an error that this program alone knows, or 0; may be nil
	Instead       map[string]string   // what to use for commands of other programs that this one has not
	FlagInstead   map[string]string   // likewise for flags, by "COMMAND FLAG"; a command of a group is "GROUP COMMAND"
}

// New returns a program that writes to out and messages. Nothing that steers a
// terminal gets through Out and Messages.
func New(name, version string, out, messages io.Writer) *App {
	return &App{Name: name, Version: version, Out: &Output{w: printable.NewWriter(out)},
		Messages: printable.NewWriter(messages), Terminal: messages}
}

// Output remembers the first error of writing, with which the program ends.
type Output struct {
	w   io.Writer
	err error
}

func (o *Output) Write(p []byte) (int, error) {
	if o.err == nil {
		_, o.err = o.w.Write(p)
	}
	return len(p), o.err
}

// Print writes a value as JSON, or as f does for people.
func (a *App) Print(v any, f func(io.Writer)) error {
	if a.JSON {
		enc := a.encoder()
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	f(a.Out)
	return nil
}

// encoder writes JSON that no browser reads: <, > and & stay as they are.
func (a *App) encoder() *json.Encoder {
	enc := json.NewEncoder(a.Out)
	enc.SetEscapeHTML(false)
	return enc
}

// PrintLine is Print for one of a stream of values: JSON in a line each.
func (a *App) PrintLine(v any, f func(io.Writer)) error {
	if a.JSON {
		return errors.Join(a.encoder().Encode(v), a.Out.err)
	}
	f(a.Out)
	return a.Out.err
}

// JSONFlag adds the flag --json, which Print obeys.
func (a *App) JSONFlag(flags *pflag.FlagSet) {
	flags.BoolVar(&a.JSON, "json", false, "print JSON for programs")
}

// Root returns the command that has all others.
func (a *App) Root(short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: a.Name, Short: short, SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true}}
	version := &cobra.Command{Use: "version", Short: "print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.Print(map[string]string{"version": a.Version}, func(w io.Writer) {
				printable.Fprintln(w, a.Name, a.Version)
			})
		}}
	c.AddCommand(append(subs, version)...)
	asked := c.Flags().BoolP("version", "v", false, "print the version")
	c.Args, c.RunE = cobra.ArbitraryArgs, func(c *cobra.Command, args []string) error {
		if *asked && len(args) == 0 {
			return version.RunE(version, nil)
		}
		return a.group(c, args)
	}
	c.SetOut(a.Out)
	c.SetErr(a.Messages)
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return a.flagError(c, err)
	})
	return c
}

// notNumber is how Go says what a text is not.
var notNumber = regexp.MustCompile(
	`strconv\.Parse(Int|Uint|Float|Bool): parsing ".*": (invalid syntax|value out of range)`)

var plainly = map[string]string{"invalid syntax": "not a number", "value out of range": "the number is out of range"}

// flagError is the error of a flag, with what to do instead.
func (a *App) flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		text := notNumber.ReplaceAllStringFunc(err.Error(), func(text string) string {
			m := notNumber.FindStringSubmatch(text)
			if m[1] == "Bool" {
				return "expected true or false"
			}
			return plainly[m[2]]
		})
		return Usagef("%s; see %s --help", text, c.CommandPath())
	}
	if !c.HasParent() && c.Flags().NArg() > 0 { // the flag is of a command that is not there
		return a.unknown(c, c.Flags().Arg(0))
	}
	name := unknown.GetSpecifiedName()
	words := strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
	if instead := a.FlagInstead[words+" "+name]; instead != "" {
		return Usagef("%w: %s", err, instead)
	}
	var known []string
	c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, "--"+f.Name) })
	return Usagef("%w%s; see %s --help", err, near.Hint("--"+name, known), c.CommandPath())
}

// Run executes a command line and returns the exit code.
func (a *App) Run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetHelpCommand(a.helpCmd(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	a.typed(root)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil && a.Out.err != nil {
		err = fmt.Errorf("write standard output: %w", a.Out.err)
	}
	var code ExitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	if why, ok := stopOf(ctx); ok {
		if cancelled(err) {
			err = why
		} else {
			err = fmt.Errorf("%w: %w", why, err)
		}
	}
	for _, one := range apart(err) {
		printable.Fprintf(a.Messages, "%s: %v\n", a.Name, one)
	}
	return a.code(err)
}

// each are the errors of several things, one after the other.
type each struct{ error }

func (e each) Unwrap() error { return e.error }

// Each joins the errors of several things, such as tasks; each is told in its own line.
func Each(errs []error) error {
	if err := errors.Join(errs...); err != nil {
		return each{err}
	}
	return nil
}

func apart(err error) []error {
	if e, ok := err.(each); ok {
		return e.error.(interface{ Unwrap() []error }).Unwrap() // it is of errors.Join
	}
	return []error{err}
}

func (a *App) code(err error) int {
	var usage UsageError
	var signal stopped
	switch {
	case errors.As(err, &usage):
		return Usage
	case a.CodeOf != nil && a.CodeOf(err) != 0:
		return a.CodeOf(err)
	case errors.As(err, &signal):
		return signal.code()
	}
	return Failed
}

// typed has whatever is wrong with a command line be a UsageError, and makes groups
// of the commands that do nothing themselves.
func (a *App) typed(c *cobra.Command) {
	if !c.Runnable() {
		c.Args, c.RunE = cobra.ArbitraryArgs, a.group
	}
	if accept := c.Args; accept != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := accept(c, args); err != nil {
				return Usagef("%s; usage: %s", argsInWords(err), c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		a.typed(sub)
	}
}

var numberOfArgs = regexp.MustCompile(`(\d+) arg\(s\)`)

// argsInWords is what cobra says of a number of arguments.
func argsInWords(err error) string {
	return numberOfArgs.ReplaceAllStringFunc(err.Error(), func(text string) string {
		number, _, _ := strings.Cut(text, " ")
		n, _ := strconv.Atoi(number) // it is digits
		return printable.Count(n, "argument")
	})
}

func (a *App) group(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	return a.unknown(c, args[0])
}

// unknown is the error of a command that is not there.
func (a *App) unknown(c *cobra.Command, name string) error {
	c.SuggestionsMinimumDistance = 2
	if len(name) < 4 { // two letters more or less are another word
		c.SuggestionsMinimumDistance = 1
	}
	text := fmt.Sprintf("unknown command %q", name)
	if instead := a.Instead[name]; instead != "" && !c.HasParent() {
		return Usagef("%s: %s", text, instead)
	}
	if near := c.SuggestionsFor(name); len(near) > 0 {
		text += " (did you mean " + strings.Join(near, " or ") + "?)"
	}
	return Usagef("%s; see %s --help", text, c.CommandPath())
}

func (a *App) helpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "help [COMMAND]", Short: "show the help of a command", Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			c := root
			for _, name := range args {
				i := slices.IndexFunc(c.Commands(), func(sub *cobra.Command) bool {
					return sub.Name() == name || sub.HasAlias(name)
				})
				if i < 0 {
					return a.unknown(c, name)
				}
				c = c.Commands()[i]
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		}}
}

// Command returns a command, whose use line names its arguments.
func Command(use, short string, args cobra.PositionalArgs, run func(context.Context, []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args,
		RunE: func(c *cobra.Command, args []string) error { return run(c.Context(), args) }}
}
