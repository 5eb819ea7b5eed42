package task

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/freejail/freejail/catalog"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/policy"
)

// announce tells the catalog what should be in Consul; it gets there when
// Consul answers.
func (m *Manager) announce(t *task) {
	if m.Catalog == nil {
		return
	}
	s := m.services(t)
	checked := slices.ContainsFunc(s, func(s catalog.Service) bool { return s.Check != nil })
	if checked || m.Config.Consul.Address != "" && len(s) > 0 {
		m.Catalog.Set(catalogKey(t.info), s)
	}
}

// announces tells whether a task with an image may have something to announce: to Consul, or else a check that the
// daemon itself makes.
func (m *Manager) announces(spec client.TaskSpec, img *image.Image) bool {
	if m.Catalog == nil || m.Config.Consul.Address != "" {
		return m.Catalog != nil
	}
	return slices.ContainsFunc(announcements(*img.Manifest, spec), func(a announcement) bool { return a.check != nil })
}

// catalogKey has no dot, as ids of services are made with one.
func catalogKey(i client.Task) string { return strings.TrimPrefix(i.Jail, jailPrefix) }

func (m *Manager) deregister(ctx context.Context, t *task) {
	if m.Catalog != nil {
		m.Catalog.Remove(ctx, catalogKey(t.info))
	}
}

// announcement is a port's service as the image and the job want it.
type announcement struct {
	port, name string
	tags       []string
	from       policy.Source // the job's where it says anything of it
	check      *image.Check
}

// announcements are the services of an image's ports, with the job's changes:
// those that the policy decides about, and that are registered.
func announcements(m image.Manifest, spec client.TaskSpec) (out []announcement) {
	over := spec.Service
	if over.Disabled || spec.NoPorts {
		return nil
	}
	for _, mp := range m.Ports {
		o := over.Ports[mp.Name]
		if mp.Service == nil || o.Disabled {
			continue
		}
		a := announcement{port: mp.Name, name: cmp.Or(o.Name, mp.Service.Name, mp.Name), tags: mp.Service.Tags,
			from: policy.FromImage, check: mp.Service.Check}
		if o.Tags != nil {
			a.tags = o.Tags
		}
		if o.Name != "" || o.Tags != nil {
			a.from = policy.FromJob
		}
		out = append(out, a)
	}
	return out
}

// addServices asks for the names in Consul.
func (p *plan) addServices(spec client.TaskSpec) error {
	for _, name := range slices.Sorted(maps.Keys(spec.Service.Ports)) {
		o := spec.Service.Ports[name]
		port := slices.IndexFunc(p.ports, func(port client.Port) bool { return port.Name == name && !port.Job })
		if port < 0 && spec.NoPorts {
			return client.Invalid("services: port %s: the job has the task serve no port (ports = [])", name)
		}
		if port < 0 {
			return client.Invalid("services: image %s declares no port %q; a service block of the job can register it",
				p.image.Name, name)
		}
		if o.Address != "" && p.reached() {
			return client.Invalid("services: port %s: address %q: tasks of the network %s are reached at addresses of "+
				"their own, which their services show", name, o.Address, p.network.Name)
		}
		if err := checkAddress(o.Address, p.ports[port].Address, p.advertise); err != nil {
			return client.Invalid("services: port %s: %v", name, err)
		}
		if slices.ContainsFunc(p.image.Manifest.Ports,
			func(mp image.Port) bool { return mp.Name == name && mp.Service == nil }) && !o.Disabled {
			p.note("services: port %s of image %s has no service to change: a service block of the job can register it",
				name, p.image.Name)
		}
	}
	all := announcements(*p.image.Manifest, spec)
	if len(all) > 0 && p.network.Mode == network.None {
		p.note("services: none is registered, as the network none has loopback alone")
		return nil
	}
	for _, a := range all {
		p.noteReach(a)
		if err := a.validate(); err != nil {
			return client.Invalid("the service of port %s: %v", a.port, err)
		}
		p.ask(policy.NewService(a.name, a.tags), a.from)
	}
	return nil
}

// noteReach tells of a service that other hosts find in Consul and do not reach.
func (p *plan) noteReach(a announcement) {
	i := slices.IndexFunc(p.ports, func(port client.Port) bool { return port.Name == a.port && !port.Job })
	if i >= 0 && p.translated() && p.ports[i].Port == 0 {
		p.note("services: %s is registered at the task's own address, which this host alone reaches: no port of the "+
			"host leads to its port %s", a.name, a.port)
	}
}

