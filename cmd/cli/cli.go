// Package cli is freejail's command line: an operator's view of the daemon.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/printable"
)

// Exit codes of this command line beside those of package app. run and exec give
// the program's own.
const (
	exitNoDaemon = 69 // EX_UNAVAILABLE of sysexits(3)
	exitRefused  = 77 // EX_NOPERM
	exitUnknown  = 125
)

// commands are what all commands share.
type commands struct {
	*app.App
	socket string
	stream io.Writer // standard output as it is, for what tasks write
}

// Main runs the command line and returns the exit code.
func Main(version string) int {
	a := newCommands(version)
	return a.Run(app.UntilSignal(), a.root(), longFlags(os.Args[1:]))
}

func newCommands(version string) *commands {
	a := &commands{App: app.New("freejail", version, os.Stdout, os.Stderr), stream: os.Stdout}
	a.CodeOf, a.Instead, a.FlagInstead = exitCodeOf, instead, flagInstead
	return a
}

func exitCodeOf(err error) int {
	switch {
	case errors.As(err, new(*host.FaultError)):
		return daemon.ExitFault
	case errors.Is(err, client.ErrNoDaemon):
		return exitNoDaemon
	case client.IsRefused(err) || errors.Is(err, client.ErrDenied):
		return exitRefused
	}
	var answer *client.Error
	var own runError
	switch {
	case errors.As(err, &answer) && answer.Exit != 0:
		return answer.Exit
	case errors.As(err, &own):
		return exitUnknown
	}
	return 0
}

const loginHint = "the daemon has the credentials of username and password_file, or auth_file, of a registry block; " +
	"freejail-build login writes such a file"

// instead has the words of other container tools that freejail has not.
var instead = map[string]string{
	"build":     "images are built by freejail-build build",
	"commit":    "images are built by freejail-build build",
	"compose":   "groups of tasks are Nomad's jobs",
	"container": "leave the word out: freejail ps, freejail rm, ...",
	"create":    "use freejail run -d",
	"history":   "use freejail-build history",
	"image":     "use freejail images",
	"info":      "use freejail doctor",
	"login":     loginHint,
	"logout":    loginHint,
	"network":   "networks are those of the host's configuration: freejail networks",
	"pause":     "tasks cannot be paused",
	"prune":     "use freejail gc",
	"push":      "use freejail-build push",
	"rename":    "name a task when it is started: freejail run --name",
	"rmi":       "use freejail images rm",
	"start":     "use freejail restart, which starts tasks that have ended too",
	"system":    "use freejail df, freejail doctor and freejail gc",
	"unpause":   "tasks cannot be paused",
	"up":        "groups of tasks are Nomad's jobs",
	"volume":    "volumes are directories of the host: freejail run -v SOURCE:TARGET",
}

// flagInstead has the flags of other container tools that freejail has not.
var flagInstead = map[string]string{
	"run P":             "ports are published one by one: -p [ADDRESS:]PORT:IMAGE-PORT",
	"run cap-add":       "use --allow PERMISSION, which the host's policy must permit",
	"run cap-drop":      "tasks have no more than the host's policy permits",
	"run cpus":          "limits of CPU are those of Nomad's jobs",
	"run device":        "use --devfs RULE, which the host's policy must permit",
	"run env-file":      "give each variable: -e NAME=VALUE",
	"run expose":        "ports are declared by the image; publish one by -p",
	"run link":          "tasks find each other by the names of their services in Consul or Nomad, or by --add-host",
	"run mac-address":   "freejail chooses the MAC address of a task, which keeps it",
	"run mount":         "use -v SOURCE:TARGET[:ro] or --tmpfs TARGET",
	"run network-alias": "tasks find each other by the names of their services in Consul or Nomad, or by --add-host",
	"run platform":      "the image for this host is taken",
	"run privileged":    "ask for what the task needs: --allow PERMISSION, --devfs RULE",
	"run publish-all":   "ports are published one by one: -p [ADDRESS:]PORT:IMAGE-PORT",
	"run read-only":     "give volumes as -v SOURCE:TARGET:ro; --disk limits what is written to the root",
	"run restart":       "Nomad restarts its tasks by its own policies",
	"run security-opt":  "what a task may do is in the host's policy",
	"logs tail":         "use -n N",
	"save compress":     "layers are as they are stored; pipe the archive to a program that compresses",
	"save format":       "an OCI archive is written: skopeo copy writes other ones of it",
	"save platform":     "a name of this host is one image, for one platform",
}

