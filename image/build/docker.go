package build

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freejail/freejail/image"
)

// defaultShell reads what is not in the JSON form where no SHELL is set.
var defaultShell = []string{"/bin/sh", "-c"}

// shellForm is a command as the stage's shell reads it.
func (p *planner) shellForm(text string) []string {
	shell := p.stage.docker.Shell
	if len(shell) == 0 {
		shell = defaultShell
	}
	return append(slices.Clone(shell), text)
}

// script is a RUN that consists of a text.
func (p *planner) script(text string) []string {
	if p.in.container {
		return p.shellForm(text)
	}
	return []string{"/bin/sh", "-e", "-c", text}
}

func (p *planner) shell(in Instruction) error {
	if !isJSON(in.Text) {
		return fmt.Errorf(`not in the JSON form: write %s`, verbs["SHELL"].usage)
	}
	list, err := p.json(in.Text)
	if err == nil && len(list) == 0 {
		err = errUsage
	}
	p.stage.docker.Shell = list
	return err
}

func (p *planner) maintainer(in Instruction) (err error) {
	p.config.Author, err = p.lexer().word(in.Text)
	return errors.Join(err, fitsWord(len(p.config.Author)))
}

// expose keeps what docker keeps: which port of a host leads there is the
// job's. An image that describes itself has them as ports too.
func (p *planner) expose(in Instruction) error {
	list, err := p.words(in.Text)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return errUsage
	}
	if !in.container {
		p.warn(in, "PORT gives a port a name, a service and a check: write PORT http 80/tcp")
	}
	for _, word := range list {
		for one := range strings.FieldsSeq(word) { // of a variable
			if err := p.exposeRange(one); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *planner) exposeRange(text string) error {
	numbers, protocol, _ := strings.Cut(text, "/")
	protocol = strings.ToLower(cmp.Or(protocol, "tcp"))
	first, last, isRange := strings.Cut(numbers, "-")
	if !isRange {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	switch {
	case strings.Contains(text, ":"):
		return fmt.Errorf("%s: a port of the host is the job's: write %s", text, text[strings.LastIndex(text, ":")+1:])
	case err1 != nil || err2 != nil || a == 0 || b < a:
		return fmt.Errorf("%s: not a valid port (for example 80, 53/udp or 8000-8010)", text)
	case protocol != "tcp" && protocol != "udp" && protocol != "sctp":
		return fmt.Errorf("%s: the protocol %q is neither tcp, udp nor sctp", text, protocol)
	case int(b-a)+len(p.config.Config.ExposedPorts) >= maxRequests:
		return fmt.Errorf("%s: more than %d ports", text, maxRequests)
	}
	if p.config.Config.ExposedPorts == nil {
		p.config.Config.ExposedPorts = map[string]struct{}{}
	}
	for n := int(a); n <= int(b); n++ {
		p.config.Config.ExposedPorts[fmt.Sprintf("%d/%s", n, protocol)] = struct{}{}
		p.stage.exposed = append(p.stage.exposed, image.Port{Name: fmt.Sprintf("%s-%d", protocol, n), Port: n,
			Protocol: protocol})
	}
	return nil
}

// describeExposed makes ports of what EXPOSE says where the image describes
// itself: a host that reads a description asks nothing else.
func (p *planner) describeExposed() {
	list := p.stage.exposed
	if p.file.container { // the base's too, which may describe nothing
		list, _ = image.Exposed(p.config.Config.ExposedPorts)
	}
	for _, e := range list {
		e.Name = fmt.Sprintf("%s-%d", e.Protocol, e.Port) // there a name begins with a letter
		same := func(o image.Port) bool { return o.Port == e.Port && o.Protocol == e.Protocol }
		if e.Protocol != "sctp" && !slices.ContainsFunc(p.manifest.Ports, same) {
			p.addPort(e)
		}
	}
}

var healthFlags = []string{"interval", "timeout", "start-period", "start-interval", "retries"}

// healthcheck is kept in the config, where docker looks for it.
func (p *planner) healthcheck(in Instruction) (err error) {
	kind, text := cutBlank(in.Text)
	h := &image.Healthcheck{}
	for _, f := range in.Flags {
		if err := p.healthFlag(h, f); err != nil {
			return err
		}
	}
	switch {
	case strings.EqualFold(kind, "NONE") && text == "" && len(in.Flags) == 0:
		p.stage.docker.Healthcheck = &image.Healthcheck{Test: []string{"NONE"}}
		return nil
	case !strings.EqualFold(kind, "CMD") || text == "":
		return errUsage
	case p.isJSON(text):
		list, err := p.json(text)
		if err != nil {
			return err
		}
		h.Test = append([]string{"CMD"}, list...)
	default:
		h.Test = []string{"CMD-SHELL", text}
	}
	p.stage.docker.Healthcheck = h
	p.warn(in, "it is kept in the image, and no host of freejail runs it: %s", p.checkInstead(text))
	return nil
}

func (p *planner) healthFlag(h *image.Healthcheck, f Flag) error {
	value, err := p.substitute(f.Value)
	if err != nil {
		return fmt.Errorf("--%s: %w", f.Name, err)
	}
	if f.Name == "retries" {
		if h.Retries, err = strconv.Atoi(value); err != nil || h.Retries < 0 {
			return fmt.Errorf("--retries=%s: not a valid number", value)
		}
		return nil
	}
	to := map[string]*time.Duration{"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod,
		"start-interval": &h.StartInterval}[f.Name]
	if *to, err = time.ParseDuration(value); err != nil || *to != 0 && *to < time.Millisecond {
		return fmt.Errorf("--%s=%s: not a valid duration (for example 30s)", f.Name, value)
	}
	return nil
}

var asksHTTP = regexp.MustCompile(`https?://(?:localhost|127\.0\.0\.1|\[::1\])(?::([0-9]+))?(/[^\s"'|;&,\]]*)?`)

// checkInstead says what Consul or Nomad can do in the place of a HEALTHCHECK.
func (p *planner) checkInstead(text string) string {
	l := p.lexer()
	l.unset = nil // a shell knows more of them
	if known, err := l.substitute(text); err == nil {
		text = known
	}
	m := asksHTTP.FindStringSubmatch(text)
	if m == nil {
		return "write a check in the service block of the job, or PORT NAME NUMBER check=tcp"
	}
	return fmt.Sprintf("write PORT http %s check=http:%s, or a check in the service block of the job",
		cmp.Or(m[1], "80"), cmp.Or(m[2], "/"))
}

// onbuild keeps an instruction for builds on this image.
func (p *planner) onbuild(in Instruction) error {
	trigger, err := parseTrigger(in.Text, in.escape)
	if err != nil {
		return err
	}
	if err := mayTrigger(trigger); err != nil {
		return err
	}
	if len(p.stage.docker.OnBuild) >= maxTriggers {
		return fmt.Errorf("more than %d of them", maxTriggers)
	}
	p.stage.docker.OnBuild = append(slices.Clip(p.stage.docker.OnBuild), in.Text)
	return nil
}

// mayTrigger refuses what ONBUILD cannot have. Whoever made the base wrote it, and
// whoever builds on it does not see it in the recipe: it describes no image to a host,
// takes nothing of the building host but the context, and has no secret or privilege
// (see origin and runFlags).
func mayTrigger(in Instruction) error {
	switch {
	case in.Verb == "ONBUILD" || in.Verb == "FROM" || in.Verb == "MAINTAINER":
		return fmt.Errorf("%s is not supported in ONBUILD", in.Verb)
	case !ofDocker(in.Verb):
		return fmt.Errorf("%s is not supported in ONBUILD: write it in the recipe that builds on the image", in.Verb)
	}
	return nil
}

// parseTrigger reads an instruction that stands alone.
func parseTrigger(text string, escape byte) (in Instruction, err error) {
	if escape == '`' {
		text = "# escape=`\n" + text
	}
	f, err := ParseContainerfile("ONBUILD", strings.NewReader(text))
	if err != nil {
		return in, err
	}
	if len(f.Instructions) != 1 {
		return in, errors.New("want one instruction")
	}
	return f.Instructions[0], nil
}

// triggers puts what a base's ONBUILD says before the stage's instructions.
func (p *planner) triggers(onbuild []string) error {
	if len(onbuild) > maxTriggers {
		return fmt.Errorf("the base has more than %d ONBUILD", maxTriggers)
	}
	var list []Instruction
	for _, text := range onbuild {
		in, err := parseTrigger(text, 0)
		if err == nil {
			err = errors.Join(mayTrigger(in), p.sparesStages(in))
		}
		if err != nil {
			return fmt.Errorf("ONBUILD %.100s of the base: %w", text, err)
		}
		in.Line, in.file, in.ofBase = p.stage.from.Line, p.stage.from.file, p.stage.parent == nil
		if in.ofBase {
			p.warn(p.stage.from, "ONBUILD of the base: %.1000s", in)
		}
		list = append(list, in)
	}
	p.stage.body = append(list, p.stage.body...)
	return nil
}

// sparesStages refuses a trigger that needs a stage which would not be built.
func (p *planner) sparesStages(in Instruction) error {
	for _, f := range in.Flags {
		s := p.stageOfMount(p.stage, f.Value)
		if f.Name == "from" {
			s = p.stageBefore(p.stage, f.Value)
		}
		if s != nil && !slices.Contains(p.needed, s) {
			return fmt.Errorf("it copies from the stage %s, which nothing else needs: not supported", s.title())
		}
	}
	return nil
}

// command reads ENTRYPOINT and CMD. In a Containerfile the shell reads what is not
// in the JSON form; in a Jailfile no shell stands between the image and its
// program, so what only a shell understands is refused.
func (p *planner) command(in Instruction) ([]string, error) {
	if p.isJSON(in.Text) {
		return p.json(in.Text)
	}
	if in.container {
		return p.shellForm(in.Text), nil
	}
	list, operator, err := p.lexer().split(in.Text)
	if err == nil {
		err = p.chargeWords(list)
	}
	if err == nil && operator != 0 {
		var example strings.Builder
		enc := json.NewEncoder(&example)
		enc.SetEscapeHTML(false)
		jerr := enc.Encode([]string{"/bin/sh", "-c", in.Text})
		err = errors.Join(fmt.Errorf("%q needs a shell and none is used: write %s %s, or quote it", operator, in.Verb,
			strings.TrimSpace(example.String())), jerr)
	}
	return list, err
}
