package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/cmd/internal/remote"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/printable"
)

// approver is a key with its name and what it has revoked.
type approver struct {
	name string
	key  *sign.PublicKey
	list *approval.List // nil is not given
}

type approvalFlags struct {
	remoteFlags
	keys, lists []string
}

// approvers reads the keys and lists that are given as NAME=FILE.
func (f *approvalFlags) approvers() (out []approver, err error) {
	for _, text := range f.keys {
		name, file, ok := strings.Cut(text, "=")
		if !ok {
			name, file = text, text
		}
		key, err := remote.PublicKey(file)
		if err != nil {
			return nil, err
		}
		out = append(out, approver{name: name, key: key})
	}
	for _, text := range f.lists {
		name, file, _ := strings.Cut(text, "=")
		i := slices.IndexFunc(out, func(a approver) bool { return a.name == name })
		if i < 0 {
			return nil, app.Usagef("--revocations %s: want NAME=FILE, with --key NAME=KEY beside it", text)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		list, err := approval.ReadList(b, out[i].key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out[i].list = &list
	}
	return out, nil
}

// shownApproval is one document beside an image, and what is known of it.
type shownApproval struct {
	Image    digest.Digest `json:"image"`
	Platform string        `json:"platform"`
	ID       digest.Digest `json:"id"`
	// Status is valid, or why it is not; Approver the name of the key that was verified.
	Status   string    `json:"status"`
	Approver string    `json:"approver,omitempty"`
	By       string    `json:"by"` // by the document's own word, as all that follows
	Reason   string    `json:"reason"`
	Issued   time.Time `json:"issued,omitzero"`
	Expires  time.Time `json:"expires,omitzero"`
	Requests []string  `json:"requests"`
}

// same tells whether one key has signed the same twice, which is one approval.
func (s *shownApproval) same(o shownApproval) bool {
	return s.Image == o.Image && s.ID == o.ID && s.Approver == o.Approver
}

const (
	statusValid      = "valid"
	statusUnverified = "NOT VERIFIED: give the approver's key with --key"
)

func (a *commands) approvalsCmd() *cobra.Command {
	f := &approvalFlags{}
	c := app.Command("approvals [--key NAME=FILE] IMAGE", "show who approved what of an image", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			keys, err := f.approvers()
			if err != nil {
				return err
			}
			list, others, unread := f.find(ctx, args[0], keys)
			if unread != nil && len(list) == 0 {
				return unread
			}
			report := struct {
				Approvals []shownApproval `json:"approvals"`
				Others    int             `json:"others"`
			}{list, others}
			err = a.Print(report, func(w io.Writer) { printShown(w, list, others, keys) })
			if err = errors.Join(err, unread); err != nil { // what was found is shown beside it
				return err
			}
			valid := func(s shownApproval) bool { return s.Status == statusValid }
			if len(keys) > 0 && !slices.ContainsFunc(list, valid) {
				return app.ExitCode(app.Failed)
			}
			return nil
		})
	c.Long = `Show the approvals that are attached to IMAGE, which is HOST/NAME:TAG, or an OCI
archive or layout by its path; of an index those of each image. With --key only
approvals by these keys are shown, and the exit code is 1 if none of them is
valid now. Without a key nothing is verified: everybody who may push can attach
an approval. What a host makes of one depends on its configuration: see
"freejail policy check".`
	f.add(c)
	c.Flags().StringArrayVar(&f.keys, "key", nil, "the public key of an approver, as `NAME=FILE`; repeatable")
	c.Flags().StringArrayVar(&f.lists, "revocations", nil,
		"an approver's list of revocations, as `NAME=FILE`; repeatable")
	return c
}

// find reads the approvals of an image, or of each of an index.
func (f *approvalFlags) find(ctx context.Context, arg string, keys []approver) (out []shownApproval, others int,
	err error) {
	at, err := place(arg)
	if err != nil {
		return nil, 0, err
	}
	c, err := f.client(at)
	if err != nil {
		return nil, 0, err
	}
	images, err := c.Images(ctx, at, image.Limits{})
	out = []shownApproval{}
	for _, img := range images {
		if err != nil {
			break
		}
		w := registry.Wanted{ArtifactType: registry.Approval, About: approval.About}
		for _, k := range keys {
			w.Keys = append(w.Keys, k.key)
		}
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest}
		var docs registry.Documents
		docs, err = c.Documents(ctx, at, d, w)
		others += docs.Others
		for _, doc := range docs.List {
			s := shown(img, doc, keys, time.Now())
			if !slices.ContainsFunc(out, s.same) {
				out = append(out, s)
			}
		}
	}
	return out, others, err
}

func shown(img *image.Image, doc sign.Signature, keys []approver, now time.Time) shownApproval {
	p, err := approval.Parse(doc.Payload)
	out := shownApproval{Image: img.Digest, Platform: img.Config.OS + "/" + img.Config.Architecture,
		ID: digest.FromBytes(doc.Payload), Status: statusUnverified, Requests: []string{}}
	if err != nil {
		out.Status = "not an approval: " + err.Error()
		return out
	}
	out.By, out.Reason, out.Issued, out.Expires = p.By, p.Reason, p.Issued, p.Expires
	for _, r := range p.Approved() {
		out.Requests = append(out.Requests, r.Key())
	}
	for _, k := range keys {
		if k.key.Signed(doc) {
			out.Approver, out.Status = k.name, k.status(&p, img.Digest, now)
		}
	}
	return out
}

func (k *approver) status(p *approval.Approval, d digest.Digest, now time.Time) string {
	if err := p.Holds(d, now); err != nil {
		return err.Error()
	}
	if k.list == nil {
		return statusValid
	}
	if r, found := k.list.Find(p); found {
		return (&approval.RevokedError{Revoked: r}).Error()
	}
	return statusValid
}

func printShown(w io.Writer, list []shownApproval, others int, keys []approver) {
	if len(list) == 0 {
		printable.Fprintln(w, "no approval was found")
	}
	for _, s := range list {
		printable.Fprintf(w, "%s %s\n  %s\n", s.Image, s.Platform, s.Status)
		if s.Approver != "" {
			printable.Fprintf(w, "  signed by the key of %s\n", s.Approver)
		}
		if s.By != "" || s.Reason != "" {
			printable.Fprintf(w, "  by %s on %s, until %s: %s\n", s.By, stamp(s.Issued), stamp(s.Expires), s.Reason)
		}
		for _, r := range s.Requests {
			printable.Fprintf(w, "    %s\n", r)
		}
		printable.Fprintf(w, "  approval %s\n", s.ID)
	}
	if others > 0 {
		printable.Fprintf(w, "not shown: %s by other keys, unreadable, or too many\n",
			printable.Count(others, "document"))
	}
	for _, k := range keys {
		if k.list == nil {
			printable.Fprintf(w, "revocations by %s were not looked at: --revocations %s=FILE\n", k.name, k.name)
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
