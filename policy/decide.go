package policy

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/freejail/freejail/internal/imagename"
)

// names are those of a subject's image. What denies or requires is about an image
// by whichever of them; what permits by the one that it has.
func (s Subject) names(byAny bool) []string {
	if byAny {
		out := append(imagename.Aliases(s.Image), imagename.Aliases(s.Repository)...)
		for _, name := range s.Also {
			out = append(append(out, imagename.Aliases(name)...), imagename.Aliases(imagename.Repository(name))...)
		}
		return out
	}
	return []string{imagename.Canonical(s.Image), imagename.Canonical(s.Repository)}
}

// isAbout tells whether a block is about a subject. A block that names none is
// about all. Signers must be verified ones.
func (b *block) isAbout(s Subject, names []string) bool {
	one := func(list []string, f func(glob string) bool) bool {
		return len(list) == 0 || slices.ContainsFunc(list, f)
	}
	return one(b.digests, func(d string) bool { return d == s.Digest }) &&
		one(b.images, func(g string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return imageGlob(g, name) })
		}) &&
		one(b.signers, func(g string) bool {
			return slices.ContainsFunc(s.Signers, func(name string) bool { return glob(g, name) })
		}) &&
		one(b.namespaces, func(g string) bool { return s.Namespace != "" && glob(g, s.Namespace) }) &&
		one(b.jobs, func(g string) bool { return s.Job != "" && glob(g, s.Job) })
}

// glob is path.Match; patterns were checked when they were read.
func glob(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return err == nil && ok
}

// MatchImage tells whether a pattern of a block's images fits a name. Both may be written as users do.
func MatchImage(pattern, name string) bool {
	return imageGlob(imagename.Canonical(pattern), imagename.Canonical(name))
}

// imageGlob takes /** at the end for everything below.
func imageGlob(pattern, name string) bool {
	if above, deep := strings.CutSuffix(pattern, "/**"); deep {
		n := strings.Count(above, "/") + 1
		parts := strings.Split(name, "/")
		return len(parts) > n && glob(above, strings.Join(parts[:n], "/"))
	}
	return glob(pattern, name)
}

// scope tells which blocks of a table are about a subject.
type scope map[*block]bool

func (t *table) scope(s Subject, byAnyName bool) scope {
	out, names := scope{}, s.names(byAnyName)
	for _, b := range t.blocks {
		if b.isAbout(s, names) {
			out[b] = true
		}
	}
	return out
}

// readable are the rules of a request's kind; nil for what cannot be read, which
// no permit covers.
func (t *table) readable(r Request) *ruling {
	if _, odd := r.Privilege.(unread); odd {
		return nil
	}
	return t.of[r.Kind()]
}

// about tells whether an entry is in scope for a request of a source.
func (e *entry) about(in scope, from Source) bool {
	return in[e.block] && (len(e.block.froms) == 0 || slices.Contains(e.block.froms, string(from)))
}

// judge is a policy before one task.
type judge struct {
	*Policy
	subject       *Subject
	allow, refuse scope
	host          Chain
	approvals     map[identity][]Approval
	sums          map[*entry]int64
}

// Decide judges requests: a deny wins over everything, then a permit or an
// approval of this digest is needed. It judges all requests of a task at once,
// as some permits bound their sum.
func (p *Policy) Decide(s Subject, reqs []Request, approvals []Approval) Decision {
	d := Decision{Allowed: true, Results: make([]Result, 0, len(reqs))}
	j := judge{Policy: p, subject: &s, allow: p.permits.scope(s, false), refuse: p.denies.scope(s, true),
		host: p.chain.once(), approvals: inForce(approvals, s.Digest)}
	j.sums = p.permits.sums(&s, reqs, j.allow)
	for _, a := range p.approvers {
		maps.Copy(j.sums, a.may.sums(&s, reqs, a.may.scope(s, false)))
	}
	for _, r := range reqs {
		res := j.decide(r)
		if !res.Allowed && !res.Denied {
			res.Permit = permitBlock(s, r)
		}
		d.add(res)
	}
	for _, q := range p.requires {
		if q.block.isAbout(s, s.names(true)) {
			d.add(q.decide(&j))
		}
	}
	d.Givers = j.givers(d.Results)
	return d
}

