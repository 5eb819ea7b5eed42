package policy

import "strconv"

// KindTrace is the kind of Trace.
const KindTrace Kind = "trace"

// operator is a user of the host who wants to trace a task. The number is -1 where it is not known.
type operator struct {
	user string
	uid  int
}

// Trace asks to see what a task's programs do, for a user of the host: its name, or its number where it has none.
func Trace(user string, uid int) Privilege { return operator{user, uid} }

func (operator) Kind() Kind               { return KindTrace }
func (o operator) String() string         { return "trace by " + o.user }
func (o operator) Key() string            { return "trace:" + o.user }
func (o operator) form() (string, string) { return "", o.user }
func (o operator) permit() string         { return "traces = [" + quoteHCL(escapeGlob(o.user)) + "]" }

// traceRule is a glob of users. A permit is by the name that a user has, a deny by the number too.
type traceRule struct{ pattern }

func (r traceRule) covers(p Privilege, _ *Subject) bool { return r.match(p.(operator).user) }

func (r traceRule) touches(p Privilege) bool {
	o := p.(operator)
	return r.anywhere(o.user) || o.uid >= 0 && r.anywhere(strconv.Itoa(o.uid))
}

func init() {
	register(kind{name: KindTrace, attribute: "traces", read: readList,
		parse: func(_, user string) (Privilege, error) { return operator{user, -1}, nil },
		rule: func(i item) (rule, error) {
			p, err := newPattern(i.value)
			return traceRule{p}, err
		}})
}
