package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Keeper is a Runner whose jails can outlast a command: what a SERVICE starts
// runs while later commands do.
type Keeper interface {
	// Open makes a jail for several commands on one root, with the network and the
	// parameters of c.
	Open(ctx context.Context, c Command) (Jail, error)
}

// Jail executes commands one after the other. What one leaves running stays until
// Close, which has killed and unmounted everything when it returns, whatever it
// reports.
type Jail interface {
	Exec(ctx context.Context, c Command) error
	Close(ctx context.Context) error
}

// EachAlone executes each command in a jail of its own, with which what it starts
// ends: for a Runner, or an image, that can do no more.
func EachAlone(r Runner) Jail { return eachAlone{r} }

type eachAlone struct{ Runner }

func (a eachAlone) Exec(ctx context.Context, c Command) error { return a.Run(ctx, c) }

func (eachAlone) Close(context.Context) error { return nil }

// ofProcesses are the commands of service(8) that are about processes.
var ofProcesses = regexp.MustCompile(`^(one|force|fast|quiet)?(start|stop|restart|reload|status|poll)$`)

// serviceStep is such a command. It is never executed alone: see serve.
type serviceStep struct {
	*runStep
	name, prefix, command string
}

// with is another command for the same service.
func (s *serviceStep) with(command string) *runStep {
	r := *s.runStep
	r.argv = []string{"service", s.name, s.prefix + command}
	return &r
}

// servedStep is the commands that share a jail with services that run: from the
// start of the first to the last command that may need them. The services are
// stopped before the layer is taken, so that it has their files as they leave
// them and nothing of the running ones.
type servedStep struct {
	file     *File
	commands []served
	up       []*serviceStep // those that run at the end, in the order of their starts
}

type served struct {
	in Instruction
	*runStep
	again bool // a start that the line does not ask for
}

func (c served) title() string {
	if c.again {
		return strings.Join(c.argv, " ")
	}
	return c.in.title()
}

// instructions are those that a step executes.
func (s planned) instructions() (out []Instruction) {
	many, ok := s.step.(*servedStep)
	if !ok {
		return []Instruction{s.in}
	}
	for _, c := range many.commands {
		if !c.again {
			out = append(out, c.in)
		}
	}
	return out
}

// server divides a stage's steps into those that run alone and those that run
// beside services.
type server struct {
	p       *planner
	out     []planned
	last    int            // the last command of the stage, -1 without one
	up      []*serviceStep // what should run
	open    *servedStep    // that is being collected
	members []int          // its instructions in out
}

// serve starts services where a later command of the stage may need them.
// Files that are copied or edited are no commands: the services are stopped for
// them and started again for the next command.
func (p *planner) serve(list []planned) []planned {
	s := &server{p: p, last: -1}
	for i, l := range list {
		if r, ok := l.step.(*runStep); ok && r.mayNeed {
			s.last = i
		}
	}
	for i, l := range list {
		switch step := l.step.(type) {
		case nil:
			s.out = append(s.out, l)
		case *serviceStep:
			s.service(l.in, step, i < s.last)
		case *runStep:
			s.command(l, step)
		default:
			s.close()
			s.out = append(s.out, l)
		}
		if i == s.last {
			s.close()
		}
	}
	s.close()
	return s.out
}

func (s *server) service(in Instruction, step *serviceStep, needed bool) {
	at := slices.IndexFunc(s.up, func(o *serviceStep) bool { return o.name == step.name })
	starts := step.command == "start" || step.command == "restart"
	switch {
	case !needed && s.open == nil || !starts && at < 0:
		if starts || step.command == "reload" {
			s.p.warn(in, "no command follows that needs it, so this is left out: a service that is enabled starts "+
				"with the jail")
		}
		if at >= 0 && step.command == "stop" {
			s.up = slices.Delete(s.up, at, at+1)
		}
		s.out = append(s.out, planned{in: in})
	case starts:
		if at >= 0 {
			s.up = slices.Delete(s.up, at, at+1)
		}
		s.begin(in)
		s.add(in, step.runStep)
		s.up = append(s.up, step)
	case step.command == "stop":
		if s.up = slices.Delete(s.up, at, at+1); s.open == nil {
			s.out = append(s.out, planned{in: in})
			return
		}
		if s.add(in, step.runStep); len(s.up) == 0 {
			s.close()
		}
	default:
		s.begin(in)
		s.add(in, step.runStep)
	}
}

func (s *server) command(l planned, step *runStep) {
	switch {
	case len(s.up) == 0 || s.open == nil && !step.mayNeed:
		s.out = append(s.out, l)
	case len(step.secrets)+len(step.mounts)+len(step.params) > 0 || step.script != "" || step.network != "":
		s.close()
		s.p.warn(l.in, "its options give it a jail of its own, in which the services do not run that were started")
		s.out = append(s.out, l)
	default:
		s.begin(l.in)
		s.add(l.in, step)
	}
}

