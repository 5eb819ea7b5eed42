package policy

import (
	"cmp"
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/freejail/freejail/internal/imagename"
)

// test is a block of assertions beside the policy.
type test struct {
	name, where   string
	subject       Subject
	from          Source
	approver      string // who has signed an approval of what is asked for; empty is nobody
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
	Attributes: []hcl.AttributeSchema{{Name: "image"}, {Name: "digest"}, {Name: "signers"}, {Name: "namespace"},
		{Name: "job"}, {Name: "from"}, {Name: "approver"}},
	Blocks: []hcl.BlockHeaderSchema{{Type: "allowed"}, {Type: "refused"}},
}

func (r *reader) test(b *hcl.Block) (test, error) {
	t := test{name: b.Labels[0], where: place(b.DefRange)}
	content, diags := b.Body.Content(testSchema)
	if diags.HasErrors() {
		return t, diags
	}
	from := ""
	s := &t.subject
	into := map[string]*string{"image": &s.Image, "digest": &s.Digest, "namespace": &s.Namespace, "job": &s.Job,
		"from": &from, "approver": &t.approver}
	for name, a := range content.Attributes {
		var err error
		if name == "signers" {
			var list []item
			list, err = readList(a)
			for _, i := range list {
				s.Signers = append(s.Signers, i.value)
			}
		} else {
			err = text(a.Expr, into[name])
		}
		if err != nil {
			return t, fmt.Errorf("%s: %s: %w", place(a.Range), name, err)
		}
	}
	if t.from = Source(cmp.Or(from, string(FromImage))); t.from != FromImage && t.from != FromJob {
		return t, fmt.Errorf("%s: test: from: %q is not image or job", t.where, from)
	}
	s.Repository = imagename.Repository(s.Image)
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
		return t, fmt.Errorf("%s: test %q has no assertions: add allowed { } or refused { }", t.where, t.name)
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
			return nil, fmt.Errorf("%s: %s: %q is not a kind of request", place(a.Range), b.Type, name)
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

// Test runs the assertions of the policy's own file and returns how many there
// are and those that do not hold.
func (p *Policy) Test() (int, []Failure) {
	n := 0
	var out []Failure
	word := map[bool]string{true: "allowed", false: "refused"}
	try := func(t test, list []assertion, want bool) {
		for _, a := range list {
			n++
			if res := p.assert(t, a.request); res.Allowed != want {
				out = append(out, Failure{t.name, a.where,
					fmt.Sprintf("%s is %s, want it %s: %s", a.request, word[res.Allowed], word[want], res.Reason)})
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
func (p *Policy) assert(t test, r Request) Result {
	s := t.subject
	if own, is := r.Privilege.(interface {
		assert(*Policy, Subject, Request) Result
	}); is {
		return own.assert(p, s, r)
	}
	var signed []Approval
	if t.approver != "" {
		signed = []Approval{{Digest: s.Digest, Requests: []Request{r}, By: "test", Why: t.name, Approver: t.approver,
			At: time.Now()}}
	}
	return p.Decide(s, []Request{r}, signed).Results[0]
}
