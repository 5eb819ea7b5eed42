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

// Hints of several words.
const (
	jobsHint   = "groups of tasks are Nomad's jobs"
	buildHint  = "images are built by freejail-build build"
	healthHint = "health checks are those of the image's services: Jailfile's PORT has check="
	timesHint  = "a log has no times of its lines: those that a program writes count"
	pauseHint  = "tasks cannot be paused"
	limitHint  = "limits of CPU and processes are those of Nomad's jobs"
	policyHint = "what a task may do is in the host's policy"
	manyHint   = "name the tasks: freejail ps -q lists them"
	labelHint  = "tasks of Nomad's jobs have labels, others a --name"
	stopHint   = "the image says it (STOPSIGNAL), and freejail stop --signal and --timeout for once"
	ruleHint   = "ask for what the task needs: --allow PERMISSION, --devfs RULE"
	portsHint  = "ports are published one by one: -p [ADDRESS:]PORT:IMAGE-PORT"
	findHint   = "tasks find each other by the names of their services in Consul or Nomad, or by --add-host"
	exportHint = "it serves a root over NFS: use freejail cp for files of a task, and freejail save for images"
	wholeHint  = "--format and --json print all of it"
)

// instead has the words of other tools for containers and jails that freejail has not.
var instead = map[string]string{
	"bootstrap":  "images of FreeBSD are made by freejail-build import, or pulled from a registry",
	"build":      buildHint,
	"builder":    "the cache of builds is emptied by freejail-build cache prune",
	"buildx":     buildHint,
	"checkpoint": "tasks cannot be saved while they run",
	"clone":      "tasks are started of images: freejail run",
	"cmd":        "use freejail exec",
	"commit":     "a root goes with its task: " + buildHint,
	"compose":    jobsHint,
	"console":    "use freejail exec -it TASK /bin/sh, or freejail attach",
	"container":  "leave the word out: freejail ps, freejail rm, ...",
	"create":     "use freejail run -d",
	"destroy":    "use freejail rm --force, or freejail images rm",
	"diff":       "freejail-build diff compares images; what a task wrote is copied by freejail cp",
	"enter":      "use freejail exec -it TASK /bin/sh",
	"fetch":      "use freejail pull",
	"generate":   jobsHint,
	"history":    "use freejail-build history, of a registry's image or of an archive by freejail save",
	"image":      "use freejail images",
	"import":     "use freejail images import, or freejail-build import of a tree's archive",
	"info":       "use freejail doctor, freejail df and freejail networks",
	"init":       "use freejail config init",
	"jexec":      "use freejail exec",
	"jls":        "use freejail ps",
	"kube":       jobsHint,
	"limits":     "a task's limits are those of its job, or of freejail run; the host's are in its configuration",
	"list":       "use freejail ps or freejail images",
	"login":      loginHint,
	"logout":     loginHint,
	"ls":         "use freejail ps or freejail images",
	"manifest":   "use freejail-build inspect",
	"monitor":    "use freejail events --follow, or freejail top",
	"mount":      "use freejail cp, or a volume: freejail run -v SOURCE:TARGET",
	"network":    "networks are those of the host's configuration: freejail networks",
	"node":       "nodes are Nomad's: nomad node status",
	"pause":      pauseHint,
	"pkg":        "packages are in images: Jailfile's PKG, or RUN pkg install",
	"pod":        jobsHint,
	"prune":      "use freejail gc",
	"push":       "use freejail-build push",
	"rdr":        "ports are published when a task is started: freejail run -p",
	"reload":     "use freejail policy reload",
	"rename":     "name a task when it is started: freejail run --name",
	"rmi":        "use freejail images rm",
	"search":     "registries are searched by their own pages; freejail pull HOST/NAME:TAG pulls",
	"secret":     "secrets are Nomad's: its template and vault blocks",
	"service":    "services are of the image's manifest, or of Nomad's jobs; nomad service list shows them",
	"shell":      "use freejail exec -it TASK /bin/sh",
	"snapshot":   "what is to be kept is in volumes, which the host backs up",
	"stack":      jobsHint,
	"start":      "use freejail restart, which starts tasks that have ended too",
	"status":     "use freejail ps, freejail doctor or freejail inspect",
	"swarm":      "many hosts are Nomad's: docs/nomad.md",
	"system":     "use freejail df, freejail doctor and freejail gc",
	"template":   buildHint + ", of Bastille's templates too",
	"trust":      "use freejail-build sign and verify",
	"unpause":    pauseHint,
	"untag":      "use freejail images rm",
	"up":         jobsHint,
	"update":     "a task has what it was started with: start another one, or change its job",
	"upgrade":    "use freejail daemon --upgrade; images are made anew",
	"volume":     "volumes are directories of the host: freejail run -v SOURCE:TARGET",
}

