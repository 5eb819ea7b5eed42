package task

import (
	"context"
	"errors"
	"reflect"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/policy"
)

// Check decides about a whole task as its start would, without starting it; or where
// the spec says nothing else, about an image.
func (m *Manager) Check(ctx context.Context, spec client.TaskSpec) (s policy.Subject, dec policy.Decision, err error) {
	if err := checkMemory(spec.Limits); err != nil {
		return s, dec, err
	}
	from := m.rootFor(spec, "")
	img, release, err := from.find(ctx, spec, nil)
	if err != nil {
		return s, dec, err
	}
	defer release()
	p, err := m.checkPlan(spec, img)
	if err != nil {
		return s, dec, err
	}
	s, dec, err = m.wouldDecide(ctx, spec, p, from)
	return s, dec, errors.Join(err, p.close())
}

// onlyImage tells that a spec says nothing but what the image is, and whose the
// task would be.
func onlyImage(spec client.TaskSpec) bool {
	return reflect.DeepEqual(spec, client.TaskSpec{ID: spec.ID, Owner: spec.Owner, Labels: spec.Labels,
		Confined: spec.Confined, Image: spec.Image,
		ForcePull: spec.ForcePull, PullTimeout: spec.PullTimeout, Auth: spec.Auth, Storage: spec.Storage})
}

func (m *Manager) checkPlan(spec client.TaskSpec, img *image.Image) (*plan, error) {
	if !onlyImage(spec) {
		return m.makePlan(spec, img)
	}
	p, err := imagePlan(img, func(p *plan, spec client.TaskSpec) error { return m.planServices(p, spec) })
	if err == nil {
		p.askRoot(spec)
	}
	return p, err
}

// wouldDecide decides as a start does, which knows the image's files.
func (m *Manager) wouldDecide(ctx context.Context, spec client.TaskSpec, p *plan, from root) (
	policy.Subject, policy.Decision, error) {
	s, dec, err := m.Judge.Decision(spec, p.image, p.requests)
	if err != nil || !dec.Allowed || onlyImage(spec) || !m.Judge.Denies(s, policy.KindUser) {
		return s, dec, err
	}
	byFiles := dec
	err = from.look(ctx, p, func(root string) error {
		creds, err := lookUp(root, p.image, spec.User)
		if err != nil {
			return err
		}
		_, byFiles, err = m.userDecision(spec, p, root, creds.UID)
		return err
	})
	if err != nil || !byFiles.Allowed {
		return s, byFiles, err
	}
	return s, dec, nil
}
