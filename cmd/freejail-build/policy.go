package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/policy"
)

// permits reads a policy file, and gives the decision about what a RUN asks for.
func permits(file string) (func(params map[string]string) error, error) {
	if file == "" {
		return nil, nil
	}
	p, err := policy.Load(file, policy.DevicesBy(devfs.ParseRule, devfs.NewIndex))
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	return func(params map[string]string) error {
		var asked []policy.Request
		for _, name := range slices.Sorted(maps.Keys(params)) {
			what := policy.Allow(name)
			if ipc, ok := strings.CutPrefix(name, "sysv"); ok {
				what = policy.SysVIPC(ipc, params[name])
			}
			asked = append(asked, policy.Request{Privilege: what, Source: policy.FromImage})
		}
		var refused []error
		for _, r := range p.Decide(policy.Subject{}, asked, nil).Results {
			if !r.Allowed {
				refused = append(refused, fmt.Errorf("%s: the build policy %s refuses it: %s", r.Request, file,
					r.Reason))
			}
		}
		return errors.Join(refused...)
	}, nil
}