// begin opens a jail in which what should run does.
func (s *server) begin(in Instruction) {
	if s.open != nil {
		return
	}
	s.open = &servedStep{file: s.p.file}
	for _, up := range s.up {
		s.open.commands = append(s.open.commands, served{in, up.with("start"), true})
	}
}

func (s *server) add(in Instruction, step *runStep) {
	s.open.commands = append(s.open.commands, served{in, step, false})
	s.members = append(s.members, len(s.out))
	s.out = append(s.out, planned{in: in})
}

// close makes the last member of the group its step.
func (s *server) close() {
	if s.open == nil {
		return
	}
	s.open.up = slices.Clone(s.up)
	s.out[s.members[len(s.members)-1]].step = s.open
	s.open, s.members = nil, nil
}

func (s *servedStep) key(ctx context.Context, b *work) (any, error) {
	var keys []any
	for _, c := range s.commands {
		k, err := c.runStep.key(ctx, b)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	var up []string
	for _, u := range s.up {
		up = append(up, u.prefix+" "+u.name)
	}
	return struct {
		Served []any
		Up     []string
	}{keys, up}, nil
}

func (s *servedStep) run(ctx context.Context, b *work) error {
	return b.inTree(ctx, func(dir string) error {
		before, err := leftovers(dir)
		if err != nil {
			return err
		}
		if err := s.inJail(ctx, b, dir); err != nil {
			return err
		}
		return removeLeftovers(dir, before)
	})
}

func (s *servedStep) inJail(ctx context.Context, b *work, dir string) (err error) {
	jail := EachAlone(b.runner)
	if k, ok := b.runner.(Keeper); ok {
		if jail, err = k.Open(ctx, s.commands[0].asCommand(b, dir)); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, jail.Close(context.WithoutCancel(ctx))) }()
	for _, c := range s.commands {
		b.progress("line %d: %s", c.in.Line, c.title())
		for _, argv := range c.all() {
			cmd := c.asCommand(b, dir)
			cmd.Args = argv
			if err := jail.Exec(ctx, cmd); err != nil {
				return s.file.fault(c.in, err)
			}
		}
	}
	return s.stop(ctx, b, dir, jail)
}

// stop ends the services, the last first. One that does not end by itself, or has
// ended already, is killed with the jail.
func (s *servedStep) stop(ctx context.Context, b *work, dir string, jail Jail) error {
	for _, up := range slices.Backward(s.up) {
		b.progress("service %s stop", up.name)
		err := jail.Exec(ctx, up.with("stop").asCommand(b, dir))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			b.warn("service %s %sstop: %v: it is killed", up.name, up.prefix, err)
		}
	}
	return nil
}

// runDirs are where what runs has its files.
var runDirs = []string{"var/run", "run"}

// leftovers lists what only processes that run need: their numbers and sockets.
func leftovers(dir string) (out map[string]bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	out = map[string]bool{}
	for _, at := range runDirs {
		fi, err := root.Lstat(at)
		if err != nil || !fi.IsDir() {
			continue // none, or a link to the other
		}
		err = fs.WalkDir(root.FS(), at, func(name string, e fs.DirEntry, err error) error {
			if err == nil && (e.Type()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 ||
				e.Type().IsRegular() && path.Ext(name) == ".pid") {
				out[name] = true
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func removeLeftovers(dir string, before map[string]bool) error {
	after, err := leftovers(dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	var errs []error
	for name := range after {
		if !before[name] {
			errs = append(errs, root.Remove(name))
		}
	}
	return errors.Join(append(errs, root.Close())...)
}

// asCommand is what a Runner is asked for.
func (s *runStep) asCommand(b *work, dir string) Command {
	c := Command{Root: dir, Args: s.argv, Env: append(slices.Clip(s.env), s.proxies...), Dir: cmp.Or(s.dir, "/"),
		User: s.user, Login: s.login, Network: s.on(b), Params: s.params, Linux: b.config.OS == "linux",
		Output: b.opts.Log}
	if c.Output == nil {
		c.Output = io.Discard
	}
	return c
}

// all are a step's commands.
func (s *runStep) all() [][]string {
	if len(s.then) == 0 {
		return [][]string{s.argv}
	}
	return [][]string{s.argv, s.then}
}

func (p *planner) service(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	if len(list) < 2 {
		return errUsage
	}
	m := ofProcesses.FindStringSubmatch(list[1])
	if m == nil {
		return p.inJail(in, nil, append([]string{"service"}, list...), nil)
	}
	if len(list) > 2 {
		return fmt.Errorf("invalid argument %q: write %s", strings.Join(list[2:], " "), verbs["SERVICE"].usage)
	}
	s, err := p.jailStep(in, nil, []string{"service", list[0], list[1]})
	if err == nil {
		p.add(in, &serviceStep{s, list[0], m[1], m[2]})
	}
	return err
}
