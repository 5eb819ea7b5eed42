package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// runFlags are the task that flags tell of, and what becomes of it.
type runFlags struct {
	client.TaskSpec
	detach bool
	pull   string // when a registry is asked; empty is pullMissing
	keys   []byte // that leave a task with a terminal

	ownEnv   map[string]string // of --env, which is more than what files have
	envFiles []string
}

func (a *commands) runCmd() *cobra.Command {
	var f runFlags
	c := app.Command("run [flags] IMAGE [COMMAND [ARG...]]", "start a task without Nomad and follow it to its end",
		cobra.MinimumNArgs(1), func(ctx context.Context, args []string) error {
			if err := f.image(args); err != nil {
				return err
			}
			if err := a.resolve(ctx, &f); err != nil {
				return ownError(ctx, f.meant(args, err))
			}
			return f.meant(args, a.run(ctx, f))
		})
	fl := c.Flags()
	fl.SetInterspersed(false)
	fl.BoolVarP(&f.detach, "detach", "d", false, "print the id and leave the task running")
	fl.BoolVar(&f.Remove, "rm", false, "remove the task when it has ended")
	fl.BoolVarP(&f.Interactive, "interactive", "i", false,
		"pass standard input on to the task (default: its input is empty)")
	fl.BoolVarP(&f.TTY, "tty", "t", false, "give the task a terminal; with -i its keys, Ctrl-C too, are the task's")
	detachKeys(c, &f.keys)
	f.task(fl)
	return c
}

// meant adds to an error what the words may have been meant as.
func (f *runFlags) meant(args []string, err error) error {
	var answer *client.Error
	switch {
	case !errors.As(err, &answer):
		return err
	case answer.Exit == exitNoProgram && len(args) > 1 && strings.HasPrefix(args[1], "-"):
		return fmt.Errorf("%w; flags of freejail run come before IMAGE: what is behind it is the command", err)
	case f.pull == pullAlways && len(args) > 1 && plainName.MatchString(args[0]) &&
		(answer.Code == client.CodeInvalid || answer.Code == client.CodeNotFound):
		return fmt.Errorf("%w; %s was taken for IMAGE: it is --pull=WHEN, and WHEN is always, missing or never", err,
			args[0])
	}
	return aFile(args[0], err)
}

// exitNoProgram is that of shells.
const exitNoProgram = 127

var plainName = regexp.MustCompile(`^[a-z-]+$`)

// When a registry is asked for an image.
const (
	pullAlways  = "always"
	pullMissing = "missing"
	pullNever   = "never"
)

var pullWhen = []string{pullAlways, pullMissing, pullNever}

// pullWords are those that are taken for WHEN behind a --pull alone: podman's newer is refused then.
var pullWords = append(pullWhen, "newer")

type pullFlag string

func (p *pullFlag) String() string { return "" } // the default is in the usage
func (p *pullFlag) Type() string   { return "string" }

func (p *pullFlag) Set(text string) error {
	if !slices.Contains(pullWhen, text) {
		return errors.New("expected always, missing or never")
	}
	*p = pullFlag(text)
	return nil
}

// resolve is the image of the arguments in the daemon's words.
func (a *commands) resolve(ctx context.Context, f *runFlags) (err error) {
	f.ForcePull = f.pull == pullAlways
	if f.Image, err = a.imageRef(ctx, f.Image); err == nil && f.pull == pullNever {
		_, err = a.client().Image(ctx, f.Image)
	}
	return err
}

