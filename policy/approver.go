package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// approver is what the signed approvals of one key may give: requests of some kinds, and
// what its blocks cover as permits do.
type approver struct {
	where  string
	kinds  []string
	blocks []*block
	may    table
}

// approverSchema is the policy's part of an approver block. The rest is the host
// configuration's.
var approverSchema = &hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "kinds"}},
	Blocks: []hcl.BlockHeaderSchema{{Type: "may"}}}

func (r *reader) approver(b *hcl.Block) error {
	name := b.Labels[0]
	content, _, diags := b.Body.PartialContent(approverSchema)
	if diags.HasErrors() {
		return diags
	}
	if r.approvers[name] != nil {
		return fmt.Errorf("%s: approver %q already exists, at %s", place(b.DefRange), name, r.approvers[name].where)
	}
	a := &approver{where: place(b.DefRange)}
	if attr := content.Attributes["kinds"]; attr != nil {
		list, err := readList(attr)
		for _, i := range list {
			if err == nil && (kinds[Kind(i.value)] == nil || Kind(i.value) == KindSignature) {
				err = fmt.Errorf("%q is not a kind of request that can be given: %v", i.value, Kinds())
			}
			a.kinds = append(a.kinds, i.value)
		}
		if err != nil {
			return fmt.Errorf("%s: approver: kinds: %w", place(attr.Range), err)
		}
	}
	for _, part := range content.Blocks {
		may, err := r.block(part.Body, place(part.DefRange), part.Type)
		if err != nil {
			return err
		}
		a.blocks = append(a.blocks, may)
	}
	if len(a.kinds)+len(a.blocks) == 0 {
		return fmt.Errorf("%s: approver %q may give nothing: add kinds = [...] or may { } with what it may", a.where,
			name)
	}
	r.approvers[name] = a
	return nil
}

// given tells whether an approver may give a request, and where that is said.
func (a *approver) given(j *judge, in scope, r Request) (where string, err error) {
	if slices.Contains(a.kinds, string(r.Kind())) {
		return a.where, nil
	}
	return j.covering(&a.may, in, r)
}

// approved tells by whom a request was approved, or why an approval of it does not count.
func (j *judge) approved(r Request) (reason string, by *Approval) {
	var not []string
	for _, a := range j.approvals[r.identity()] {
		if a.Approver == "" {
			return fmt.Sprintf("approved by %s on %s: %s", a.By, day(a.At), a.Why), &a
		}
		err := j.mayGive(a, r)
		if err == nil {
			return fmt.Sprintf("approved by %s, signed by %s on %s, until %s: %s", a.By, a.Approver, day(a.At),
				day(a.Expires), a.Why), &a
		}
		not = append(not, fmt.Sprintf("the approval by %s, signed on %s, does not count: %v", a.Approver, day(a.At),
			err))
	}
	return strings.Join(not, "; "), nil
}

// mayGive tells why an approval of a fleet is more than its approver may give; nil where it
// is not.
func (j *judge) mayGive(a Approval, r Request) error {
	who := j.Policy.approvers[a.Approver]
	switch {
	case who == nil:
		return errors.New("the host's file has no such approver")
	case r.Kind() == KindSignature:
		return errors.New("what the host requires to be signed is not for approvers to give")
	}
	where, err := who.given(j, who.may.scope(*j.subject, false), r)
	if where == "" && err == nil {
		err = errors.New("it is more than this approver may give")
	}
	if err != nil {
		return fmt.Errorf("%w (%s)", err, who.where)
	}
	return nil
}
