package policy

import (
	"fmt"
	"strings"
)

// Jail asks for a parameter of a jail; see jail(8).
func Jail(name, value string) Privilege { return setting{"jail", "jail parameter", name, value} }

func init() {
	register(kind{name: "jail", attribute: "jail", read: readPairs, pair: true, rule: newJailRule,
		parse: func(name, value string) (Privilege, error) { return Jail(name, value), nil },
		index: oneByOne(byPrefix)})
}

type jailRule struct{ settingRule }

// elsewhere are jail parameters that are asked for in words of their own.
var elsewhere = map[string]string{"allow": "allow", "vnet": "vnet",
	"sysvshm": "sysvipc", "sysvmsg": "sysvipc", "sysvsem": "sysvipc"}

func newJailRule(i item) (rule, error) {
	top, _, _ := strings.Cut(i.key, ".")
	if word := elsewhere[top]; word != "" {
		return nil, fmt.Errorf("%q is requested by %s: write it there", i.key, word)
	}
	r, err := newSettingRule(i)
	return jailRule{r}, err
}

func (r jailRule) touches(p Privilege) bool {
	s := p.(setting)
	return r.name.near(positive(s.name)) || r.name.near(s.name) && !r.spares(s)
}

// gives tells in which direction a jail parameter gives more: upwards or
// downwards; see jail(8).
var gives = map[string]int{"children.max": +1, "securelevel": -1, "enforce_statfs": -1}

// spares tells that the value is outside of the bound of a deny, on the side that
// gives less. Of a parameter that is not known, neither side of a range does.
func (r jailRule) spares(s setting) bool {
	under, over := r.outside(s)
	if up, known := gives[s.name]; known {
		return up > 0 && under || up < 0 && over
	}
	return (r.value.low == nil || r.value.high == nil) && (under || over)
}