// client says when it waits for a daemon that has just begun.
func (a *commands) client() *client.Client {
	c := client.New(a.socket)
	c.Waiting = func(why string) { printable.Fprintln(os.Stderr, "freejail: waiting for the daemon:", why) }
	return c
}

// longFlags takes -policy for --policy and --pull always for --pull=always, as others'
// tools write their flags.
func longFlags(args []string) []string {
	out := slices.Clone(args)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		if arg == "--pull" && i+1 < len(out) && slices.Contains(pullWhen, out[i+1]) {
			return append(append(out[:i:i], arg+"="+out[i+1]), longFlags(out[i+2:])...)
		}
		if arg == "-policy" || strings.HasPrefix(arg, "-policy=") {
			out[i] = "-" + arg
		}
	}
	return out
}

func (a *commands) root() *cobra.Command {
	c := a.Root("production containers on FreeBSD",
		a.daemonCmd(), a.runCmd(), a.psCmd(), a.execCmd(), a.attachCmd(), a.stopCmd(), a.killCmd(), a.waitCmd(),
		a.portCmd(), a.logsCmd(), a.statsCmd(), a.topCmd(), a.processesCmd(), a.traceCmd(),
		a.inspectCmd(), a.eventsCmd(), a.imagesCmd(), a.networksCmd(), a.pullCmd(), a.exportCmd(),
		a.gcCmd(), a.shutdownCmd(), a.policyCmd(), a.devfsCmd(), a.metricsCmd(), a.doctorCmd())
	c.AddCommand(a.everyday()...)
	socket := cmp.Or(os.Getenv("FREEJAIL_SOCKET"), client.DefaultSocket)
	c.PersistentFlags().StringVar(&a.socket, "socket", socket, "the daemon's socket ($FREEJAIL_SOCKET)")
	a.JSONFlag(c.PersistentFlags())
	a.complete(c)
	return c
}

func (a *commands) daemonCmd() *cobra.Command {
	var config, stateDir, binary, logFile string
	var upgrade, check bool
	c := &cobra.Command{Use: "daemon", Short: "run the daemon, or upgrade the one that runs", Args: cobra.NoArgs}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case binary != "" && !upgrade:
			return app.Usagef("--binary is for --upgrade")
		case upgrade && check:
			return app.Usagef("--check is not for --upgrade, which begins with a check")
		case upgrade && logFile != "":
			return app.Usagef("--log-file is not for --upgrade: the daemon keeps the log that it has")
		}
		if upgrade {
			return a.upgrade(cmd.Context(), client.UpgradeRequest{Binary: binary, Config: config, StateDir: stateDir})
		}
		if check {
			return a.checkHost(config, stateDir)
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
	}
	c.Flags().StringVar(&config, "config", "", "the host's configuration and policy (freejail.hcl)")
	c.Flags().StringVar(&stateDir, "state-dir", "", "overrides state_dir of the configuration")
	c.Flags().StringVar(&logFile, "log-file", "", "log to this file, reopened on SIGUSR1 (default: standard error)")
	c.Flags().BoolVar(&upgrade, "upgrade", false,
		"have the running daemon exec its new binary in place; tasks keep running")
	c.Flags().StringVar(&binary, "binary", "", "with --upgrade: the new binary (default: the file of the running one)")
	c.Flags().BoolVar(&check, "check", false, "check the configuration and exit")
	return c
}

