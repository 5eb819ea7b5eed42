package daemon

import (
	"context"
	"strconv"

	"github.com/freejail/freejail/catalog"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// register announces a task's ports, with the way back journalled first.
func (d *Daemon) register(ctx context.Context, t *task) error {
	if d.catalog == nil {
		return nil
	}
	return t.step(ctx, undo{Op: "service"}, func() error { d.announce(t); return nil })
}

// announce tells the catalog what should be in Consul; it gets there when
// Consul answers.
func (d *Daemon) announce(t *task) {
	if d.catalog == nil {
		return
	}
	if s := d.services(t.snapshot()); len(s) > 0 {
		d.catalog.Set(t.id(), s)
	}
}

func (d *Daemon) deregister(ctx context.Context, t *task) {
	if d.catalog != nil {
		d.catalog.Remove(ctx, t.id())
	}
}

func (d *Daemon) services(i client.Task) []catalog.Service {
	over := i.Spec.Service
	if over.Disabled {
		return nil
	}
	img, err := d.imageOf(i)
	if err != nil {
		d.log.Error("services", "task", i.Spec.ID, "error", err)
		return nil
	}
	var out []catalog.Service
	for _, mp := range img.Manifest.Ports {
		o := over.Ports[mp.Name]
		if mp.Service == nil || o.Disabled {
			continue
		}
		s := catalog.Service{PortName: mp.Name, Name: mp.Service.Name, Tags: mp.Service.Tags, Meta: map[string]string{
			"jail": i.Jail, "jid": strconv.Itoa(i.JID), "image": img.Name, "image-digest": i.Digest, "task": i.Spec.ID}}
		for k, v := range i.Spec.Labels {
			s.Meta[k] = printable.Line(v)
		}
		if s.Name == "" {
			s.Name = mp.Name
		}
		for _, p := range i.Ports {
			if p.Name == mp.Name {
				s.Address, s.Port = p.Address, p.Port
			}
		}
		if o.Name != "" {
			s.Name = o.Name
		}
		if o.Tags != nil {
			s.Tags = o.Tags
		}
		if o.Address != "" {
			s.Address = o.Address
		}
		if s.Address == "" {
			s.Address = d.cfg.Consul.Advertise
		}
		if c := mp.Service.Check; c != nil {
			s.Check = &catalog.Check{Type: c.Type, Path: c.Path, Interval: c.Interval.Std(), Timeout: c.Timeout.Std()}
		}
		out = append(out, s)
	}
	return out
}

func (d *Daemon) withServices(i client.Task) client.Task {
	if d.catalog == nil {
		return i
	}
	for _, e := range d.catalog.Status() {
		if e.Task == i.Spec.ID {
			i.Services = append(i.Services, client.ServiceInfo{Name: e.Name, ID: e.ID, Registered: e.Registered, Error: e.Error})
		}
	}
	return i
}