// checkAddress lets a service be announced where the task is, and nowhere else.
func checkAddress(address string, own ...string) error {
	if address == "" || slices.Contains(own, address) {
		return nil
	}
	have, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	want := net.ParseIP(address)
	for _, a := range have {
		if n, is := a.(*net.IPNet); is && want != nil && n.IP.Equal(want) {
			return nil
		}
	}
	return fmt.Errorf("%q is neither an address of this host nor its consul { advertise }", address)
}

var serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// What is not for images and jobs to have: Consul's own service, and tags that
// look like freejail's.
const (
	consulService = "consul"
	reservedTags  = "freejail-"
	maxTags       = 64
)

func (a announcement) validate() error {
	switch {
	case !serviceName.MatchString(a.name):
		return fmt.Errorf("%q is not a valid name: want up to 63 letters, digits and dashes, as in a DNS name", a.name)
	case strings.EqualFold(a.name, consulService):
		return fmt.Errorf("%q is the name of Consul's servers", a.name)
	case len(a.tags) > maxTags:
		return fmt.Errorf("%d tags; at most %d are allowed", len(a.tags), maxTags)
	}
	for _, t := range a.tags {
		switch {
		case t == "" || len(t) > 255 || printable.Line(t) != t:
			return fmt.Errorf("tag %q is empty, longer than 255 bytes, or not one line of printable characters", t)
		case strings.HasPrefix(strings.ToLower(t), reservedTags):
			return fmt.Errorf("tag %q: the prefix %s is reserved", t, reservedTags)
		}
	}
	return nil
}

func (m *Manager) services(t *task) []catalog.Service {
	i := t.snapshot()
	if i.Network != nil && !i.Network.Address().IsValid() { // nobody would reach them
		return nil
	}
	img, err := t.root.image(i)
	if err != nil {
		m.Log.Error("services", "task", i.Spec.ID, "error", err)
		return nil
	}
	var out []catalog.Service
	for _, a := range announcements(*img.Manifest, i.Spec) {
		s := catalog.Service{PortName: a.port, Name: a.name, Tags: a.tags, Meta: map[string]string{},
			Alloc: i.Spec.NomadLabels()["alloc_id"], Since: i.CreatedAt}
		for k, v := range i.Spec.Labels {
			s.Meta[k] = printable.Line(v)
		}
		// Last: no label can be taken for them.
		maps.Copy(s.Meta, map[string]string{"jail": i.Jail, "jid": strconv.Itoa(i.JID), "image": img.Name,
			"image-digest": i.Digest, "task": i.Spec.ID})
		if i.Spec.NomadLabels() != nil { // by which Consul's pages tell where an entry comes from
			s.Meta["external-source"] = "nomad"
		}
		if c := a.check; c != nil {
			s.Check = &catalog.Check{Type: c.Type, Path: c.Path, Interval: c.Interval.Std(), Timeout: c.Timeout.Std()}
		}
		for _, p := range i.Ports {
			if p.Name == a.port {
				m.locate(&s, i.Network, p)
			}
		}
		s.Address = cmp.Or(i.Spec.Service.Ports[a.port].Address, s.Address)
		out = append(out, s)
	}
	return out
}

// locate says where a service is reached, and where its check reaches the task itself: where the host
// leads to it, or else at its own address.
func (m *Manager) locate(s *catalog.Service, n *client.NetworkInfo, p client.Port) {
	s.Protocol, s.Bound = p.Protocol, p.Address
	s.Address, s.Port = cmp.Or(p.Address, m.Config.Consul.Advertise), p.Port
	own := n.Address()
	if !own.IsValid() {
		if s.Check != nil {
			s.Check.Address = s.Address
		}
		return
	}
	at, led := catalog.Place{Address: own.String(), Port: p.To}, catalog.Place{Address: s.Address, Port: s.Port}
	if s.Also = at; p.Port == 0 || n.Mode != string(network.NAT) {
		s.Address, s.Port, s.Bound, s.Also = at.Address, at.Port, at.Address, led
	}
	if s.Check != nil {
		s.Check.Address, s.Check.Port = own.String(), p.To
	}
}

func (m *Manager) withServices(i client.Task) client.Task {
	if m.Catalog == nil {
		return i
	}
	for _, e := range m.Catalog.Status(catalogKey(i)) {
		i.Services = append(i.Services, client.ServiceInfo{Name: e.Name, ID: e.ID, Registered: e.Registered,
			Error: e.Error, By: e.By, Health: e.Health, Output: e.Output})
	}
	return i
}
