package build

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/freejail/freejail/image"
)

// shellWords reads the arguments of the instructions that Bastille has too.
// Bastille lets the host's shell read them. Here no shell does: what only one
// understands is an error.
func (p *planner) shellWords(in Instruction) ([]string, error) {
	text := in.Text
	if found := ofJails.FindString(text); in.recipe && found != "" {
		return nil, fmt.Errorf("%s is not known before a jail starts", found)
	}
	if in.recipe {
		if i := comment.FindStringIndex(text); i != nil {
			text = text[:i[0]]
		}
		text = strings.TrimRight(text, "; \t")
	}
	list, operator, err := split(text, p.lookup)
	if err == nil {
		err = p.chargeWords(list)
	}
	if err != nil {
		return nil, err
	}
	if operator != 0 {
		return nil, fmt.Errorf("%q is for a shell of the host, and none evaluates this line: quote it, or do it in "+
			"the jail", operator)
	}
	if len(list) == 0 {
		return nil, errUsage
	}
	return list, nil
}

// comment is what a shell would pass over at the end of a line.
var comment = regexp.MustCompile(`(^|[ \t;])#[^'"]*$`)

// argWords are the words of ARG: in a Bastillefile the line has one.
func (p *planner) argWords(in Instruction) ([]string, error) {
	if !in.recipe {
		return p.words(in.Text)
	}
	list, err := p.shellWords(in)
	if err != nil {
		return nil, err
	}
	return []string{strings.Join(list, " ")}, nil
}

