package build

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// runFlags reads the options of RUN.
func (p *planner) runFlags(in Instruction, s *runStep) error {
	for _, f := range in.Flags {
		value, err := p.substitute(f.Value)
		if err != nil {
			return fmt.Errorf("--%s: %w", f.Name, err)
		}
		if in.ofBase && (f.Name == "allow" || f.Name == "sysvipc") {
			return fmt.Errorf("--%s=%s: an ONBUILD of the base has no privileges: write the RUN in the recipe", f.Name,
				value)
		}
		switch f.Name {
		case "network":
			if s.network, err = runNetwork(value); err != nil {
				return err
			}
		case "security":
			if value != "sandbox" {
				err = errors.New("not supported: a command has the privileges that a build policy permits: see --allow")
			}
		case "device":
			err = errors.New("not supported: a command sees the basic nodes of /dev")
		case "mount":
			err = p.mountFlag(s, value)
		case "allow":
			err = p.allowRun(s, value)
		case "sysvipc":
			err = s.sysvipc(value)
		}
		if err != nil {
			return fmt.Errorf("--%s=%s: %w", f.Name, value, err)
		}
	}
	if len(s.params) == 0 {
		return nil
	}
	if p.permit == nil {
		return errors.New("a command has no privileges unless a build policy permits them: give --policy FILE")
	}
	return p.permit(s.params)
}

// runNetwork is empty for that of the build.
func runNetwork(value string) (string, error) {
	switch value {
	case "default":
		return "", nil
	case NetworkHost, NetworkNone:
		return value, nil
	}
	return "", fmt.Errorf("--network=%s: there are default, %s and %s", value, NetworkHost, NetworkNone)
}

func (p *planner) secretFlag(s *runStep, value string) error {
	m, needed, err := p.readMount(value)
	if err == nil && p.in.ofBase {
		err = errors.New("an ONBUILD of the base has no secrets: write the RUN in the recipe")
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(s.secrets, func(o secretMount) bool { return o.Target == m.Target }) {
		return fmt.Errorf("%s has a secret already", m.Target)
	}
	if _, given := p.secrets[m.ID]; given {
		s.secrets = append(s.secrets, m)
	} else if needed {
		return fmt.Errorf("the secret %s is required: give --secret id=%s,src=FILE", m.ID, m.ID)
	}
	return nil
}

// allowRun asks for jail(8)'s allow parameters.
func (p *planner) allowRun(s *runStep, list string) error {
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimPrefix(name, "allow.")
		if !parameterName.MatchString(name) {
			return fmt.Errorf("%q is not a valid parameter name", name)
		}
		if err := p.mayAskFor("allow." + name); err != nil {
			return err
		}
		s.param("allow."+name, "true")
	}
	return nil
}

func (s *runStep) sysvipc(list string) error {
	for name := range strings.SplitSeq(list, ",") {
		if name != "shm" && name != "msg" && name != "sem" {
			return fmt.Errorf("invalid argument %q: want shm, msg or sem", name)
		}
		s.param("sysv"+name, "new")
	}
	return nil
}

func (s *runStep) param(name, value string) {
	if s.params == nil {
		s.params = map[string]string{}
	}
	s.params[name] = value
}
