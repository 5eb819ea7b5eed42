package policy

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// test is a block of assertions beside the policy.
type test struct {
	name, where   string
	subject       Subject
	from          Source
	allow, refuse []assertion
}

type assertion struct {
	request Request
	where   string
}

// Failure is an assertion that does not hold.
type Failure struct {
	Test    string `json:"test"`
	Where   string `json:"where"`
	Message string `json:"message"`
}

var testSchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "image"}, {Name: "digest"}, {Name: "signers"}, {Name: "namespace"}, {Name: "job"}, {Name: "from"}},
	Blocks:     []hcl.BlockHeaderSchema{{Type: "allowed"}, {Type: "refused"}},
}

func (r *reader) test(b *hcl.Block) (test, error) {
	t := test{name: b.Labels[0], where: place(b.DefRange), from: FromImage}
	content, diags := b.Body.Content(testSchema)
	if diags.HasErrors() {
		return t, diags
	}
	from := ""
	into := map[string]*string{"image": &t.subject.Image, "digest": &t.subject.Digest, "namespace": &t.subject.Namespace, "job": &t.subject.Job, "from": &from}
	for name, a := range content.Attributes {
		if name == "signers" {
			list, err := readList(a)
			if err != nil {
				return t, fmt.Errorf("%s: signers: %w", place(a.Range), err)
			}
			for _, i := range list {
				t.subject.Signers = append(t.subject.Signers, i.value)
			}
			continue
		}
		if err := text(a.Expr, into[name]); err != nil {
			return t, fmt.Errorf("%s: %s: %w", place(a.Range), name, err)
		}
	}
	switch from {
	case "", string(FromImage), string(FromJob):
	default:
		return t, fmt.Errorf("%s: test: from: %q is neither image nor job", t.where, from)
	}
	if from != "" {
		t.from = Source(from)
	}
	t.subject.Repository = RepositoryOf(t.subject.Image)
	for _, part := range content.Blocks {
		list, err := assertions(part, t.from)
		if err != nil {
			return t, err
		}
		if part.Type == "allowed" {
			t.allow = append(t.allow, list...)
		} else {
			t.refuse = append(t.refuse, list...)
		}
	}
	if len(t.allow)+len(t.refuse) == 0 {
		return t, fmt.Errorf("%s: test %q asserts nothing: give it allowed { } or refused { }", t.where, t.name)
	}
	return t, nil
}

// assertions reads requests in the words of permits.
func assertions(b *hcl.Block, from Source) ([]assertion, error) {
	attrs, diags := b.Body.JustAttributes()
	if diags.HasErrors() {
		return nil, diags
	}
	var out []assertion
	for name, a := range attrs {
		k := byAttribute(name)
		if k == nil {
			return nil, fmt.Errorf("%s: %s: %q is nothing to ask for", place(a.Range), b.Type, name)
		}
		items, err := k.read(a)
		for _, i := range items {
			var p Privilege
			if p, err = k.asserted(i); err != nil {
				break
			}
			out = append(out, assertion{Request{p, from}, i.where})
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %s: %w", place(a.Range), b.Type, name, err)
		}
	}
	return out, nil
}

// RepositoryOf is an image's name without its tag and its digest.
func RepositoryOf(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}

// Test runs the assertions of the policy's own file and returns how many there
// are and those that do not hold.
func (p *Policy) Test() (int, []Failure) {
	n := 0
	var out []Failure
	try := func(t test, list []assertion, want bool) {
		for _, a := range list {
			n++
			res := p.assert(t.subject, a.request)
			if res.Allowed != want {
				word := map[bool]string{true: "allowed", false: "refused"}
				out = append(out, Failure{t.name, a.where, fmt.Sprintf("%s is %s, want it %s: %s", a.request, word[res.Allowed], word[want], res.Reason)})
			}
		}
	}
	for _, t := range p.tests {
		try(t, t.allow, true)
		try(t, t.refuse, false)
	}
	return n, out
}

// assert decides about one request, unless what is asked for has its own way.
func (p *Policy) assert(s Subject, r Request) Result {
	if own, is := r.Privilege.(interface {
		assert(*Policy, Subject, Request) Result
	}); is {
		return own.assert(p, s, r)
	}
	return p.Decide(s, []Request{r}, nil).Results[0]
}
