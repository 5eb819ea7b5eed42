package images

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
)

// allowTimeout bounds the question to a registry whether it would give an image.
const allowTimeout = 30 * time.Second

// allowances are the credentials by which private images were had within the
// last hour, so that a task starts again without its registry. They hold no
// credential: only sums under a key that is nowhere else.
type allowances struct {
	mu   sync.Mutex
	key  []byte
	sums map[[sha256.Size]byte]time.Time // when each was given
	now  func() time.Time                // time.Now if nil
}

// maxAllowanceAge is after which a registry is asked again: it may not give an
// image any more to who once had it.
const maxAllowanceAge = time.Hour

// maxAllowances is when all are forgotten; registries are then asked again.
const maxAllowances = 10_000

// sum is for one image by its name, and one credential.
func (a *allowances) sum(img *image.Image, c *registry.Credential) (out [sha256.Size]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.key == nil {
		a.key = []byte(rand.Text())
	}
	h := hmac.New(sha256.New, a.key)
	for _, s := range []string{img.Name, img.Digest.String(), c.Username, c.Password} {
		part := sha256.Sum256([]byte(s)) // of one length, so that none is a part of another
		h.Write(part[:])
	}
	h.Sum(out[:0])
	return out
}

func (a *allowances) has(img *image.Image, c *registry.Credential) bool {
	if c == nil {
		return false
	}
	sum := a.sum(img, c)
	a.mu.Lock()
	defer a.mu.Unlock()
	given, ok := a.sums[sum]
	return ok && a.time().Sub(given) < maxAllowanceAge
}

func (a *allowances) time() time.Time {
	if a.now != nil {
		return a.now()
	}
	return time.Now()
}

func (a *allowances) add(img *image.Image, c *registry.Credential) {
	if c == nil {
		return
	}
	sum := a.sum(img, c)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sums == nil || len(a.sums) >= maxAllowances {
		a.sums = map[[sha256.Size]byte]time.Time{}
	}
	a.sums[sum] = a.time()
}

// mayStart tells whether a job may start an image of this host. One that was had
// with a job's credentials is for those whom its registry would give it: with
// the job's own credentials, or without with the host's. The operator may start all.
func (l *Library) mayStart(ctx context.Context, spec client.TaskSpec, img *image.Image, c *registry.Credential) error {
	switch {
	case spec.Owner == "cli" || img.Name != "" && !img.Private:
		return nil
	case img.Name == "":
		return client.NotFound("image %q has lost its name on this host, so its owner is unknown: "+
			"give its name, such as HOST/NAME@%s", spec.Image, img.Digest)
	case l.allowances.has(img, c):
		return nil
	}
	ref, _, err := l.InForce().Reference(img.Name)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, allowTimeout)
	defer cancel()
	if err := l.InForce().Registries.Allow(within, ref, img.Digest, c); err != nil {
		return client.Unavailable("image %q was pulled with the credentials of a job, "+
			"and the registry does not give it to this one: %v", spec.Image, err)
	}
	l.allowances.add(img, c)
	return nil
}
