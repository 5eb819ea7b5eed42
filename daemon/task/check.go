package task

import (
	"context"
	"errors"
	"reflect"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/policy"
)

// Check decides about a whole task as its start would, without starting it; or where
// the spec says nothing else, about an image. The notes are what no policy decides.
func (m *Manager) Check(ctx context.Context, spec client.TaskSpec) (
	s policy.Subject, dec policy.Decision, notes []string, err error) {
	if err := checkMemory(spec.Limits); err != nil {
		return s, dec, nil, err
	}
	from := m.rootFor(spec, "")
	img, release, err := from.find(ctx, spec, nil)
	if err != nil {
		return s, dec, nil, err
	}
	defer release()
	p, err := m.checkPlan(spec, img)
	if err != nil {
		return s, dec, nil, err
	}
	s, dec, err = m.wouldDecide(ctx, spec, p, from)
	return s, dec, append(p.notes, p.unenforced()...), errors.Join(err, p.close())
}

// unenforced tells where nothing holds a program to its ports.
func (p *plan) unenforced() []string {
	if len(p.ports) == 0 {
		return nil
	}
	where := ""
	switch name := p.network.Name; p.network.Mode {
	case "":
		return Notes(p.image)
	case network.Host:
		where = "on the network host a program can listen on any port, at any address of the host"
	case network.Alias:
		where = "on the network " + name + " a program can listen on any port of its address"
	case network.Bridged:
		where = "on the network " + name + " they are enforced where the host filters its bridges (on FreeBSD by " +
			"net.link.bridge.pfil_member=1)"
	default:
		return nil
	}
	return []string{portsDeclared + where}
}

const portsDeclared = "ports are only declared: "

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
		creds, err := lookUp(root, p.image, spec)
		if err != nil {
			return err
		}
		_, byFiles, err = m.userDecision(spec, p, creds)
		return err
	})
	if err != nil || !byFiles.Allowed {
		return s, byFiles, err
	}
	return s, dec, nil
}