// task are the flags of what a task is and asks for.
func (f *runFlags) task(fl *pflag.FlagSet) {
	fl.StringVar(&f.ID, "name", "", "the id of the task (default: made from the image's name)")
	pull := (*pullFlag)(&f.pull)
	fl.Var(pull, "pull", "ask the registry: `WHEN` is always (also of --pull alone), missing or never")
	fl.Lookup("pull").NoOptDefVal = pullAlways
	fl.StringVarP(&f.User, "user", "u", "", "user[:group], looked up in the image")
	fl.StringVarP(&f.WorkDir, "workdir", "w", "", "working directory in the jail")
	fl.Bool("help", false, "help") // whose -h is that of others' tools for the host name
	fl.StringVarP(&f.Hostname, "hostname", "h", "", "the jail's host name")
	fl.Func("dns", "the `ADDRESS` of a name server, instead of the host's", f.dns(func(d *client.DNS) *[]string {
		return &d.Servers
	}))
	fl.Func("dns-search", "a search `DOMAIN`, instead of the host's; . for none", f.dns(func(d *client.DNS) *[]string {
		return &d.Searches
	}))
	fl.Func("dns-option", "an `OPTION` of the resolver, such as ndots:2, instead of the host's",
		f.dns(func(d *client.DNS) *[]string { return &d.Options }))
	fl.Func("add-host", "`NAME:ADDRESS`: a line of the task's /etc/hosts", func(text string) error {
		_, err := client.ParseHost(text)
		f.ExtraHosts = append(f.ExtraHosts, text)
		return err
	})
	fl.StringVar(&f.Storage, "storage", "",
		"another storage driver of the host; nfs or nfs://server/path for a root over NFS")
	fl.StringArrayVar(&f.Wants.Devfs, "devfs", nil, "a devfs `RULE` that the task asks for")
	fl.Func("device", "`PATH[:rwm]`: a device of the host's /dev that the task asks for", func(text string) error {
		d, err := client.ParseDevice(text)
		f.Devices = append(f.Devices, d)
		return err
	})
	fl.StringArrayVar(&f.Wants.Allow, "allow", nil,
		"a jail `PERMISSION` that the task asks for, such as raw_sockets")
	fl.FuncP("memory", "m", "memory limit, a `SIZE` such as 256MiB", size(&f.Limits.MemoryBytes))
	fl.Func("disk", "limit of data written to the root, a `SIZE` such as 1GiB (default: the host's)",
		size(&f.Limits.DiskBytes))
	fl.FuncP("env", "e", envUsage, variable(&f.ownEnv))
	fl.StringArrayVar(&f.envFiles, "env-file", nil, envFileUsage)
	fl.Func("param", "`NAME=VALUE` for a parameter of the image", pair(&f.Parameters))
	f.network(fl)
	fl.FuncP("volume", "v", "`SOURCE:TARGET[:ro]`", func(text string) error {
		m, err := client.ParseVolume(text)
		f.Volumes = append(f.Volumes, m)
		return err
	})
	fl.Func("tmpfs", "`TARGET[:OPTIONS]`: a tmpfs, with size=64MiB, mode=1777, noexec, ...", func(text string) error {
		f.Volumes = append(f.Volumes, client.ParseTmpfs(text))
		return nil
	})
	fl.Func("entrypoint", "a `PROGRAM` that replaces the image's entrypoint", func(text string) error {
		f.Entrypoint = []string{text}
		return nil
	})
}

// image is that of the arguments, with the command behind it.
func (f *runFlags) image(args []string) (err error) {
	if f.Env, err = environment(f.envFiles, f.ownEnv); err != nil {
		return err
	}
	f.Owner, f.Image = "cli", imageRef(args[0])
	if f.ID == "" {
		f.ID = client.TaskID(strings.TrimSuffix(filepath.Base(args[0]), ".tar"), strings.ToLower(rand.Text()[:8]))
	}
	if len(args) > 1 {
		f.Command, f.Args = args[1], args[2:]
	}
	return nil
}

// dns reads one of a list of the task's DNS.
func (f *runFlags) dns(list func(*client.DNS) *[]string) func(string) error {
	return func(text string) error {
		if f.DNS == nil {
			f.DNS = &client.DNS{}
		}
		to := list(f.DNS)
		*to = append(*to, text)
		return f.DNS.Check()
	}
}

