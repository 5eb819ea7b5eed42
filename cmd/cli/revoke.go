package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/cmd/internal/remote"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/printable"
)

// signedRevocation is a change of a list of revocations.
type signedRevocation struct {
	remote.Flags
	key, list string
	merge     []string // files with other lists by the same key
	image     bool
	first     bool // there is no list yet
}

// revokeSigned adds to a list of revocations, or dates it anew.
func (a *commands) revokeSigned(ctx context.Context, f *signedRevocation, args []string, reason string) error {
	if f.list == "" {
		return app.Usagef("--sign needs --list FILE: the list that is signed")
	}
	if len(args) > 0 && strings.TrimSpace(reason) == "" {
		return app.Usagef("--sign needs --reason: hosts show it where they refuse what was revoked")
	}
	var more []approval.Revoked
	for _, arg := range args {
		digests, err := a.toRevoke(ctx, f, arg)
		if err != nil {
			return err
		}
		for _, d := range digests {
			r := approval.Revoked{Approval: d, Reason: reason}
			if f.image {
				r.Approval, r.Image = "", d
			}
			more = append(more, r)
		}
	}
	key, err := remote.PrivateKey(a.Messages, f.key)
	if err != nil {
		return err
	}
	old, err := readLists(f, key.Public())
	if err != nil {
		return err
	}
	now := time.Now()
	if old.Issued.After(now) {
		return fmt.Errorf("the list is dated %s, which is in the future by this machine's clock: set that first, as "+
			"hosts refuse a list that is dated before an earlier one", old.Issued.Format(time.RFC3339))
	}
	next := old.Next(now, more...)
	text, err := next.Sign(key)
	if err != nil {
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

// readLists reads a list, which is there unless it is the first, with all that others revoke.
func readLists(f *signedRevocation, key *sign.PublicKey) (list approval.List, err error) {
	for i, name := range append([]string{f.list}, f.merge...) {
		var one approval.List
		text, err := os.ReadFile(name)
		none := i == 0 && errors.Is(err, fs.ErrNotExist)
		switch {
		case none && f.first:
			continue
		case none:
			return list, app.Usagef("%s: there is no list: have the newest there, to which this is added (a list that "+
				"begins anew has none of the revocations that hosts know); --new begins the first", name)
		case i == 0 && err == nil && f.first:
			return list, app.Usagef("%s: there is a list already: --new is for the first alone", name)
		case err == nil:
			one, err = approval.ReadList(text, key)
		}
		if err != nil {
			return list, fmt.Errorf("%s: %w", name, err)
		}
		list = list.With(one)
	}
	return list, nil
}

// toRevoke are the digests that are meant: the ID of an approval, or with --image those of an image, or of each of an
// index in a registry.
func (a *commands) toRevoke(ctx context.Context, f *signedRevocation, arg string) ([]digest.Digest, error) {
	d := digest.Digest(arg)
	switch {
	case d.Validate() == nil:
		return []digest.Digest{d}, nil
	case hexDigits.MatchString(arg):
		return a.wholeOf(ctx, f.image, arg)
	case !f.image:
		return nil, app.Usagef("%q is not the ID of a signed approval: see `freejail-build approvals IMAGE`", arg)
	}
	ref, err := registry.ParseReference(arg)
	if err != nil || ref.Digest == "" {
		return nil, app.Usagef("%q is not the digest of an image, which is needed, as names are given anew: "+
			"sha256:..., or HOST/NAME@sha256:... for each image of an index", arg)
	}
	at := registry.Location{Kind: registry.Remote, Ref: ref}
	c, err := f.Client("freejail", at)
	if err != nil {
		return nil, err
	}
	images, err := c.Images(ctx, at, image.Limits{})
	if err != nil {
		return nil, fmt.Errorf("%w (it is asked for the images of an index: the digest of one image, --image %s, "+
			"needs no registry)", err, ref.Digest)
	}
	var out []digest.Digest
	for _, img := range images {
		out = append(out, img.Digest)
	}
	return out, nil
}

// wholeOf finds the one image or approval of a fleet that this host has and that begins with these digits.
func (a *commands) wholeOf(ctx context.Context, ofImages bool, digits string) ([]digest.Digest, error) {
	what, see := "approval", "`freejail-build approvals IMAGE`"
	if ofImages {
		what, see = "image", "`freejail images -q`"
	}
	known, err := a.digests(ctx, ofImages)
	if err != nil {
		return nil, fmt.Errorf("%q is the beginning of a digest: give all of it, as %s shows it (this host could not "+
			"tell the rest: %w)", digits, see, err)
	}
	found := map[digest.Digest]bool{}
	var out []digest.Digest
	for _, d := range known {
		if strings.HasPrefix(d, "sha256:"+digits) && !found[digest.Digest(d)] {
			found[digest.Digest(d)] = true
			out = append(out, digest.Digest(d))
		}
	}
	if len(out) != 1 {
		return nil, fmt.Errorf("%q is the beginning of the digests of %s on this host: give all of it, as %s shows it",
			digits, printable.Count(len(out), what), see)
	}
	return out, nil
}

func (a *commands) digests(ctx context.Context, ofImages bool) (out []string, err error) {
	if ofImages {
		list, err := a.client().Images(ctx)
		for _, i := range list {
			out = append(out, i.Digest)
		}
		return out, err
	}
	list, err := a.client().Approvals(ctx)
	for _, one := range list {
		if one.Approver != "" {
			out = append(out, one.ID)
		}
	}
	return out, err
}

// whatIsRevoked tells how a digest was taken: it may be that of an approval or of an image.
func whatIsRevoked(r approval.Revoked) string {
	if r.Image != "" {
		return fmt.Sprintf("revoked: all approvals until now of the image %s", r.Image)
	}
	return fmt.Sprintf("revoked: the approval with the ID %s (if that is the digest of an image: --image)", r.Approval)
}
