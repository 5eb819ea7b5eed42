package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
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
		return app.Usagef("%s: --sign needs the digest that you have looked at, as `freejail-build inspect %s` shows "+
			"it: %s@sha256:...", arg, arg, ref.Identity())
	case r.Expires.IsZero():
		return app.Usagef("--sign needs --expires: a signed approval is given for a time")
	case strings.TrimSpace(r.Why) == "":
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
		reqs, unasked, err := judge.Approvable(img, r.Requests, r.Unknown)
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
			printRequest(a.Messages, r.Key(), unasked)
		}
		list = append(list, p)
	}
	if len(list) == 0 {
		err = fmt.Errorf("image %s requests nothing that could be approved", ref)
	}
	return list, err
}
