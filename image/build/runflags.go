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
		value, err := substitute(f.Value, p.lookup)
		if err != nil {
			return fmt.Errorf("--%s: %w", f.Name, err)
		}
		switch f.Name {
		case "network":
			if value != NetworkHost && value != NetworkNone {
				return fmt.Errorf("--network=%s: there are %s and %s", value, NetworkHost, NetworkNone)
			}
			s.network = value
		case "mount":
			err = p.secretFlag(s, value)
		case "allow":
			err = s.allow(value)
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

func (p *planner) secretFlag(s *runStep, value string) error {
	m, needed, err := p.readMount(value)
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

// allow asks for jail(8)'s allow parameters.
func (s *runStep) allow(list string) error {
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimPrefix(name, "allow.")
		if !parameterName.MatchString(name) {
			return fmt.Errorf("%q is not a valid parameter name", name)
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
