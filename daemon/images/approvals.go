package images

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
)

// wantedApprovals are those of the host's approvers.
func (l *Library) wantedApprovals() registry.Wanted {
	return registry.Wanted{ArtifactType: registry.Approval, Keys: l.InForce().ApproverKeys(), About: approval.About}
}

// trusted is the fingerprint of the host's approver who has signed an approval of an image, or empty: it is
// kept before those of others.
func (l *Library) trusted(d digest.Digest, doc sign.Signature) string {
	return approval.Signer(d, doc, l.InForce().ApproverKeys())
}

// seekTimeout bounds how a registry is asked for approvals of an image that is there.
const seekTimeout = 15 * time.Second

// SeekApprovals asks an image's registry for approvals that were attached since it was pulled.
// It tells whether there may be some to look at; the task, or where that is empty the host, hears of an error.
// What many starts ask at once is asked once.
func (l *Library) SeekApprovals(ctx context.Context, task, name string, d digest.Digest) bool {
	w := l.wantedApprovals()
	if len(w.Keys) == 0 || !registry.IsReference(name) {
		return false
	}
	ref, _, err := l.InForce().Reference(name)
	if err != nil {
		return false // a name that is no reference, such as that of an archive
	}
	came := time.Now()
	release, err := l.seeking.Lock(ctx, d.String())
	if err != nil {
		return false
	}
	defer release()
	if began, ok := l.sought.Load(d); ok && began.(time.Time).After(came) {
		return true // another start has asked meanwhile
	}
	l.noteSought(d)
	within, cancel := context.WithTimeout(ctx, seekTimeout)
	defer cancel()
	found, err := l.InForce().Registries.Documents(within, registry.Location{Kind: registry.Remote, Ref: ref},
		ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d}, w)
	if err != nil {
		l.Tell(task, "approval", "approvals could not be looked for: "+err.Error())
	}
	if err := l.Store.AddApprovals(d, found.List); err != nil {
		l.Tell(task, "approval", "approvals could not be kept: "+err.Error())
	}
	return len(found.List) > 0
}

// noteSought notes when an asking began, and forgets those of which none can wait any more.
func (l *Library) noteSought(d digest.Digest) {
	l.sought.Range(func(k, began any) bool {
		if time.Since(began.(time.Time)) > 2*seekTimeout {
			l.sought.Delete(k)
		}
		return true
	})
	l.sought.Store(d, time.Now())
}
