package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/freejail/freejail/internal/imagename"
)

// Signature asks, in the image's stead, to start without the signature of one of
// the signers, globs with commas between them, that a require block names.
type Signature string

// KindSignature is the kind of Signature. No approval of a fleet gives it.
const KindSignature Kind = "signature"

func init() {
	register(kind{name: KindSignature, attribute: "start", read: readTruth,
		parse:    func(_, value string) (Privilege, error) { return Signature(value), nil },
		asserted: func(item) (Privilege, error) { return start{}, nil }})
}

// Kind implements Privilege.
func (Signature) Kind() Kind { return KindSignature }
func (s Signature) String() string {
	return "a signature of " + strings.ReplaceAll(string(s), ",", " or ")
}
func (s Signature) Key() string            { return "signature:" + string(s) }
func (s Signature) form() (string, string) { return "", string(s) }
func (s Signature) permit() string         { return "" }

// requirement is a require block: of what it is about, one of the signers must
// have signed.
type requirement struct {
	block   *block
	signers []string // globs
}

func (q requirement) decide(j *judge) Result {
	res := Result{Request: Request{Signature(strings.Join(q.signers, ",")), FromImage}, required: true}
	for _, name := range j.subject.Signers {
		if slices.ContainsFunc(q.signers, func(g string) bool { return glob(g, name) }) {
			res.Allowed, res.Reason = true, "signed by "+name
			return res
		}
	}
	if res.Reason, res.Approval = j.approved(res.Request); res.Approval != nil {
		res.Allowed = true
	} else {
		res.Reason = "required at " + q.block.where + ", and none was verified for this digest and repository"
		if imagename.IsReference(j.subject.Image) {
			res.Reason += "; where it was signed after its pull, pull it again: freejail pull " +
				shellQuote(j.subject.Image)
		}
	}
	return res
}

// CheckSigners finds names in the policy that no signer of the host has: a mistyped one
// would permit nothing, or refuse everything. A pattern may be about signers to come.
func (p *Policy) CheckSigners(known []string) error {
	var errs []error
	check := func(where string, names []string) {
		for _, name := range names {
			if !strings.ContainsAny(name, `*?[\`) && !slices.Contains(known, name) {
				errs = append(errs, fmt.Errorf("%s: signer %q: the host's file has no such signer block", where, name))
			}
		}
	}
	blocks := slices.Concat(p.permits.blocks, p.denies.blocks)
	for _, a := range p.approvers {
		blocks = append(blocks, a.may.blocks...)
	}
	for _, b := range blocks {
		check(b.where, b.signers)
	}
	for _, q := range p.requires {
		check(q.block.where, q.signers)
	}
	return errors.Join(errs...)
}

// start is what a test says of all that is required.
type start struct{ Signature }

func (start) String() string { return "the start" }

func (start) assert(p *Policy, s Subject, r Request) Result {
	for _, res := range p.Decide(s, nil, nil).Results {
		if !res.Allowed {
			return res
		}
	}
	return Result{Request: r, Allowed: true, Reason: "every signature that is required is there, or none is"}
}