// givers are the approvers who may give all that is refused, as far as it could be approved; none where nothing is.
func (j *judge) givers(results []Result) (names []string) {
	var refused []Request
	for _, r := range results {
		if !r.Allowed && !r.Denied {
			refused = append(refused, r.Request)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(j.approvers)) {
		may := func(r Request) bool { return j.mayGive(Approval{Approver: name}, r) == nil }
		if len(refused) > 0 && !slices.ContainsFunc(refused, func(r Request) bool { return !may(r) }) {
			names = append(names, name)
		}
	}
	return names
}

func (d *Decision) add(r Result) {
	d.Allowed = d.Allowed && r.Allowed
	d.Results = append(d.Results, r)
}

// Denies tells whether anything of a kind is denied to a subject.
func (p *Policy) Denies(s Subject, kind Kind) bool {
	rules, in := p.denies.of[kind], p.denies.scope(s, true)
	return rules != nil && slices.ContainsFunc(rules.entries, func(e entry) bool { return in[e.block] })
}

func (j *judge) decide(r Request) Result {
	res := Result{Request: r}
	if where, err := j.touching(r); err != nil {
		res.Reason, res.Denied = fmt.Sprintf("the host's denies cannot be compared: %v", err), true
		return res
	} else if where != "" {
		res.Reason, res.Denied = "denied at "+where, true
		return res
	}
	where, err := j.covering(&j.permits, j.allow, r)
	if where != "" {
		res.Allowed, res.Reason = true, "permitted at "+where
		return res
	}
	why, by := j.approved(r)
	if by != nil {
		res.Allowed, res.Reason, res.Approval = true, why, by
		return res
	}
	res.Reason = "no permit covers it"
	if err != nil {
		res.Reason = err.Error()
	}
	if why != "" {
		res.Reason += "; " + why
	}
	return res
}

// covering is where a table's blocks are, of those in scope, that cover a request. An
// error says why one does not that would otherwise.
func (j *judge) covering(t *table, in scope, r Request) (where string, err error) {
	rules := t.readable(r)
	if rules == nil {
		return "", nil
	}
	var over error
	by, err := rules.covering(r.Privilege, j.subject, func(i int) bool {
		e := &rules.entries[i]
		if !e.about(in, r.Source) {
			return false
		}
		if err := j.within(e); err != nil {
			over = err
			return false
		}
		return true
	})
	for n, i := range by {
		if n > 0 {
			where += " and "
		}
		where += rules.entries[i].where
	}
	return where, errors.Join(err, over)
}

// touching is where a deny is that is about some of a request, or of what cannot
// be read any deny of its kind.
func (j *judge) touching(r Request) (string, error) {
	if more, is := r.Privilege.(including); is {
		where, err := j.touching(Request{more.includes(), r.Source})
		if where != "" || err != nil {
			return where, err
		}
	}
	rules := j.denies.of[r.Kind()]
	if rules == nil {
		return "", nil
	}
	use := func(i int) bool { return rules.entries[i].about(j.refuse, r.Source) }
	if _, odd := r.Privilege.(unread); odd {
		for i := range rules.entries {
			if use(i) {
				return rules.entries[i].where, nil
			}
		}
		return "", nil
	}
	i, err := rules.touching(r.Privilege, j.host, use)
	if err != nil || i < 0 {
		return "", err
	}
	return rules.entries[i].where, nil
}

// sums adds up, for each line of a permit that bounds a sum, all that it would
// permit to one task. What is over the bound by itself the line never permits.
func (t *table) sums(s *Subject, reqs []Request, in scope) map[*entry]int64 {
	out := map[*entry]int64{}
	for _, r := range reqs {
		rules := t.readable(r)
		if rules == nil || !rules.summed {
			continue
		}
		// An error comes again where the request is decided about.
		_, _ = rules.covering(r.Privilege, s, func(i int) bool {
			e := &rules.entries[i]
			if b, is := e.rule.(summed); is && b.limited() && e.about(in, r.Source) {
				out[e] = b.add(out[e], r.Privilege)
			}
			return false
		})
	}
	return out
}

// within tells whether all that a line permits to this task is within its bound.
func (j *judge) within(e *entry) error {
	sum, bounded := j.sums[e]
	if !bounded {
		return nil
	}
	if err := e.rule.(summed).within(sum); err != nil {
		return fmt.Errorf("%s %w", e.where, err)
	}
	return nil
}

// inForce are the approvals of a digest that have not expired, by their requests.
func inForce(approvals []Approval, digest string) map[identity][]Approval {
	out := map[identity][]Approval{}
	now := time.Now()
	for _, a := range approvals {
		if a.Digest != digest || a.Expired(now) {
			continue
		}
		for _, r := range a.Requests {
			out[r.identity()] = append(out[r.identity()], a)
		}
	}
	return out
}

func day(t time.Time) string { return t.Format(time.DateOnly) }