// upgrade has the daemon replaced, and tells what of the host the new one finds missing.
func (a *commands) upgrade(ctx context.Context, r client.UpgradeRequest) error {
	for _, path := range []*string{&r.Binary, &r.Config, &r.StateDir} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	info, err := a.client().Upgrade(ctx, r)
	if err != nil {
		return err
	}
	list, err := a.client().Networks(ctx)
	if err != nil {
		return err
	}
	for _, n := range list {
		printUnusable(a.Messages, n)
	}
	return a.Print(info, func(w io.Writer) {
		printable.Fprintf(w, "the daemon is version %s now, process %d\n", info.Version, info.PID)
	})
}

// checkHost reads the host's configuration and the files that it names, and looks whether the host has
// what its networks need.
func (a *commands) checkHost(config, stateDir string) error {
	doubt, err := host.Check(config)
	if err != nil {
		return err
	}
	if doubt != nil {
		printable.Fprintf(a.Messages, "freejail: warning: host configuration %s: %v\n", config, doubt)
	}
	cfg, err := host.LoadConfig(config)
	if err != nil {
		return err
	}
	cfg.StateDir = cmp.Or(stateDir, cfg.StateDir)
	if err := daemon.CheckState(cfg.StateDir); err != nil {
		return err
	}
	for _, n := range cfg.Networks {
		if wide := host.Unbounded(n); wide != "" {
			printable.Fprintf(a.Messages, "freejail: warning: %s: network %q: %s\n", n.Where, n.Name, wide)
		}
	}
	if err := host.CheckNetworks(cfg); err != nil {
		return err
	}
	return a.Print(map[string]bool{"valid": true}, func(w io.Writer) {
		printable.Fprintln(w, "the configuration is valid")
	})
}

func (a *commands) daemon(cmd *cobra.Command, start *starter, config, stateDir, logFile string) error {
	if logFile != "" {
		if err := logTo(logFile); err != nil {
			return fmt.Errorf("--log-file: %w", err)
		}
	}
	cfg, err := host.LoadConfig(config)
	if err != nil {
		return err
	}
	cfg.StateDir = cmp.Or(stateDir, cfg.StateDir)
	if cmd.Flags().Changed("socket") || os.Getenv("FREEJAIL_SOCKET") != "" {
		cfg.Socket = a.socket
	}
	return a.serve(cmd.Context(), start, cfg)
}

// serve tells who started the daemon when it is ready, or why it is not.
func (a *commands) serve(ctx context.Context, start *starter, cfg host.Config) error {
	log := hclog.New(&hclog.LoggerOptions{Name: "freejail", Level: hclog.LevelFromString(cfg.LogLevel),
		Output: printable.NewWriter(os.Stderr)})
	d, err := daemon.New(cfg, a.Version, log)
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

// answer returns a command that prints what a call gives.
func answer[T any](a *commands, use, short string, args cobra.PositionalArgs,
	call func(context.Context, []string) (T, error), print func(io.Writer, T)) *cobra.Command {
	return app.Command(use, short, args, func(ctx context.Context, args []string) error {
		v, err := call(ctx, args)
		if err != nil {
			return err
		}
		return a.Print(v, func(w io.Writer) { print(w, v) })
	})
}

// listing returns a command that prints what the daemon has.
func listing[T any](a *commands, use, short string, call func(*client.Client, context.Context) ([]T, error),
	print func(io.Writer, []T)) *cobra.Command {
	return answer(a, use, short, cobra.NoArgs,
		func(ctx context.Context, _ []string) ([]T, error) { return call(a.client(), ctx) }, print)
}

// table writes a row for each of a list; a row of nothing is left out.
func table[T any](w io.Writer, header string, list []T, row func(T) []string) {
	var rows [][]string
	for _, v := range list {
		if r := row(v); r != nil {
			rows = append(rows, r)
		}
	}
	_ = printable.Table(w, header, rows) // App remembers the error
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