// size reads a flag's size.
func size(n *int64) func(string) error {
	return func(text string) (err error) {
		*n, err = client.ParseSize(text)
		return err
	}
}

// pair reads one of a flag's NAME=VALUE.
func pair(m *map[string]string) func(string) error {
	return func(text string) error {
		k, v, ok := strings.Cut(text, "=")
		if !ok || k == "" {
			return errors.New("expected NAME=VALUE")
		}
		if *m == nil {
			*m = map[string]string{}
		}
		(*m)[k] = v
		return nil
	}
}

func (a *commands) run(ctx context.Context, f runFlags) error {
	if err := f.console(); err != nil {
		return err
	}
	t, err := a.start(ctx, f.TaskSpec)
	if err != nil {
		return ownError(ctx, err)
	}
	if f.detach {
		return a.Print(t, func(w io.Writer) { printable.Fprintln(w, t.Spec.ID) })
	}
	s := a.newSession(t, f.Interactive, f.keys)
	s.rm = f.Remove
	end, err := s.run(ctx)
	return a.ended(ctx, t.Spec.ID, end, err)
}

// slowStart is how long a start takes before it is told what it waits for.
const slowStart = time.Second

// start starts a task; where that takes long, the pull and the unpacking of its image are
// shown.
func (a *commands) start(ctx context.Context, spec client.TaskSpec) (*client.Task, error) {
	return a.startBy(ctx, spec, a.client().Start)
}

func (a *commands) startBy(ctx context.Context, spec client.TaskSpec,
	call func(context.Context, client.TaskSpec) (*client.Task, error)) (*client.Task, error) {
	defer a.showing(ctx, spec.ID)()
	return call(ctx, spec)
}

// showing shows, until it is told the end, what a task's image waits for, or that of the
// host's own work where the id is empty.
func (a *commands) showing(ctx context.Context, id string) (end func()) {
	ctx, stop := context.WithCancel(ctx)
	over, since := make(chan struct{}), time.Now()
	go func() {
		defer close(over)
		if client.Pause(ctx, slowStart) {
			a.showStart(ctx, id, since)
		}
	}()
	return func() {
		stop()
		<-over
	}
}

func (a *commands) showStart(ctx context.Context, id string, since time.Time) {
	// It ends with the start, whose own error counts.
	_ = a.client().Events(ctx, 0, true, func(e client.Event) error {
		if e.Task == id && !e.At.Before(since) && (e.Kind == "pulling" || e.Kind == "unpacking") {
			printable.Fprintln(a.Messages, e.Message)
		}
		return nil
	})
}

// console is what the task has of the client's terminal.
func (f *runFlags) console() error {
	f.Attach = !f.detach
	if !f.TTY {
		return nil
	}
	if f.Interactive && !f.detach && !term.IsTerminal(int(os.Stdin.Fd())) {
		printable.Fprintln(os.Stderr, "freejail: standard input is not a terminal: the task's terminal echoes what "+
			"comes from it")
	}
	if size, is := windowSize(); is {
		f.Rows, f.Cols = size.Rows, size.Cols
	}
	if own := os.Getenv("TERM"); own != "" && f.Env["TERM"] == "" && !f.detach {
		return pair(&f.Env)("TERM=" + own)
	}
	return nil
}

// runError is an error of run or exec, of which the exit code is not a program's.
type runError struct{ error }

func (e runError) Unwrap() error { return e.error }

// ownError tells our own errors from the program's end.
func ownError(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return runError{err}
}

// waitFor waits for the end of a task, whatever happens to the daemon meanwhile.
func waitFor(ctx context.Context, c *client.Client, id string, say func()) (exit *client.Exit, err error) {
	err = persist(ctx, attending, func() error {
		exit, err = c.Wait(ctx, id)
		return err
	}, say)
	return exit, err
}

// Whether a daemon has answered before a call that persists.
const (
	calling   = false
	attending = true
)

const waitingText = "the daemon ended or is being upgraded: waiting for the next"

