package policy

// Sysctl asks for a value that the host's sysctl has to have. It is never set.
func Sysctl(name, value string) Privilege { return setting{"sysctl", "sysctl", name, value} }

func init() {
	register(kind{name: "sysctl", attribute: "sysctl", read: readPairs, pair: true,
		parse: func(name, value string) (Privilege, error) { return Sysctl(name, value), nil },
		rule: func(i item) (rule, error) {
			r, err := newSettingRule(i)
			return sysctlRule{r}, err
		},
		index: oneByOne(byPrefix)})
}

type sysctlRule struct{ settingRule }

// touches spares what is outside of a bound: as a sysctl is never set, no value
// of it is more than another.
func (r sysctlRule) touches(p Privilege) bool {
	s := p.(setting)
	under, over := r.outside(s)
	return r.name.near(s.name) && !under && !over
}
