package policy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// serviceRule is "web", a name in Consul without tags; "web:v1,canary-*", with
// tags of which each is one of those; or "own", what the image or the job is
// called. Consul takes upper and lower case for the same, and so does it.
type serviceRule struct {
	name   pattern
	own    bool
	tags   []pattern
	tagged bool
}

func parseService(s string) (r serviceRule, err error) {
	name, tags, tagged := strings.Cut(strings.ToLower(s), ":")
	r.own, r.tagged = name == "own", tagged
	if name == "" || tagged && tags == "" {
		return r, fmt.Errorf("%q: want a name, own or *, then the tags that it may have: web:v1,canary-*", s)
	}
	if r.name, err = newPattern(name); err != nil || !tagged {
		return r, err
	}
	for _, t := range splitList(tags) {
		p, err := newPattern(t)
		if err != nil {
			return r, err
		}
		r.tags = append(r.tags, p)
	}
	return r, nil
}

// splitList splits at commas that no backslash is before.
func splitList(s string) (out []string) {
	begin := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case ',':
			out = append(out, s[begin:i])
			begin = i + 1
		}
	}
	return append(out, s[begin:])
}

var (
	tagEscapes   = strings.NewReplacer(`\`, `\\`, ",", `\,`)
	tagUnescapes = regexp.MustCompile(`(?s)\\(.)`)
)

// ServiceRequest asks for a name in Consul with tags, whose order does not
// matter.
func ServiceRequest(name string, tags []string, from Source) Request {
	r := Request{Kind: Service, Name: name, Source: from}
	for _, t := range slices.Compact(slices.Sorted(slices.Values(tags))) {
		if r.Value != "" {
			r.Value += ","
		}
		r.Value += tagEscapes.Replace(t)
	}
	return r
}

// tags are those of a request as they are.
func (r Request) tags() (out []string) {
	if r.Value == "" {
		return nil
	}
	for _, t := range splitList(r.Value) {
		out = append(out, tagUnescapes.ReplaceAllString(t, "$1"))
	}
	return out
}

// serviceText is the entry of a services list for a request.
func serviceText(r Request) string {
	text := escapeGlob(r.Name)
	for i, t := range r.tags() {
		text += map[bool]string{true: ":", false: ","}[i == 0] + strings.ReplaceAll(escapeGlob(t), ",", `\,`)
	}
	return text
}

// serviceAsk is a service that is asked for. One without a name is in nothing.
type serviceAsk struct {
	name string
	tags []string
	// What the image's repository and the job are called.
	repository, job string
}

func newServiceAsk(r Request, s Subject) serviceAsk {
	a := serviceAsk{name: strings.ToLower(r.Name), job: strings.ToLower(s.Job)}
	if s.Repository != "" {
		a.repository = strings.ToLower(path.Base(s.Repository))
	}
	for _, t := range r.tags() {
		a.tags = append(a.tags, strings.ToLower(t))
	}
	return a
}

func (r *serviceRule) covers(b *block, a *serviceAsk) bool {
	if a.name == "" || !r.own && !r.name.match(a.name) || r.own && !b.isOwn(a) {
		return false
	}
	return !slices.ContainsFunc(a.tags, func(t string) bool {
		return !slices.ContainsFunc(r.tags, func(p pattern) bool { return p.anywhere(t) })
	})
}

// isOwn tells whether a name is what the image or the job is called. Whoever
// starts a task chooses both, so each counts only where the operator says whose
// images, or whose jobs, a block is about.
func (b *block) isOwn(a *serviceAsk) bool {
	return a.name == a.repository && b.namesImages() || a.name == a.job && b.namesJobs()
}

func (b *block) namesImages() bool { return len(b.images)+len(b.signers) > 0 }

func (b *block) namesJobs() bool { return len(b.jobs)+len(b.namespaces) > 0 }

// touches is about a name with whatever tags, or with "*:tag" about the tag
// under whatever name.
func (r *serviceRule) touches(a *serviceAsk) bool {
	if a.name == "" || r.name.glob != "*" || !r.tagged {
		return a.name == "" || r.name.anywhere(a.name)
	}
	return slices.ContainsFunc(a.tags, func(t string) bool {
		return slices.ContainsFunc(r.tags, func(p pattern) bool { return p.anywhere(t) })
	})
}