func sayWaiting() { printable.Fprintln(os.Stderr, "freejail:", waitingText) }

// persist repeats a call that the daemon's end breaks off, with the daemon that
// comes. One that was not there at first is not waited for.
func persist(ctx context.Context, there bool, call func() error, say func()) error {
	broke := false
	for {
		err := call()
		gone := errors.Is(err, client.ErrBrokenOff)
		if !gone && !((there || broke) && errors.Is(err, client.ErrNoDaemon)) || ctx.Err() != nil {
			return err
		}
		if !broke {
			say()
		}
		broke = true
		if !client.Pause(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// exitOf turns a task's end into our own.
func exitOf(e *client.Exit) error {
	switch {
	case e != nil && e.Host:
		printable.Fprintln(os.Stderr, "freejail: the task ended:", e.Message)
	case e == nil || !e.Known:
		printable.Fprintln(os.Stderr, "freejail: the exit code is unknown")
		return app.ExitCode(exitUnknown)
	case e.Disk:
		printable.Fprintln(os.Stderr, "freejail: killed:", e.Message)
	case e.OOM:
		printable.Fprintln(os.Stderr, "freejail: killed: over its memory limit")
	}
	if !e.Known {
		return app.ExitCode(exitUnknown)
	}
	if e.Signal != 0 {
		return app.ExitCode(128 + e.Signal)
	}
	if e.Code != 0 {
		return app.ExitCode(e.Code)
	}
	return nil
}

func (a *commands) psCmd() *cobra.Command {
	var all, quiet bool
	var v *view[client.Task]
	c := app.Command("ps", "list the tasks of this host", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		c := a.client()
		tasks, err := c.TasksNow(ctx)
		if err != nil {
			return err
		}
		if err := checkFilters(ctx, c, tasks, v.filters); err != nil {
			return err
		}
		kept := filtered(tasks, v.filters, all)
		if quiet {
			return a.Print(kept, func(w io.Writer) {
				for _, t := range kept {
					printable.Fprintln(w, rowID(t))
				}
			})
		}
		var usage map[string]client.Usage
		recovering := slices.ContainsFunc(tasks, func(t client.Task) bool { return t.Recovering })
		if v.format == "" && !recovering {
			if usage, err = c.AllStats(ctx); err != nil {
				return err
			}
		}
		return v.print(a, kept, func(w io.Writer, list []client.Task) { printTasks(w, list, usage) })
	})
	c.Flags().BoolVarP(&all, "all", "a", false, "also list ended tasks")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids alone")
	v = newView(c.Flags(), taskConditions, "f", "list "+taskFilter)
	return c
}

func printTasks(w io.Writer, list []client.Task, usage map[string]client.Usage) {
	table(w, "TASK\tIMAGE\tJOB\tSTATE\tHEALTH\tPID\tJID\tNETWORK\tPORTS\tRSS\tCPU\tCREATED", list,
		func(t client.Task) []string { return psRow(t, usage[t.Spec.ID]) })
	for _, t := range list {
		if t.Left != "" {
			printable.Fprintf(w, "still on the host of %s: %s\n", rowID(t), t.Left)
		}
	}
}

// rowID tells what is left of a task from another one with its id.
func rowID(t client.Task) string {
	if t.State == client.Left {
		return t.Key
	}
	return t.Spec.ID
}

func psRow(t client.Task, u client.Usage) []string {
	var ports []string
	for _, p := range t.Ports {
		ports = append(ports, psPort(&t, p))
	}
	state := string(t.State)
	if t.Recovering {
		state = "recovering"
	}
	if t.Unhealthy != "" {
		state += " (unhealthy)"
	}
	if t.Exit != nil {
		state += fmt.Sprintf(" (%d)", t.Exit.Code)
		if !t.Exit.Known {
			state = string(t.State) + " (unknown)"
		}
	}
	if t.Exit != nil && t.Exit.Host {
		state = strings.TrimSuffix(state, ")") + ", " + t.Exit.Message + ")"
	}
	dash := func(s string, empty bool) string {
		if empty {
			return "-"
		}
		return s
	}
	job := t.Spec.NomadLabels()["job"]
	return []string{rowID(t), psImage(t), dash(job, job == ""), state, health(t), dash(strconv.Itoa(t.PID), t.PID == 0),
		dash(strconv.Itoa(t.JID), t.JID == 0), psNetwork(t), dash(strings.Join(ports, ","), len(ports) == 0),
		units.BytesSize(float64(u.RSS)), (u.UserTime + u.SysTime).Round(time.Millisecond).String(), ago(t.CreatedAt)}
}

// psImage is what a task calls its image, or the beginning of its digest.
func psImage(t client.Task) string {
	name := t.Spec.Image
	if name == "" || strings.HasPrefix(name, "sha256:") {
		return short(t.Digest)
	}
	plain, _, _ := strings.Cut(name, "@")
	return plain
}

func (a *commands) execCmd() *cobra.Command {
	var spec client.ExecSpec
	var input bool
	var env map[string]string
	var envFiles []string
	c := app.Command("exec [flags] TASK COMMAND [ARG...]", "run a command in a task's jail", cobra.MinimumNArgs(2),
		func(ctx context.Context, args []string) (err error) {
			if spec.Env, err = environment(envFiles, env); err != nil {
				return err
			}
			spec.Args = args[1:]
			return a.exec(ctx, args[0], spec, input)
		})
	c.Flags().SetInterspersed(false)
	c.Flags().BoolVarP(&input, "interactive", "i", true, "pass standard input on to the command")
	c.Flags().BoolVarP(&spec.TTY, "tty", "t", false, "allocate a terminal")
	c.Flags().StringVarP(&spec.User, "user", "u", "", "user[:group], looked up in the task's files; the policy decides")
	c.Flags().StringVarP(&spec.WorkDir, "workdir", "w", "", "working directory in the jail")
	c.Flags().FuncP("env", "e", envUsage, variable(&env))
	c.Flags().StringArrayVar(&envFiles, "env-file", nil, envFileUsage)
	return c
}

func (a *commands) exec(ctx context.Context, id string, spec client.ExecSpec, input bool) error {
	xio := client.ExecIO{Stdout: os.Stdout, Stderr: os.Stderr}
	if input {
		xio.Stdin = os.Stdin
	}
	if spec.TTY {
		if size, is := windowSize(); is {
			spec.Rows, spec.Cols = size.Rows, size.Cols
		}
		var stop func()
		xio.Resize, stop = resizes()
		defer stop()
	}
	exit, err := a.rawExec(ctx, id, spec, xio)
	if err != nil {
		return ownError(ctx, err)
	}
	return exitOf(exit)
}

// rawExec has the terminal raw as long as the command has it.
func (a *commands) rawExec(ctx context.Context, id string, spec client.ExecSpec,
	xio client.ExecIO) (*client.Exit, error) {
	if fd := int(os.Stdin.Fd()); xio.Stdin != nil && spec.TTY && term.IsTerminal(fd) {
		raw, err := makeRaw(fd)
		if err != nil {
			return nil, err
		}
		defer raw.Close()
	}
	return a.client().Exec(ctx, id, spec, xio)
}

func (a *commands) stopCmd() *cobra.Command {
	var sig string
	var timeout *time.Duration
	c := app.Command("stop TASK...", "stop tasks: a signal, and SIGKILL after the timeout", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error {
			return a.each(ctx, args, func(id string) error {
				r := client.StopRequest{Signal: sig}
				if timeout == nil {
					r.Timeout = client.Duration(a.stopTimeout(ctx, id))
				} else {
					r.Timeout = client.Duration(*timeout)
				}
				return a.endOf(ctx, id, func() error {
					return persist(ctx, calling, func() error {
						_, err := a.client().Stop(ctx, id, r)
						return err
					}, sayWaiting)
				})
			})
		})
	c.Flags().StringVarP(&sig, "signal", "s", "", "the signal (default: the image's, else SIGTERM)")
	c.Flags().FuncP("timeout", "t",
		"the `TIME` until SIGKILL, such as 90s, or in seconds (default: the image's, else 10s)", seconds(&timeout))
	return c
}

// ending are signals by which operators end a task.
var ending = []string{"KILL", "TERM", "INT", "QUIT", "9", "15", "2", "3"}

func (a *commands) killCmd() *cobra.Command {
	sig := "SIGKILL"
	c := app.Command("kill TASK...", "send a signal to the main processes of tasks", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error {
			return a.each(ctx, args, func(id string) error {
				signal := func() error { return a.client().Signal(ctx, id, sig) }
				if !slices.Contains(ending, strings.TrimPrefix(strings.ToUpper(sig), "SIG")) {
					return signal()
				}
				return a.endOf(ctx, id, signal)
			})
		})
	c.Flags().StringVarP(&sig, "signal", "s", sig, "the signal: a name such as HUP or RTMIN+3, or a number")
	return c
}

// duration reads a flag's duration, where none is another thing than 0.
func duration(to **time.Duration) func(string) error {
	return func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("not a valid duration (for example 90s)")
		}
		*to = &d
		return nil
	}
}

