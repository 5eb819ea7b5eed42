// Package cli is freejail's command line: an operator's view of the daemon.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/daemon"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// Exit codes of the command line. run and exec give the program's own.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitNoDaemon    = 69 // EX_UNAVAILABLE of sysexits(3)
	exitRefused     = 77 // EX_NOPERM
	exitUnknown     = 125
	exitInterrupted = 128 + int(syscall.SIGINT)
)

// exitCode ends the program with a code and no further words.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// group makes a command of its subcommands alone.
func group(c *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("unknown command %q: see `%s --help`", args[0], c.CommandPath())}
		}
		return c.Help()
	}
	c.AddCommand(subs...)
	return c
}

// commands is what all commands share.
type commands struct {
	version string
	socket  string
	json    bool
	out     io.Writer // guarded: nothing that steers a terminal gets through
	stream  io.Writer // as it is, for what tasks write
}

// client says when it waits for a daemon that has just begun.
func (a *commands) client() *client.Client {
	c := client.New(a.socket)
	c.Waiting = func(why string) { printable.Fprintln(os.Stderr, "freejail: waiting for the daemon:", why) }
	return c
}

// Main runs the command line and returns the exit code.
func Main(version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	a := &commands{version: version, out: printable.NewWriter(os.Stdout), stream: os.Stdout}
	root := a.root()
	root.SetArgs(longFlags(os.Args[1:]))
	root.SetOut(a.out)
	root.SetErr(printable.NewWriter(os.Stderr))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		printable.Fprintln(os.Stderr, "freejail: interrupted")
		return exitInterrupted
	}
	printable.Fprintf(os.Stderr, "freejail: %v\n", err)
	var usage usageError
	switch {
	case errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") || strings.Contains(err.Error(), "arg(s)"):
		return exitUsage
	case errors.Is(err, client.ErrNoDaemon):
		return exitNoDaemon
	case client.IsRefused(err):
		return exitRefused
	}
	return exitFailed
}

// longFlags takes -policy for --policy, as others' tools write their flags.
func longFlags(args []string) []string {
	out := slices.Clone(args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		if arg == "-policy" || strings.HasPrefix(arg, "-policy=") {
			out[i] = "-" + arg
		}
	}
	return out
}

func (a *commands) root() *cobra.Command {
	socket := os.Getenv("FREEJAIL_SOCKET")
	if socket == "" {
		socket = client.DefaultSocket
	}
	c := &cobra.Command{Use: "freejail", Short: "production containers on FreeBSD", SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true}}
	c.PersistentFlags().StringVar(&a.socket, "socket", socket, "the daemon's socket ($FREEJAIL_SOCKET)")
	c.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON for programs")
	c.AddCommand(a.daemonCmd(), a.runCmd(), a.psCmd(), a.execCmd(), a.stopCmd(), a.rmCmd(), a.logsCmd(), a.inspectCmd(), a.eventsCmd(),
		a.imagesCmd(), a.pullCmd(), a.exportCmd(), a.gcCmd(), a.shutdownCmd(), a.policyCmd(), a.devfsCmd(), a.metricsCmd(), a.doctorCmd(), a.versionCmd())
	return c
}

func (a *commands) daemonCmd() *cobra.Command {
	var config, stateDir, binary, logFile string
	var upgrade, check bool
	c := &cobra.Command{Use: "daemon", Short: "run the daemon, or upgrade the one that runs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if upgrade {
				info, err := a.client().Upgrade(cmd.Context(), binary)
				if err != nil {
					return err
				}
				return a.print(info, func(w io.Writer) {
					printable.Fprintf(w, "the daemon is version %s now, process %d\n", info.Version, info.PID)
				})
			}
			if check {
				return a.checkHost(config)
			}
			start, err := theStarter()
			if err == nil {
				err = a.daemon(cmd, start, config, stateDir, logFile)
			}
			if err != nil {
				start.say("failed", err.Error())
			}
			start.close()
			return err
		}}
	c.Flags().StringVar(&config, "config", "", "the host's configuration and policy (freejail.hcl)")
	c.Flags().StringVar(&stateDir, "state-dir", "", "overrides state_dir of the configuration")
	c.Flags().StringVar(&logFile, "log-file", "", "log to this file, which SIGUSR1 opens anew (default: standard error)")
	c.Flags().BoolVar(&upgrade, "upgrade", false, "have the running daemon exec its new binary in place; no task is touched")
	c.Flags().StringVar(&binary, "binary", "", "with --upgrade: the new binary (default: the file of the running one)")
	c.Flags().BoolVar(&check, "check", false, "read the configuration, say whether it is well, and end")
	return c
}

// checkHost reads the host's configuration and the files that it names.
func (a *commands) checkHost(config string) error {
	cfg, err := daemon.LoadConfig(config)
	if err != nil {
		return err
	}
	if cfg.Path != "" {
		if _, err := daemon.LoadPolicy(cfg.Path); err != nil {
			return err
		}
		if err := daemon.CheckFiles(cfg); err != nil {
			return err
		}
	}
	printable.Fprintln(a.out, "the host configuration is well")
	return nil
}

func (a *commands) daemon(cmd *cobra.Command, start *starter, config, stateDir, logFile string) error {
	if logFile != "" {
		if err := logTo(logFile); err != nil {
			return fmt.Errorf("--log-file: %w", err)
		}
	}
	cfg, err := daemon.LoadConfig(config)
	if err != nil {
		return err
	}
	if stateDir != "" {
		cfg.StateDir = stateDir
	}
	if cmd.Flags().Changed("socket") || os.Getenv("FREEJAIL_SOCKET") != "" {
		cfg.Socket = a.socket
	}
	return a.serve(cmd.Context(), start, cfg)
}

// serve tells who started the daemon when it is ready, or why it is not.
func (a *commands) serve(ctx context.Context, start *starter, cfg daemon.Config) error {
	log := hclog.New(&hclog.LoggerOptions{Name: "freejail", Level: hclog.LevelFromString(cfg.LogLevel), Output: printable.NewWriter(os.Stderr)})
	d, err := daemon.New(cfg, a.version, log)
	if err != nil {
		return err
	}
	ended, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		start.follow(d, ended)
	}()
	err = d.Run(ctx)
	close(ended)
	<-told
	return errors.Join(err, d.Close())
}

// print writes a value as JSON, or as f does for people.
func (a *commands) print(v any, f func(io.Writer)) error {
	if a.json {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	f(a.out)
	return nil
}

func table(w io.Writer, header string, rows [][]string) {
	_ = printable.Table(w, header, rows) // whoever reads it may have seen enough
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

func short(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(12, len(hex))]
}
