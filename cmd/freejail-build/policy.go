package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/freejail/freejail/policy"
)

// noRules is the policy's knowledge of devfs rules: a command cannot ask for any.
type noRules struct{}

func (noRules) Covering(string, func(int) bool) ([]int, error) { return nil, nil }
func (noRules) Touching(string, func(int) bool) (int, error)   { return -1, nil }

// permits reads a policy file, and gives the decision about what a RUN asks for.
func permits(file string) (func(params map[string]string) error, error) {
	if file == "" {
		return nil, nil
	}
	p, err := policy.Load(file, func([]string) (policy.Index, error) { return noRules{}, nil })
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	return func(params map[string]string) error {
		var asked []policy.Request
		for _, name := range slices.Sorted(maps.Keys(params)) {
			r := policy.Request{Kind: policy.Allow, Name: name, Value: params[name], Source: policy.FromImage}
			if ipc, ok := strings.CutPrefix(name, "sysv"); ok {
				r.Kind, r.Name = policy.SysVIPC, ipc
			}
			asked = append(asked, r)
		}
		var refused []error
		for _, r := range p.Decide(policy.Subject{}, asked, nil).Results {
			if !r.Allowed {
				refused = append(refused, fmt.Errorf("%s: the build policy %s refuses it: %s", r.Request, file, r.Reason))
			}
		}
		return errors.Join(refused...)
	}, nil
}