// seconds reads a flag's duration, a number of seconds too.
func seconds(to **time.Duration) func(string) error {
	return func(text string) error {
		d, err := parseSeconds(text)
		*to = &d
		return err
	}
}

func parseSeconds(text string) (time.Duration, error) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errors.New("not a valid duration (for example 90s)")
	}
	return d, nil
}

// stopTimeout is how long a task has to end; the image may have said.
func (a *commands) stopTimeout(ctx context.Context, id string) time.Duration {
	if t, err := a.client().Task(ctx, id); err == nil && t.Spec.StopTimeout > 0 {
		return time.Duration(t.Spec.StopTimeout)
	}
	return client.DefaultStopTimeout
}

func (a *commands) shutdownCmd() *cobra.Command {
	limit := new(time.Duration)
	c := app.Command("shutdown", "stop all tasks as a shutdown of the host does", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			if *limit < 0 {
				return app.Usagef("--timeout %s: negative", *limit)
			}
			r, err := a.client().Shutdown(ctx, client.ShutdownRequest{Limit: client.Duration(*limit)})
			if err != nil {
				return err
			}
			if err := a.Print(r, func(w io.Writer) { printShutdown(w, r) }); err != nil || len(r.Left) == 0 {
				return err
			}
			return app.ExitCode(app.Failed)
		})
	c.Long = `Deregisters every task from Consul, sends it its stop signal, and kills it after
its own timeout, all tasks at once. After that the daemon starts no task until it
is started again, with the host or by "service freejail restart" (of systemd
"systemctl restart freejail"). The tasks' end is then reported as "the host was shut down", also to Nomad's agent.

The rc.d script runs this when the host shuts down; run it by hand before
maintenance.`
	c.Flags().FuncP("timeout", "t",
		"the `TIME`, such as 5m or in seconds, for all of it, with 10s to kill and clean up (default: each task's own)",
		seconds(&limit))
	return c
}

