package host

import (
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/policy"
)

// ruleIndex lets the policy compare devfs rules without knowing them.
type ruleIndex struct{ *devfs.Index }

// newRuleIndex is the policy.NewIndex of this host.
func newRuleIndex(texts []string) (policy.Index, error) {
	rules := make([]devfs.Rule, 0, len(texts))
	for _, text := range texts {
		r, err := devfs.ParseRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	x, err := devfs.NewIndex(rules)
	return ruleIndex{x}, err
}

func (x ruleIndex) Covering(requested string, use func(int) bool) ([]int, error) {
	r, err := devfs.ParseRule(requested)
	if err != nil {
		return nil, err
	}
	return x.Index.Covering(r, use)
}

func (x ruleIndex) Touching(requested string, use func(int) bool) (int, error) {
	r, err := devfs.ParseRule(requested)
	if err != nil {
		return -1, err
	}
	return x.Index.Touching(r, use)
}