// flagInstead has the flags of other container tools that freejail has not.
var flagInstead = map[string]string{
	"attach sig-proxy":   "keys of a terminal are the task's; signals are sent by freejail kill",
	"cp R":               "directories are copied with all that they have",
	"cp r":               "directories are copied with all that they have",
	"cp recursive":       "directories are copied with all that they have",
	"cp q":               "it tells only of what it leaves out",
	"cp quiet":           "it tells only of what it leaves out",
	"df v":               wholeHint,
	"df verbose":         wholeHint,
	"events since":       "events are shown from the daemon's start on; the daemon's log has older ones",
	"events until":       "without --follow it ends by itself",
	"exec d":             "a command ends with its client; what is to stay is a task of its own",
	"exec detach":        "a command ends with its client; what is to stay is a task of its own",
	"exec privileged":    "a command has what its task has, which the host's policy decides",
	"export o":           exportHint,
	"export output":      exportHint,
	"gc a":               "it removes all that is unused; names of images by freejail images rm --all",
	"gc all":             "it removes all that is unused; names of images by freejail images rm --all",
	"gc f":               "it asks nothing",
	"gc force":           "it asks nothing",
	"images a":           "all are listed",
	"images all":         "all are listed",
	"images digests":     wholeHint,
	"images no-trunc":    wholeHint,
	"images rm f":        "names go at once, of images that tasks run too",
	"images rm force":    "names go at once, of images that tasks run too",
	"inspect s":          "use freejail df",
	"inspect size":       "use freejail df",
	"inspect type":       "it is for tasks; images are described by freejail images IMAGE",
	"kill a":             manyHint,
	"kill all":           manyHint,
	"logs since":         timesHint,
	"logs t":             timesHint,
	"logs timestamps":    timesHint,
	"logs until":         timesHint,
	"ps l":               manyHint,
	"ps last":            "use --filter, or --format with {{.created_at}}",
	"ps latest":          "use --filter, or --format with {{.created_at}}",
	"ps n":               "use --filter, or --format with {{.created_at}}",
	"ps no-trunc":        wholeHint,
	"ps s":               "use freejail df",
	"ps size":            "use freejail df",
	"ps sort":            "tasks are in the order of their making; freejail top sorts them by what they use",
	"pull a":             "pull each tag that is needed",
	"pull all-tags":      "pull each tag that is needed",
	"pull platform":      "the image for this host is taken; freejail-build pull takes others",
	"pull q":             "progress goes to standard error",
	"pull quiet":         "progress goes to standard error",
	"restart a":          manyHint,
	"restart all":        manyHint,
	"restart time":       "use --timeout",
	"rm v":               "volumes are directories of the host, and stay",
	"rm volumes":         "volumes are directories of the host, and stay",
	"run P":              portsHint,
	"run a":              "without -d a task is attached to",
	"run attach":         "without -d a task is attached to",
	"run c":              limitHint,
	"run cap-add":        "use --allow PERMISSION, which the host's policy must permit",
	"run cap-drop":       "tasks have no more than the host's policy permits",
	"run cpu-shares":     limitHint,
	"run cpus":           limitHint,
	"run cpuset-cpus":    limitHint,
	"run domainname":     "use --hostname NAME.DOMAIN",
	"run expose":         "ports are declared by the image; publish one by -p",
	"run gpus":           "use --device PATH, which the host's policy must permit",
	"run group-add":      "use --user USER:GROUP",
	"run health-cmd":     healthHint,
	"run init":           "jails need no init",
	"run ipc":            "SysV IPC is asked for by the image or a job, and the policy decides",
	"run l":              labelHint,
	"run label":          labelHint,
	"run link":           findHint,
	"run log-driver":     "limits { log_size } of the host bounds logs; Nomad's tasks log as its logs block says",
	"run log-opt":        "limits { log_size } of the host bounds logs; Nomad's tasks log as its logs block says",
	"run mac-address":    "the MAC address of a task is chosen for it, and kept",
	"run memory-swap":    "--memory is the limit of memory",
	"run mount":          "use -v SOURCE:TARGET[:ro] or --tmpfs TARGET",
	"run network-alias":  findHint,
	"run no-healthcheck": healthHint,
	"run pid":            "a jail has its own processes",
	"run pids-limit":     limitHint,
	"run platform":       "the image for this host is taken",
	"run privileged":     ruleHint,
	"run publish-all":    portsHint,
	"run q":              "progress goes to standard error",
	"run quiet":          "progress goes to standard error",
	"run read-only":      "give volumes as -v SOURCE:TARGET:ro; --disk limits what is written to the root",
	"run cidfile":        "-d prints the id; --name chooses it",
	"run pod":            jobsHint,
	"run replace":        "remove the other one first: freejail rm -f",
	"run secret":         "secrets are Nomad's: its template and vault blocks; or files: -v SOURCE:TARGET:ro",
	"run restart":        "Nomad restarts its tasks by its own policies",
	"run runtime":        "jails are the runtime",
	"run security-opt":   policyHint,
	"run shm-size":       "use --tmpfs /dev/shm:size=SIZE where a program needs it",
	"run sig-proxy":      "signals are passed on; -d leaves the task alone",
	"run stop-signal":    stopHint,
	"run stop-timeout":   stopHint,
	"run sysctl":         "sysctls are asked for by the image or a job, and the policy decides",
	"run ulimit":         "limits are those of --memory and --disk, and of Nomad's jobs",
	"run userns":         "a jail's root is none of the host's beyond what the policy permits; use --user",
	"run uts":            "use --hostname",
	"run volumes-from":   "give the same -v SOURCE:TARGET",
	"save compress":      "layers are as they are stored; pipe the archive to a program that compresses",
	"save format":        "an OCI archive is written: skopeo copy writes other ones of it",
	"save platform":      "a name of this host is one image, for one platform",
	"stats a":            "tasks that have ended use nothing",
	"stats all":          "tasks that have ended use nothing",
	"stats no-trunc":     wholeHint,
	"stop a":             manyHint,
	"stop all":           manyHint,
	"stop time":          "use --timeout",
	"version f":          wholeHint,
	"version format":     "use --json",
	"wait i":             "it waits without asking again and again",
}

