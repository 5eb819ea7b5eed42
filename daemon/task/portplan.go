package task

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/policy"
)

// addPorts are the ports of the image, where the job has them, and those of the job's own.
func (p *plan) addPorts(spec client.TaskSpec) error {
	if err := checkServices(spec.Service); err != nil {
		return err
	}
	if err := onHost(&spec); err != nil {
		return err
	}
	if err := p.checkMapped(spec); err != nil {
		return err
	}
	own := maps.Clone(spec.Ports)
	for _, mp := range p.image.Manifest.Ports {
		delete(own, mp.Name)
	}
	for _, mp := range p.image.Manifest.Ports {
		b, given := spec.Ports[mp.Name]
		if !given {
			b, given = p.byNumber(own, mp)
		}
		if err := p.addImagePort(mp, b, given); err != nil {
			return err
		}
	}
	if err := p.portsMeet(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if err := p.addOwnPort(name, own[name], spec.Owner == "nomad"); err != nil {
			return err
		}
	}
	return nil
}

// onHost has ports that are published be the task's own ones where it has the host's network. A name
// is the port inside.
func onHost(spec *client.TaskSpec) error {
	all := maps.Clone(spec.Ports)
	if all == nil {
		all = map[string]client.PortBinding{}
	}
	for _, pub := range spec.Publish {
		name := strconv.Itoa(pub.To)
		if pub.Protocol == "udp" { // as a port that is exposed is called
			name += "-udp"
		}
		_, twice := all[name]
		switch {
		case pub.Count > 1:
			return client.Invalid("publish: %s: a task with the host's network has no ranges of ports; a network with "+
				"a stack of its own has them", pub)
		case twice:
			return client.Invalid("publish: %s: port %s is given twice, and a task with the host's network listens "+
				"once", pub, name)
		}
		all[name] = client.PortBinding{Address: pub.Address, Port: pub.Port, To: pub.To, Protocol: pub.Protocol}
	}
	spec.Ports = all
	return nil
}

// described tells whether the image has a manifest. Its program then listens where it is told;
// what others expose is where theirs listen.
func (p *plan) described() bool {
	_, is := p.image.Config.Config.Labels[image.ManifestLabel]
	return is
}

// isFor tells whether a job's port by another name is an image's: it has its number, or says by to
// that it is for it.
func (p *plan) isFor(b client.PortBinding, mp image.Port) bool {
	return cmp.Or(b.Protocol, "tcp") == cmp.Or(mp.Protocol, "tcp") &&
		(b.Port == mp.Port || p.described() && b.To == mp.Port)
}

// byNumber is the one port of the job's own that is an image's port, if it is one.
func (p *plan) byNumber(own map[string]client.PortBinding, mp image.Port) (found client.PortBinding, one bool) {
	for _, b := range own {
		if !p.isFor(b, mp) {
			continue
		}
		if one {
			return client.PortBinding{}, false
		}
		found, one = b, true
	}
	return found, one
}

func (p *plan) addImagePort(mp image.Port, b client.PortBinding, given bool) error {
	out := client.Port{Name: mp.Name, Protocol: cmp.Or(mp.Protocol, "tcp"), Address: b.Address,
		Port: cmp.Or(b.Port, mp.Port), Exposed: !given && !p.described()}
	if b.Protocol != "" && b.Protocol != out.Protocol {
		return client.Invalid("ports: %s of image %s is a %s port, not %s", mp.Name, p.image.Name, out.Protocol,
			b.Protocol)
	}
	source := policy.FromImage
	switch {
	case given:
		source = policy.FromJob
	case out.Exposed: // nothing is given for it, so it needs no permit; a deny of it holds
		source = policy.FromHost
	}
	return p.addPort(out, source)
}

// addOwnPort is a port that the image does not declare. Those of a group have labels; that another
// name of the job is misspelt is likelier than that it has a number.
func (p *plan) addOwnPort(name string, b client.PortBinding, ofGroup bool) error {
	out := client.Port{Name: name, Protocol: cmp.Or(b.Protocol, "tcp"), Address: b.Address, Port: b.Port, Job: true}
	if out.Protocol != "tcp" && out.Protocol != "udp" {
		return client.Invalid("ports: %s: the protocol %q is neither tcp nor udp", name, b.Protocol)
	}
	declared := p.image.Manifest.Ports
	if ofGroup && b.Label == "" && len(declared) > 0 {
		return client.Invalid("ports: image %s declares no port %q; it declares: %s", p.image.Name, name,
			portNames(declared))
	}
	if b.Label != name && len(declared) > 0 {
		p.note("port %s is the job's own: image %s declares no port of this name; it declares: %s", name, p.image.Name,
			portNames(declared))
	}
	return p.addPort(out, policy.FromJob)
}