// braced is how a Bastillefile writes an argument.
var braced = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}`)

// recipeCommand is CMD of a Bastillefile: ${NAME} of an ARG is replaced, and the
// rest is for the shell in the jail.
func (p *planner) recipeCommand(text string) (string, error) {
	if found := ofJails.FindString(text); found != "" {
		return "", fmt.Errorf("%s is not known before a jail starts", found)
	}
	var err error
	out := braced.ReplaceAllStringFunc(text, func(s string) string {
		v := p.args[s[2:len(s)-1]]
		if v == nil || err != nil {
			return s
		}
		err = p.charge(len(*v))
		return *v
	})
	return out, errors.Join(err, fitsWord(len(out)))
}

// runsServices makes a Bastillefile's image do what Bastille's jails do: it runs
// /etc/rc, and lasts as long as what that has started.
func (p *planner) runsServices() {
	p.config.Config.Entrypoint, p.config.Config.Cmd = []string{"/bin/sh", "/etc/rc"}, nil
	p.config.Config.User, p.config.Config.WorkingDir = "", ""
	p.manifest.Wait = "all"
}

func (p *planner) warn(in Instruction, format string, a ...any) {
	p.warnings = append(p.warnings, p.file.fault(in, fmt.Errorf(format, a...)))
}

// inJail plans a command of root in the image, outside of any WORKDIR.
func (p *planner) inJail(in Instruction, env []string, argv, then []string) error {
	all, err := p.runEnv()
	if err == nil {
		p.add(in, &runStep{argv: argv, then: then, env: append(all, env...), dir: "/", user: "root"})
	}
	return err
}

// pkg installs packages by the image's own pkg(8), and leaves no downloads.
func (p *planner) pkg(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	return p.inJail(in, []string{"ASSUME_ALWAYS_YES=yes"}, append([]string{"pkg", "install", "-y"}, list...),
		[]string{"pkg", "clean", "-a", "-y", "-q"})
}

func (p *planner) sysrc(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	return p.inJail(in, nil, append([]string{"sysrc"}, list...), nil)
}

// ofProcesses are the commands of service(8) that need a jail that runs.
var ofProcesses = regexp.MustCompile(`^(one|force|fast|quiet)?(start|stop|restart|reload|status|poll)$`)

func (p *planner) service(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	if len(list) < 2 {
		return errUsage
	}
	if ofProcesses.MatchString(list[1]) {
		p.warn(in, "nothing runs while an image is built, so this is left out: a service that is enabled starts with "+
			"the jail")
		return nil
	}
	return p.inJail(in, nil, append([]string{"service"}, list...), nil)
}

// cp copies as cp(1) does: a directory itself, and with a final slash what is in
// it. Owners and modes are those of COPY.
func (p *planner) cp(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	if len(list) < 2 {
		return errUsage
	}
	n := len(list) - 1
	dest := path.Join("/", list[n])
	if n > 1 || strings.HasSuffix(list[n], "/") && dest != "/" {
		dest += "/"
	}
	return p.copyWhole(in, list[:n], dest)
}

func (p *planner) overlay(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	return p.copyWhole(in, list, "/")
}

func (p *planner) copyWhole(in Instruction, list []string, dest string) error {
	for _, src := range list {
		if path.IsAbs(src) {
			return fmt.Errorf("%s is a file of the host: sources are relative to the recipe: write %s", src,
				strings.TrimLeft(src, "/"))
		}
		s := &copyStep{sources: []string{path.Join(escapeGlob(in.dir), src)}, dest: dest,
			whole: !strings.HasSuffix(src, "/")}
		p.add(in, s)
	}
	return nil
}

func (p *planner) limits(in Instruction) error {
	return errors.New("limits are not an image's: set them in the job, as resources { cpu = 500, memory = 1024 }, " +
		"and remove this line")
}

// fstab is MOUNT as in fstab(5). What Bastille mounts of the host is a volume
// here, for jobs to fill.
func (p *planner) fstab(list []string) error {
	if len(list) < 3 {
		return fmt.Errorf("want `/host/path jail/path nullfs ro 0 0`, or `%s`", verbs["MOUNT"].usage)
	}
	target, kind, how := path.Join("/", list[1]), list[2], ""
	if len(list) > 3 {
		how = list[3]
	}
	flags := strings.Split(how, ",")
	if kind != "nullfs" {
		m := image.MountRequest{Type: kind, Target: target}
		for _, f := range flags {
			if f != "" && f != "rw" {
				m.Options = append(m.Options, f)
			}
		}
		p.manifest.Requires.Mounts = replace(p.manifest.Requires.Mounts, m,
			func(o image.MountRequest) bool { return o.Target == m.Target })
		return nil
	}
	for _, f := range flags {
		if f != "" && f != "ro" && f != "rw" {
			return fmt.Errorf("the option %q is not for a volume: there are ro and rw", f)
		}
	}
	v := image.Volume{Name: volumeName(path.Base(target)), Path: target, ReadOnly: slices.Contains(flags, "ro"),
		Description: list[0] + " of the host, in its recipe"}
	taken := func(o image.Volume) bool { return o.Name == v.Name && o.Path != v.Path }
	if slices.ContainsFunc(p.manifest.Volumes, taken) {
		v.Name = volumeName(target)
	}
	p.addVolume(v)
	return nil
}

var noName = regexp.MustCompile(`[^a-z0-9_-]+`)

func volumeName(p string) string {
	name := strings.Trim(noName.ReplaceAllString(strings.ToLower(p), "-"), "-")
	if name == "" || name[0] < 'a' || name[0] > 'z' {
		name = "v" + name
	}
	return name[:min(len(name), 63)]
}

// rdr declares the port of the jail: which one of the host leads to it is the
// job's.
func (p *planner) rdr(in Instruction) error {
	list, err := p.shellWords(in)
	if err != nil {
		return err
	}
	if len(list) != 3 || list[0] != "tcp" && list[0] != "udp" {
		return fmt.Errorf("invalid argument %q: write %s", in.Text, verbs["RDR"].usage)
	}
	number, err := strconv.Atoi(list[2])
	if err != nil {
		return fmt.Errorf("%q is not a valid port", list[2])
	}
	p.addPort(image.Port{Name: list[0] + "-" + list[2], Port: number, Protocol: list[0]})
	return nil
}

func (p *planner) tags(in Instruction) error {
	list, err := p.shellWords(in)
	if err == nil {
		p.setLabel("tags", strings.Join(list, ","))
	}
	return err
}