func printShutdown(w io.Writer, r *client.ShutdownResult) {
	have := "have"
	if len(r.Ended) == 1 {
		have = "has"
	}
	printable.Fprintf(w, "%s %s ended", printable.Count(len(r.Ended), "task"), have)
	if len(r.Killed) > 0 {
		printable.Fprintf(w, "; killed after their timeout: %s", strings.Join(r.Killed, " "))
	}
	if len(r.Left) > 0 {
		printable.Fprintf(w, "; still running: %s", strings.Join(r.Left, " "))
	}
	printable.Fprintln(w)
}

func (a *commands) logsCmd() *cobra.Command {
	var follow, stderr bool
	var tail int
	c := app.Command("logs TASK", "show the standard output of a task", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			stream := "stdout"
			if stderr {
				stream = "stderr"
			}
			c := a.client()
			if !stderr {
				tell := a.toldOfStderr(ctx, args[0])
				tell()
				defer tell() // once, though it may have come meanwhile
			}
			if !follow {
				return c.Logs(ctx, args[0], stream, false, tail, a.stream)
			}
			log := client.LogReading{Task: args[0], Stream: stream, Tail: tail, To: a.stream}
			err := persist(ctx, calling, func() error { return c.FollowLog(ctx, &log) }, sayWaiting)
			if errors.Is(err, client.ErrPlaceLost) {
				err = fmt.Errorf("%w: the task's log is shown by another `freejail logs`", err)
			}
			return err
		})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "follow until the task ends")
	c.Flags().BoolVar(&stderr, "stderr", false, "show standard error instead of output")
	c.Flags().IntVarP(&tail, "tail", "n", -1, "start with the last N lines")
	return c
}

