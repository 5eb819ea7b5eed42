package build

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/freejail/freejail/image"
)

// devfs keeps the rule's text: quotes are part of devfs(8)'s language. The host
// reads it again; this finds the author's slips at once.
func (p *planner) devfs(in Instruction) error {
	text, err := substitute(in.Text, p.lookup)
	if err != nil {
		return err
	}
	list, err := words(text, func(string) (string, error) {
		return "", errors.New("variables are not supported in a rule")
	})
	if err != nil {
		return err
	}
	if err := checkRule(list); err != nil {
		return err
	}
	if !slices.Contains(p.manifest.Requires.Devfs, text) {
		p.manifest.Requires.Devfs = append(slices.Clip(p.manifest.Requires.Devfs), text)
	}
	return nil
}

func checkRule(list []string) error {
	acts := false
	for i := 0; i < len(list); i++ {
		word := list[i]
		switch word {
		case "hide", "unhide":
			acts = true
			continue
		case "path", "type", "user", "group", "mode":
		case "include":
			return errors.New("include is not for images: write the rules themselves")
		default:
			return fmt.Errorf("unknown keyword %q: want path GLOB, type disk|mem|tape|tty, hide, unhide, user UID, "+
				"group GID, mode MODE", word)
		}
		if i++; i == len(list) {
			return fmt.Errorf("missing value after %q", word)
		}
		acts = acts || word == "user" || word == "group" || word == "mode"
		if err := checkOperand(word, list[i]); err != nil {
			return err
		}
	}
	if !acts {
		return errors.New("the rule does nothing: add unhide, hide, user, group or mode")
	}
	return nil
}

func checkOperand(word, operand string) error {
	var err error
	switch word {
	case "type":
		if !slices.Contains([]string{"disk", "mem", "tape", "tty"}, operand) {
			return fmt.Errorf("type %s: there are disk, mem, tape and tty", operand)
		}
	case "user", "group":
		if _, err = strconv.ParseUint(operand, 10, 32); err != nil {
			return fmt.Errorf("%s %s: write a number: an image cannot know the host's names", word, operand)
		}
	case "mode":
		if _, err = strconv.ParseUint(operand, 8, 12); err != nil {
			return fmt.Errorf("mode %s: want an octal mode such as 660", operand)
		}
	}
	return nil
}

func (p *planner) sysvipc(in Instruction) error {
	_, opts, err := p.head(in, 0, []string{"shm", "msg", "sem"}, nil)
	if err != nil {
		return err
	}
	s := &p.manifest.Requires.SysVIPC
	for key, field := range map[string]*string{"shm": &s.Shm, "msg": &s.Msg, "sem": &s.Sem} {
		if v, ok := opts[key]; ok {
			*field = v
		}
	}
	return nil
}

func (p *planner) allow(in Instruction) error {
	list, err := words(in.Text, p.lookup)
	for _, name := range list {
		name = strings.TrimPrefix(name, "allow.")
		err = errors.Join(err, p.mayAskFor("allow."+name))
		if !slices.Contains(p.manifest.Requires.Allow, name) {
			p.manifest.Requires.Allow = append(slices.Clip(p.manifest.Requires.Allow), name)
		}
	}
	return err
}

// mayAskFor refuses a jail parameter that no kernel is known to have, most often as it is
// misspelt.
func (p *planner) mayAskFor(name string) error {
	err := image.CheckJailParameter(name)
	name = strings.TrimPrefix(name, "allow.")
	if err == nil || !parameterName.MatchString(name) || slices.Contains(p.accepted, name) {
		return nil
	}
	return fmt.Errorf("%w; if a newer kernel or a module has it: --unknown-parameter %s", err, name)
}

// ownVerb is the instruction that is for a jail parameter; empty: there is
// none, freejail sets it itself.
var ownVerb = map[string]string{
	"sysvshm": "SYSVIPC", "sysvmsg": "SYSVIPC", "sysvsem": "SYSVIPC", "vnet": "VNET", "devfs_ruleset": "DEVFS",
	"mount": "MOUNT",
	"path":  "", "name": "", "jid": "", "persist": "", "host.hostname": "", "meta": "", "command": "", "parent": "",
}

func (p *planner) jail(in Instruction) error {
	list, err := p.pairs(in)
	if err != nil {
		return err
	}
	m := cloned(p.manifest.Requires.Jail)
	for _, kv := range list {
		own, taken := ownVerb[kv[0]]
		switch {
		case strings.HasPrefix(kv[0], "allow."):
			return fmt.Errorf("%s: write ALLOW %s", kv[0], strings.TrimPrefix(kv[0], "allow."))
		case taken && own != "":
			return fmt.Errorf("%s: use %s", kv[0], own)
		case taken:
			return fmt.Errorf("%s is set by freejail itself", kv[0])
		}
		if err := p.mayAskFor(kv[0]); err != nil {
			return err
		}
		m[kv[0]] = kv[1]
	}
	p.manifest.Requires.Jail = m
	return nil
}

func (p *planner) sysctl(in Instruction) error {
	list, err := p.pairs(in)
	if err != nil {
		return err
	}
	m := cloned(p.manifest.Requires.Sysctl)
	for _, kv := range list {
		m[kv[0]] = kv[1]
	}
	p.manifest.Requires.Sysctl = m
	return nil
}

func cloned(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}

func (p *planner) mount(in Instruction) error {
	list, err := p.shellWords(in)
	if err == nil && len(list) < 2 {
		err = errUsage
	}
	if err != nil {
		return err
	}
	if in.recipe || strings.HasPrefix(list[0], "/") {
		return p.fstab(in, list)
	}
	m := image.MountRequest{Type: list[0], Target: list[1], Options: list[2:]}
	p.manifest.Requires.Mounts = replace(p.manifest.Requires.Mounts, m,
		func(o image.MountRequest) bool { return o.Target == m.Target })
	return nil
}

func (p *planner) osVersion(in Instruction) (err error) {
	p.manifest.Requires.OSVersion.Min, err = p.one(in)
	return err
}

func (p *planner) wait(in Instruction) (err error) {
	p.manifest.Wait, err = p.one(in)
	return err
}

func (p *planner) vnet(in Instruction) error {
	p.manifest.Requires.VNET = true
	return alone(in)
}

func (p *planner) linux(in Instruction) error {
	p.manifest.Requires.Linux = true
	return alone(in)
}

func alone(in Instruction) error {
	if in.Text != "" {
		return fmt.Errorf("it stands alone: remove %q", in.Text)
	}
	return nil
}