// imagesInstead has the words of others' tools behind their word for images, which here may have one's name there.
var imagesInstead = map[string]string{
	"build":   buildHint,
	"history": instead["history"],
	"inspect": "freejail images IMAGE describes one",
	"list":    "freejail images lists them",
	"load":    "use freejail load",
	"ls":      "freejail images lists them",
	"prune":   "use freejail gc, and freejail images rm --all for names that no task uses",
	"pull":    "use freejail pull",
	"push":    instead["push"],
	"save":    "use freejail save",
	"tag":     "use freejail tag",
}

// client says when it waits for a daemon that has just begun.
func (a *commands) client() *client.Client {
	c := client.New(a.socket)
	c.Waiting = func(why string) { printable.Fprintln(os.Stderr, "freejail: waiting for the daemon:", why) }
	return c
}

// longFlags takes -policy for --policy and --pull always for --pull=always, as others' tools write their flags. What
// is behind the image of run is its program's.
func longFlags(args []string) []string {
	if !slices.ContainsFunc(args, func(arg string) bool {
		return arg == "--pull" || arg == "-policy" || strings.HasPrefix(arg, "-policy=")
	}) {
		return args // mostly: nothing is looked up for it
	}
	out := slices.Clone(args)
	for {
		c, rest, err := newCommands("").root().Find(out) // whose flags are read into nothing
		if err != nil {
			return out
		}
		begin := len(out) - len(rest)
		if c.Name() == "run" {
			if c.ParseFlags(rest) != nil {
				return out // and told again
			}
			at := len(out) - c.Flags().NArg()
			if at > begin && at < len(out) && out[at-1] == "--pull" && slices.Contains(pullWords, out[at]) &&
				c.Flags().Changed("pull") { // and not another flag's value
				out = slices.Replace(out, at-1, at+1, out[at-1]+"="+out[at])
				continue
			}
			return out
		}
		if c.Flags().Lookup("policy") == nil {
			return out
		}
		for i := begin; i < len(out) && out[i] != "--"; i++ {
			switch {
			case out[i] == "--pull" && i+1 < len(out) && slices.Contains(pullWords, out[i+1]):
				out = slices.Replace(out, i, i+2, out[i]+"="+out[i+1])
			case out[i] == "-policy" || strings.HasPrefix(out[i], "-policy="):
				out[i] = "-" + out[i]
			}
		}
		return out
	}
}

func (a *commands) root() *cobra.Command {
	c := a.Root("production containers on FreeBSD",
		a.daemonCmd(), a.runCmd(), a.psCmd(), a.execCmd(), a.attachCmd(), a.stopCmd(), a.killCmd(), a.waitCmd(),
		a.portCmd(), a.logsCmd(), a.statsCmd(), a.topCmd(), a.processesCmd(), a.traceCmd(),
		a.inspectCmd(), a.eventsCmd(), a.imagesCmd(), a.networksCmd(), a.pullCmd(), a.exportCmd(), a.serveCmd(),
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

// checked is what `daemon --check` has found.
type checked struct {
	Valid  bool   `json:"valid"`
	Config string `json:"config"` // empty where none was named, and so none read
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
	return a.Print(checked{true, cfg.Path}, func(w io.Writer) {
		if cfg.Path == "" {
			printable.Fprintln(w, "no configuration was read, as without --config the daemon has none: "+
				"every request is refused then")
			return
		}
		printable.Fprintln(w, "the configuration is valid:", cfg.Path)
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