// toldOfStderr tells, once, that a task has written to standard error, of which standard output alone shows nothing.
func (a *commands) toldOfStderr(ctx context.Context, id string) func() {
	told := false
	return func() {
		var b bytes.Buffer
		if told || a.client().Logs(ctx, id, "stderr", false, 1, &b) != nil || b.Len() == 0 {
			return // an error is that of the log itself too
		}
		told = true
		printable.Fprintln(a.Messages, "freejail: standard error has lines too: --stderr shows them")
	}
}

func oneTask(c *cobra.Command, args []string) error {
	if len(args) > 1 {
		return app.Usagef("%s shows one task at a time: freejail ps --all --json shows all", c.CommandPath())
	}
	return cobra.ExactArgs(1)(c, args)
}

func (a *commands) inspectCmd() *cobra.Command {
	var format string
	c := app.Command("inspect TASK", "show all details of a task, as JSON", oneTask,
		func(ctx context.Context, args []string) error {
			t, err := a.client().Task(ctx, args[0])
			if client.IsNotFound(err) && !filepath.IsAbs(args[0]) {
				if i, ierr := a.client().Image(ctx, args[0]); ierr == nil {
					return fmt.Errorf("%w; `freejail images %s` describes the image", err, i.Name)
				}
			}
			if err != nil {
				return err
			}
			if format != "" {
				return printAs(a, format, t)
			}
			a.JSON = true
			return a.Print(t, nil)
		})
	c.Flags().StringVarP(&format, "format", "f", "", formatUsage)
	return c
}

func (a *commands) eventsCmd() *cobra.Command {
	var follow bool
	var v *view[client.Event]
	c := app.Command("events", "show recent events of tasks", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			t, err := parseFormat(v.format)
			if err != nil {
				return err
			}
			c, after := a.client(), uint64(0)
			return persist(ctx, calling, func() error {
				return c.Events(ctx, after, follow, func(e client.Event) error {
					after = e.Seq
					switch {
					case !v.by.holds(e, v.filters):
						return nil
					case v.format != "":
						return a.printBy(t, e)
					}
					return a.PrintLine(e, func(w io.Writer) {
						printable.Fprintf(w, "%s  %-20s  %-10s  %s\n", e.At.Format(time.TimeOnly), e.Task, e.Kind,
							e.Message)
					})
				})
			}, sayWaiting)
		})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "follow new events")
	v = newView(c.Flags(), eventConditions, "", "show events alone for which `KEY=VALUE` holds: task, kind, "+
		"or label (NAME or NAME=VALUE, of a job); repeatable")
	return c
}

var eventConditions = conditions[client.Event]{
	"task":  func(e client.Event, value string) bool { return e.Task == value },
	"kind":  func(e client.Event, value string) bool { return e.Kind == value },
	"label": func(e client.Event, value string) bool { return label(e.Labels, value) },
}
