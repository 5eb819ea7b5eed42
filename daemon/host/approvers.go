package host

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/cafile"
)

// Approver is a key whose approvals of a digest count, by the name that the policy has for it.
type Approver struct {
	Name    string
	KeyFile string
	approval.Source
}

// approverBlock is an Approver as it is written. What it may give is the policy's part.
type approverBlock struct {
	Name            string   `hcl:"name,label"`
	KeyFile         string   `hcl:"key_file"`
	Kinds           []string `hcl:"kinds,optional"`
	Revocations     string   `hcl:"revocations,optional"`
	CAFile          string   `hcl:"ca_file,optional"`
	MaxAge          string   `hcl:"max_age,optional"`
	WhenUnreachable string   `hcl:"when_unreachable,optional"`
	May             []struct {
		Body hcl.Body `hcl:",remain"`
	} `hcl:"may,block"`
}

// defaultMaxAge is how old a list of revocations may be where the file does not say it.
const defaultMaxAge = "168h"

func (f *file) approvers(r *reader) (out []Approver) {
	names := []Signer{}
	for _, b := range f.Approvers {
		names = append(names, Signer{Name: b.Name})
		a := Approver{Name: b.Name, KeyFile: b.KeyFile, Source: approval.Source{From: b.Revocations,
			CAFile: b.CAFile, Keep: b.WhenUnreachable == "keep"}}
		what := fmt.Sprintf("approver %q: ", b.Name)
		a.MaxAge = r.duration(what+"max_age", cmp.Or(b.MaxAge, defaultMaxAge), time.Minute)
		if err := approval.CheckSource(a.From, a.CAFile); err != nil {
			r.fail("%srevocations: %w", what, err)
		}
		if w := b.WhenUnreachable; w != "" && w != "keep" && w != "refuse" {
			r.fail("%swhen_unreachable %q is not refuse or keep", what, w)
		}
		if a.From == "" && (b.MaxAge != "" || b.WhenUnreachable != "") {
			r.fail("%smax_age and when_unreachable are of the list that revocations names", what)
		}
		out = append(out, a)
	}
	if err := checkNames("approver", names); err != nil {
		r.errs = append(r.errs, err)
	}
	return out
}

// readApprovers reads the keys. Two names for one key would be two words on what it may give.
func readApprovers(list []Approver) (out []Approver, err error) {
	var errs []error
	by := map[string]string{}
	for _, a := range list {
		text, err := os.ReadFile(a.KeyFile)
		if err == nil {
			a.Key, err = sign.ReadPublic(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("approver %q: key_file %s: %w", a.Name, a.KeyFile, err))
			continue
		}
		if a.CAFile != "" {
			if _, err := cafile.Pool(a.CAFile); err != nil {
				errs = append(errs, fmt.Errorf("approver %q: ca_file: %w", a.Name, err))
			}
		}
		if other := by[a.Key.Fingerprint()]; other != "" {
			errs = append(errs, fmt.Errorf("approver %q: key_file %s: the same key as that of %q", a.Name, a.KeyFile,
				other))
		}
		by[a.Key.Fingerprint()] = a.Name
		out = append(out, a)
	}
	return out, errors.Join(errs...)
}

// ApproversOf are those of a configuration that may be another host's: a key that is not
// here verifies nothing.
func ApproversOf(file string) ([]Approver, error) {
	c, err := LoadConfig(file)
	if err != nil {
		return nil, err
	}
	here := slices.DeleteFunc(c.Approvers, func(a Approver) bool {
		_, err := os.Stat(a.KeyFile)
		return errors.Is(err, fs.ErrNotExist)
	})
	return readApprovers(here)
}

// ApproverKeys are those whose approvals are looked for.
func (n *InForce) ApproverKeys() (keys []*sign.PublicKey) {
	for _, a := range n.Approvers {
		keys = append(keys, a.Key)
	}
	return keys
}
