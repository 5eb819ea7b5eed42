package policy

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Service asks for a name in Consul with tags, in their order, each once.
type Service struct {
	Name string
	tags []string
}

// NewService is a name with tags, whose order does not matter.
func NewService(name string, tags []string) Service {
	return Service{name, slices.Compact(slices.Sorted(slices.Values(tags)))}
}

func init() {
	register(kind{name: "service", attribute: "services", read: readList, index: oneByOne(byPrefix),
		rule:  func(i item) (rule, error) { return parseServiceRule(i.value) },
		parse: func(name, value string) (Privilege, error) { return parseService(name, value), nil },
		parseKey: func(what string) (Privilege, error) {
			name, tags, _ := strings.Cut(what, ":")
			if name == "" {
				return nil, fmt.Errorf("want service:NAME, or service:NAME:TAG,TAG")
			}
			return parseService(name, tags), nil
		},
		asserted: func(i item) (Privilege, error) {
			r, err := parseServiceRule(i.value)
			if err == nil && r.own {
				err = fmt.Errorf("%q: an assertion must name the service", i.value)
			}
			name, tags, _ := strings.Cut(i.value, ":")
			return parseService(name, tags), err
		}})
}

// parseService reads tags with commas between them, of which those in a tag have a
// backslash before them.
func parseService(name, value string) Service {
	if value == "" {
		return Service{Name: name}
	}
	tags := splitList(value)
	for i, t := range tags {
		tags[i] = tagUnescapes.ReplaceAllString(t, "$1")
	}
	return NewService(name, tags)
}

// Kind implements Privilege.
func (Service) Kind() Kind { return "service" }

func (s Service) String() string {
	if len(s.tags) == 0 {
		return "service " + s.Name
	}
	return fmt.Sprintf("service %s (%s)", s.Name, s.value())
}

func (s Service) Key() string            { return strings.TrimSuffix("service:"+s.Name+":"+s.value(), ":") }
func (s Service) form() (string, string) { return s.Name, s.value() }

// value is what parseService reads.
func (s Service) value() string { return s.list(tagEscapes) }

func (s Service) permit() string {
	text := escapeGlob(s.Name)
	if len(s.tags) > 0 {
		text += ":" + s.list(tagGlobEscapes)
	}
	return "services = [" + quoteHCL(text) + "]"
}

func (s Service) list(escapes *strings.Replacer) string {
	tags := make([]string, len(s.tags))
	for i, t := range s.tags {
		tags[i] = escapes.Replace(t)
	}
	return strings.Join(tags, ",")
}

func (s Service) nearKey() string    { return strings.ToLower(s.Name) }
func (s Service) wideKeys() []string { return []string{s.nearKey()} }

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
	tagEscapes     = strings.NewReplacer(`\`, `\\`, ",", `\,`)
	tagGlobEscapes = strings.NewReplacer(`\`, `\\`, ",", `\,`, "*", `\*`, "?", `\?`, "[", `\[`)
	tagUnescapes   = regexp.MustCompile(`(?s)\\(.)`)
)

// serviceRule is "web", a name in Consul without tags; "web:v1,canary-*", with
// tags of which each is one of those; or "own", what the image or the job is
// called. Consul takes upper and lower case for the same, and so does it.
type serviceRule struct {
	name   pattern
	own    bool
	tags   []pattern
	tagged bool

	// Of own: whether the block says whose images, and whose jobs, it is about.
	ofImages, ofJobs bool
}

func parseServiceRule(s string) (r serviceRule, err error) {
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

func (r serviceRule) prefix() string {
	if r.own {
		return ""
	}
	return r.name.prefix
}

func (r serviceRule) deniable() error {
	if r.own {
		return fmt.Errorf("a deny must name the service")
	}
	return nil
}

// in refuses own where a block says of nobody whose name it is: whoever starts a task chooses what
// an image and a job are called.
func (r serviceRule) in(b *block) (rule, error) {
	r.ofImages, r.ofJobs = len(b.images)+len(b.signers) > 0, len(b.jobs)+len(b.namespaces) > 0
	if r.own && !r.ofImages && !r.ofJobs {
		return r, fmt.Errorf("services: own is the name that an image or a job gives itself: narrow the block to " +
			"some of them " +
			"by images or signer, or by namespaces or jobs")
	}
	return r, nil
}

func (r serviceRule) covers(p Privilege, s *Subject) bool {
	a := p.(Service)
	name := a.nearKey()
	if name == "" || !r.own && !r.name.match(name) || r.own && !r.isOwn(name, s) {
		return false
	}
	return !slices.ContainsFunc(a.tags, func(t string) bool { return !r.takes(t) })
}

// isOwn tells whether a name is what the image's repository or the job is called. Each counts only
// where the operator says whose images, or whose jobs, a block is about.
func (r serviceRule) isOwn(name string, s *Subject) bool {
	return r.ofImages && s.Repository != "" && name == strings.ToLower(path.Base(s.Repository)) ||
		r.ofJobs && name == strings.ToLower(s.Job)
}

// touches is about a name with whatever tags, or with "*:tag" about the tag
// under whatever name.
func (r serviceRule) touches(p Privilege) bool {
	a := p.(Service)
	name := a.nearKey()
	if name == "" || r.name.glob != "*" || !r.tagged {
		return name == "" || r.name.anywhere(name)
	}
	return slices.ContainsFunc(a.tags, r.takes)
}

func (r serviceRule) takes(tag string) bool {
	tag = strings.ToLower(tag)
	return slices.ContainsFunc(r.tags, func(p pattern) bool { return p.anywhere(tag) })
}