func portNames(list []image.Port) string {
	var names []string
	for _, mp := range list {
		names = append(names, mp.Name)
	}
	return strings.Join(names, ", ")
}

// addPort asks once for a port that has two names.
func (p *plan) addPort(out client.Port, source policy.Source) error {
	if out.Port < 1 || out.Port > 65535 {
		return client.Invalid("ports: %s = %d is not a valid port (1 to 65535)", out.Name, out.Port)
	}
	if _, err := netip.ParseAddr(out.Address); out.Address != "" && err != nil {
		return client.Invalid("ports: %s: %q is not a valid IP address (for example 192.0.2.7)", out.Name, out.Address)
	}
	p.ports = append(p.ports, out)
	what := policy.Port{Name: out.Name, First: out.Port, Last: out.Port, Protocol: out.Protocol}
	same := func(r policy.Request) bool { return r.Key() == what.Key() && r.Source == source }
	if !slices.ContainsFunc(p.requests, same) {
		p.ask(what, source)
	}
	return nil
}

// listens is the port where the program listens whatever it is told, as far as that is known: as the
// job says by to, or an image without a manifest. 0 is unknown.
func (p *plan) listens(name string, b client.PortBinding) int {
	for _, mp := range p.image.Manifest.Ports {
		switch {
		case p.described() && p.isFor(b, mp):
			return 0
		case !p.described() && mp.Name == name:
			return mp.Port
		}
	}
	return max(b.To, 0)
}

// checkMapped tells of ports that would have to be mapped, which the host's network does not do.
func (p *plan) checkMapped(spec client.TaskSpec) error {
	for _, name := range slices.Sorted(maps.Keys(spec.Ports)) {
		b := spec.Ports[name]
		switch inside := p.listens(name, b); {
		case inside == 0 || inside == b.Port:
		case b.Label != "":
			p.note("port %s: %d is not mapped to %d, as tasks use the host's network: the program has to listen on "+
				"%d (FREEJAIL_PORT_%s), or the job to say static = %d", b.Label, b.Port, inside, b.Port, envName(name),
				inside)
		default:
			return client.Invalid("ports: %d cannot be mapped to port %d of image %s: tasks use the host's network, "+
				"and the image has no manifest with this port, by which its program would be told: give %d itself",
				b.Port, inside, p.image.Name, inside)
		}
	}
	return nil
}

func (p *plan) note(format string, args ...any) {
	p.notes = append(p.notes, printable.Sprintf(format, args...))
}

// portsMeet refuses two ports of the image in one place: its program could not serve both.
func (p *plan) portsMeet() error {
	for i, a := range p.ports {
		for _, b := range p.ports[:i] {
			if bindingOf(a).meets(bindingOf(b)) {
				return client.Invalid("ports: %s and %s of image %s are both %s", b.Name, a.Name, p.image.Name,
					bindingOf(a))
			}
		}
	}
	return nil
}

// portVars tell a program its ports. A name that shells cannot read is told with _ for what they
// do not take, too, unless another port has that name.
func portVars(ports []client.Port) map[string]string {
	env := map[string]string{}
	put := func(name string, p client.Port) {
		env["FREEJAIL_PORT_"+name] = strconv.Itoa(p.Port)
		env["FREEJAIL_ADDR_"+name] = p.Address
	}
	for _, p := range ports {
		put(envName(p.Name), p)
	}
	for _, p := range ports {
		if !strings.ContainsAny(p.Name, "=\x00") {
			put(p.Name, p)
		}
	}
	return env
}

// envName has _ for all that is not a letter of ASCII, a digit or _.
func envName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, name)
}

// checkServices refuses what would be read as something else in Consul.
func checkServices(o client.Overrides) error {
	for _, port := range slices.Sorted(maps.Keys(o.Ports)) {
		p := o.Ports[port]
		for _, text := range append([]string{p.Name, p.Address}, p.Tags...) {
			if printable.Line(text) != text {
				return client.Invalid("services: port %q: %q is not one line of printable characters", port, text)
			}
		}
	}
	return nil
}
