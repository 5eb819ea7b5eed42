package daemon

import (
	"context"
	"errors"
	"net/http"
	"reflect"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/policy"
)

// handleCheck decides about a whole task as its start would, without starting
// it; or where the spec says nothing else, about an image.
func (d *Daemon) handleCheck(r *http.Request) (any, error) {
	var spec client.TaskSpec
	if err := decode(r, &spec); err != nil {
		return nil, err
	}
	if err := checkMemory(spec.Limits); err != nil {
		return nil, err
	}
	from := d.rootFor(spec, "")
	img, release, err := from.find(r.Context(), spec, nil)
	if err != nil {
		return nil, err
	}
	defer release()
	p, err := d.checkPlan(spec, img)
	if err != nil {
		return nil, err
	}
	s, dec, err := d.wouldDecide(r.Context(), spec, p, from)
	if err = errors.Join(err, p.close()); err != nil {
		return nil, err
	}
	return wireDecision(s, dec), nil
}

// onlyImage tells that a spec says nothing but what the image is, and whose the
// task would be.
func onlyImage(spec client.TaskSpec) bool {
	return reflect.DeepEqual(spec, client.TaskSpec{ID: spec.ID, Owner: spec.Owner, Labels: spec.Labels, Confined: spec.Confined, Image: spec.Image,
		ForcePull: spec.ForcePull, PullTimeout: spec.PullTimeout, Auth: spec.Auth, Storage: spec.Storage})
}

func (d *Daemon) checkPlan(spec client.TaskSpec, img *image.Image) (*plan, error) {
	if !onlyImage(spec) {
		return d.makePlan(spec, img)
	}
	p, err := imagePlan(img, func(p *plan, spec client.TaskSpec) error { return d.planServices(p, spec) })
	if err == nil {
		p.askRoot(spec)
	}
	return p, err
}

// wouldDecide decides as a start does, which knows the image's files.
func (d *Daemon) wouldDecide(ctx context.Context, spec client.TaskSpec, p *plan, from root) (policy.Subject, policy.Decision, error) {
	s, dec, err := d.decision(spec, p.image, p.requests)
	if err != nil || !dec.Allowed || onlyImage(spec) || !d.inForce().Policy.Denies(s, policy.KindUser) {
		return s, dec, err
	}
	byFiles := dec
	err = from.look(ctx, p, func(root string) error {
		creds, err := lookUp(root, p.image, spec.User)
		if err != nil {
			return err
		}
		_, byFiles, err = d.userDecision(spec, p, root, creds.UID)
		return err
	})
	if err != nil || !byFiles.Allowed {
		return s, byFiles, err
	}
	return s, dec, nil
}
