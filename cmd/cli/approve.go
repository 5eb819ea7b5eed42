package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/cmd/internal/remote"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/judge"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/printable"
)

// signedApproval is an approval for a fleet.
type signedApproval struct {
	remote.Flags
	key string
}

// approveSigned signs approvals of a digest and attaches them in its registry.
func (a *commands) approveSigned(ctx context.Context, f *signedApproval, arg string, r client.ApproveRequest) error {
	ref, err := registry.ParseReference(arg)
	switch {
	case err != nil:
		return app.UsageError{Err: err}
	case ref.Digest == "":
		return app.Usagef("%s: --sign needs the digest that you have looked at: %s@sha256:...", arg, ref.Identity())
	case r.Expires.IsZero():
		return app.Usagef("--sign needs --expires: a signed approval is given for a time")
	case r.Why == "":
		return app.Usagef("--sign needs --reason")
	}
	at := registry.Location{Kind: registry.Remote, Ref: ref}
	c, err := f.Client("freejail", at)
	if err != nil {
		return err
	}
	images, err := c.Images(ctx, at, image.Limits{})
	if err != nil {
		return err
	}
	key, err := remote.PrivateKey(a.Messages, f.key)
	if err != nil {
		return err
	}
	list, err := a.toSign(images, ref, r)
	if err != nil {
		return err
	}
	done := []fleetApproval{}
	for _, p := range list {
		one, err := attachSigned(ctx, c, ref, &p, key)
		if err != nil {
			return err
		}
		done = append(done, one)
	}
	return a.Print(done, func(w io.Writer) {
		for _, p := range done {
			printable.Fprintf(w, "%s %s\n", p.ID, p.Image)
		}
	})
}

// fleetApproval is what was signed and attached.
type fleetApproval struct {
	ID    digest.Digest `json:"id"`
	Image string        `json:"image"` // HOST/NAME@DIGEST
	approval.Approval
}

func attachSigned(ctx context.Context, c *registry.Client, ref registry.Reference, p *approval.Approval,
	key *sign.PrivateKey) (out fleetApproval, err error) {
	doc, err := p.Sign(key)
	if err != nil {
		return out, err
	}
	ref.Tag, ref.Digest = "", p.Digest
	at := registry.Location{Kind: registry.Remote, Ref: ref}
	return fleetApproval{p.ID(), ref.String(), *p}, c.Attach(ctx, at, doc, registry.Approval)
}

// toSign are the approvals, one of each image that asks for something, which it shows.
func (a *commands) toSign(images []*image.Image, ref registry.Reference, r client.ApproveRequest) (
	list []approval.Approval, err error) {
	by := fmt.Sprint("uid ", os.Getuid())
	if u, err := user.Current(); err == nil {
		by = u.Username
	}
	for _, img := range images {
		reqs, err := judge.Approvable(img, r.Requests)
		if err != nil {
			return nil, err
		}
		if len(reqs) == 0 {
			continue
		}
		p := approval.New(img.Digest, ref.Identity(), reqs, time.Now(), r.Expires)
		p.By, p.Reason = by, r.Why
		if err := p.Check(); err != nil {
			return nil, err
		}
		printable.Fprintf(a.Messages, "approves of %s, %s/%s, until %s:\n", img.Digest, img.Config.OS,
			img.Config.Architecture, p.Expires.Format(time.RFC3339))
		for _, r := range p.Approved() {
			printable.Fprintf(a.Messages, "  %s\n", r.Key())
		}
		list = append(list, p)
	}
	if len(list) == 0 {
		err = fmt.Errorf("image %s requests nothing that could be approved", ref)
	}
	return list, err
}

// signedRevocation is a change of a list of revocations.
type signedRevocation struct {
	key, list string
	image     bool
}

// revokeSigned adds to a list of revocations, or dates it anew.
func (a *commands) revokeSigned(f *signedRevocation, args []string, reason string) error {
	if f.list == "" {
		return app.Usagef("--sign needs --list FILE: the list that is signed")
	}
	var more []approval.Revoked
	if len(args) == 1 {
		d := digest.Digest(args[0])
		if d.Validate() != nil {
			return app.Usagef("%q is not the ID of a signed approval: see `freejail-build approvals IMAGE`", args[0])
		}
		if f.image {
			more = append(more, approval.Revoked{Image: d, Reason: reason})
		} else {
			more = append(more, approval.Revoked{Approval: d, Reason: reason})
		}
	}
	key, err := remote.PrivateKey(a.Messages, f.key)
	if err != nil {
		return err
	}
	var old approval.List
	text, err := os.ReadFile(f.list)
	if err == nil {
		old, err = approval.ReadList(text, key.Public())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", f.list, err)
	}
	next := old.Next(time.Now(), more...)
	if text, err = next.Sign(key); err != nil {
		return err
	}
	if err := durable.WriteFile(f.list, text, 0o644); err != nil {
		return err
	}
	return a.Print(next, func(w io.Writer) {
		printable.Fprintf(w, "%s: serial %d, %s\n", f.list, next.Serial,
			printable.Count(len(next.Revoked), "revocation"))
		for _, r := range more {
			printable.Fprintf(w, "%s\n", whatIsRevoked(r))
		}
	})
}

// whatIsRevoked tells how a digest was taken: it may be that of an approval or of an image.
func whatIsRevoked(r approval.Revoked) string {
	if r.Image != "" {
		return fmt.Sprintf("revoked: all approvals until now of the image %s", r.Image)
	}
	return fmt.Sprintf("revoked: the approval with the ID %s (if that is the digest of an image: --image)", r.Approval)
}
