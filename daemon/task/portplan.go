package task

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/network"
	"github.com/freejail/freejail/policy"
)

// given is a place on the host that the job gives a port.
type given struct {
	client.PortBinding
	count     int  // of ports that follow one another; 0 is one
	published bool // by the job's publish, or -p: no name of a port says which it is for
	turn      int  // of what is published, in the job's order
}

// inside is where a port of the job's own is in a stack or at an address of the task's own.
func (g given) inside() int {
	if g.To > 0 {
		return g.To
	}
	return g.Port
}

// addPorts are the ports of the image, where the job has them, and those of the job's own.
func (p *plan) addPorts(spec client.TaskSpec) error {
	if err := checkServices(spec.Service); err != nil {
		return err
	}
	all, err := p.places(spec)
	if err != nil {
		return err
	}
	if p.onHost() {
		err = p.checkMapped(all)
	} else {
		err = p.checkLed(all)
	}
	if err != nil {
		return err
	}
	own := maps.Clone(all)
	declared := p.image.Manifest.Ports
	if spec.NoPorts {
		declared = nil
	}
	for _, mp := range declared {
		delete(own, mp.Name)
	}
	for _, mp := range declared {
		b, is := all[mp.Name]
		if !is {
			b, is = p.takeByNumber(own, mp)
		}
		if err := p.addImagePort(mp, b, is); err != nil {
			return err
		}
	}
	if err := p.portsMeet(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if err := p.addOwnPort(name, own[name]); err != nil {
			return err
		}
	}
	return p.placesMeet()
}

// places are what the job gives the ports by their names. What it publishes is named by the number.
func (p *plan) places(spec client.TaskSpec) (map[string]given, error) {
	all := map[string]given{}
	for name, b := range spec.Ports {
		all[name] = given{PortBinding: b}
	}
	for i, o := range spec.Publish {
		if o.Protocol != "tcp" && o.Protocol != "udp" {
			return nil, client.Invalid("publish %s: the protocol is neither tcp nor udp", o)
		}
		if o.Count < 0 || o.Count > maxPublished {
			return nil, client.Invalid("publish %s: a task can have %d ports of the host", o, maxPublished)
		}
		add(all, given{count: o.Count, published: true, turn: i, PortBinding: client.PortBinding{
			Address: o.Address, Port: o.Port, To: o.To, Protocol: o.Protocol}})
	}
	return all, nil
}

// add has what is published be among the ports, by the first name that is free.
func add(all map[string]given, g given) {
	name := g.name()
	for n := 2; ; n++ {
		if _, taken := all[name]; !taken {
			break
		}
		name = fmt.Sprintf("%s.%d", g.name(), n)
	}
	all[name] = g
}

func portRange(first, count int) string {
	if count > 1 {
		return fmt.Sprintf("%d-%d", first, first+count-1)
	}
	return strconv.Itoa(first)
}

// checkLed refuses ports of the host that cannot lead to the task, and tells of those that do not have
// to. Those of a scheduler are chosen by it whatever the network.
func (p *plan) checkLed(all map[string]given) error {
	if p.translated() {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		g := all[name]
		where := "its tasks are reached at addresses of their own"
		if p.network.Mode == network.None {
			where = "its tasks have loopback alone"
		}
		switch {
		case g.Label == "":
			return client.Invalid("port %s: no port of the host leads to tasks of the network %s (%s): %s%s",
				cmp.Or(portRange(g.Port, g.count), name), p.network.Name, p.network.Mode, where, p.mapping())
		case p.network.Mode == network.None && !g.Offered:
			p.note("port %s: %d of the host does not lead to the task: the network none has loopback alone", name,
				g.Port)
		}
	}
	return nil
}

// mapping names the networks that lead ports of the host to their tasks, as an advice.
func (p *plan) mapping() string {
	if names := p.named(network.NAT); len(names) > 0 {
		return "; of this host's networks " + strings.Join(names, ", ") + " would (" + p.naming() + ")"
	}
	return ""
}

// described tells whether the image has a manifest. Its program then listens where it is told;
// what others expose is where theirs listen.
func (p *plan) described() bool {
	_, is := p.image.Config.Config.Labels[image.ManifestLabel]
	return is
}

// isFor tells whether a job's port by another name is an image's: it has its number, or says by to
// that it is for it.
func (p *plan) isFor(g given, mp image.Port) bool {
	switch {
	case cmp.Or(g.Protocol, "tcp") != cmp.Or(mp.Protocol, "tcp"):
		return false
	case p.onHost():
		return g.covers(g.Port, mp.Port) || p.described() && g.covers(g.To, mp.Port)
	}
	return g.covers(g.inside(), mp.Port)
}

// covers tells whether a port is one of those from first on.
func (g given) covers(first, port int) bool { return first <= port && port < first+max(1, g.count) }

// byNumber is the one port of the job's own that is an image's port, if it is one. Of several that lead to it
// it is the scheduler's, or else the first that is published.
func (p *plan) byNumber(own map[string]given, mp image.Port) (name string, found given, one bool) {
	for of, g := range own {
		switch {
		case !p.isFor(g, mp):
		case !one || !p.onHost() && g.before(found):
			name, found, one = of, g, true
		case p.onHost() || !found.before(g):
			return "", given{}, false
		}
	}
	return name, found, one
}

// before tells which of two places of one port of the image is rather its place on the host.
func (g given) before(o given) bool {
	if g.published != o.published {
		return o.published
	}
	return g.published && g.turn < o.turn
}

// takeByNumber is the one port of the job's own that is an image's. Of what is published by its number
// that is no other name: the port is no more among them.
func (p *plan) takeByNumber(own map[string]given, mp image.Port) (given, bool) {
	name, g, is := p.byNumber(own, mp)
	if !is || !g.published {
		return g, is
	}
	delete(own, name)
	n := mp.Port - g.inside()
	if p.onHost() && g.covers(g.Port, mp.Port) { // where the host's number is the image's
		n = mp.Port - g.Port
	}
	if n > 0 {
		add(own, g.part(0, n))
	}
	if after := g.count - n - 1; after > 0 {
		add(own, g.part(n+1, after))
	}
	return g.part(n, 1), true
}

// part are count ports of a range, from its nth on.
func (g given) part(n, count int) given {
	g.Port += n
	if g.To > 0 {
		g.To += n
	}
	if g.count = count; count == 1 {
		g.count = 0
	}
	return g
}

// name is that of what is published: its numbers in the task.
func (g given) name() string {
	if g.Protocol == "udp" {
		return portRange(g.To, g.count) + "-udp"
	}
	return portRange(g.To, g.count)
}

func (p *plan) addImagePort(mp image.Port, g given, is bool) error {
	out := client.Port{Name: mp.Name, Protocol: cmp.Or(mp.Protocol, "tcp"), Address: g.Address,
		Port: cmp.Or(g.Port, mp.Port), Exposed: !is && !p.described()}
	if g.Protocol != "" && g.Protocol != out.Protocol {
		return client.Invalid("ports: %s of image %s is a %s port, not %s", mp.Name, p.image.Name, out.Protocol,
			g.Protocol)
	}
	inside, source := mp.Port, policy.FromImage
	switch {
	case is:
		source = policy.FromJob
		if g.To > 0 {
			inside = g.To
		}
	case out.Exposed: // nothing is given for it, so it needs no permit; a deny of it holds
		source = policy.FromHost
	}
	p.locate(&out, inside, is)
	own := source
	if inside == mp.Port && !out.Exposed { // where the image says, whatever the job does
		own = policy.FromImage
	}
	return p.addPort(out, asked{source, own, g.published})
}

// locate says where a port is in a stack, or at an address, of the task's own, and whether one of the
// host leads there.
func (p *plan) locate(out *client.Port, inside int, bound bool) {
	if p.onHost() {
		return
	}
	out.To = inside
	if !bound || !p.led() {
		out.Address, out.Port = "", 0
	}
}

// addOwnPort is a port that the image does not declare. Those of a group have labels; that another
// name of the job is misspelt is likelier than that it has a number.
func (p *plan) addOwnPort(name string, g given) error {
	out := client.Port{Name: name, Protocol: cmp.Or(g.Protocol, "tcp"), Address: g.Address, Port: g.Port,
		Count: g.count, Job: true}
	if out.Protocol != "tcp" && out.Protocol != "udp" {
		return client.Invalid("ports: %s: the protocol %q is neither tcp nor udp", name, g.Protocol)
	}
	declared := p.image.Manifest.Ports
	switch {
	case g.published || len(declared) == 0:
	case g.Label == "" && g.To == 0:
		return client.Invalid("ports: image %s declares no port %q; it declares: %s", p.image.Name, name,
			portNames(declared))
	case !p.onHost() && g.Offered && p.described():
		if !p.isDeclared(g) { // it is another task's
			p.note("port %s of the group is not led to this task: image %s declares no such port; it declares: %s; "+
				"if it is this task's all the same, name it in config { ports = [...] }", name, p.image.Name,
				portNames(declared))
		}
		return nil
	case g.Label != name:
		p.note("port %s is the job's own: image %s declares no port of this name; it declares: %s", name, p.image.Name,
			portNames(declared))
	}
	p.locate(&out, g.inside(), true)
	return p.addPort(out, asked{policy.FromJob, policy.FromJob, g.published})
}

// isDeclared tells whether a port is one of the image's by its number.
func (p *plan) isDeclared(g given) bool {
	return slices.ContainsFunc(p.image.Manifest.Ports, func(mp image.Port) bool { return p.isFor(g, mp) })
}

func portNames(list []image.Port) string {
	var names []string
	for _, mp := range list {
		names = append(names, mp.Name)
	}
	return strings.Join(names, ", ")
}

// asked is who asks for a port: for the host's, and for the one at an address of the task's own.
type asked struct {
	host, own policy.Source
	published bool // see given
}

// addPort asks once for a port that has two names.
func (p *plan) addPort(out client.Port, by asked) error {
	if first := p.invalid(out); first != nil {
		return client.Invalid("ports: %s = %s is not a valid port (1 to 65535)", out.Name, portRange(*first, out.Count))
	}
	at, err := netip.ParseAddr(out.Address)
	if out.Address != "" && err != nil {
		return client.Invalid("ports: %s: %q is not a valid IP address (for example 192.0.2.7)", out.Name, out.Address)
	}
	if err := p.checkFamily(out, at.Unmap()); err != nil {
		return err
	}
	if at.IsValid() && out.Port != 0 {
		place := network.Publication{At: at.Unmap(), Port: netPort(out.Protocol, out.Port, out.Count)}
		err := network.Refused(place, p.all)
		if err == nil && p.translated() {
			err = place.CheckAddress()
		}
		if err != nil {
			return client.Invalid("ports: %s: %v", out.Name, err)
		}
	}
	p.ports = append(p.ports, out)
	p.askPort(out, at, by)
	return nil
}

// askPort asks the policy for a port of the host, which is another kind of request where only the job says
// that it leads to the task, and for one at which the task itself is reached. What only freejail's tasks
// reach is none of it.
func (p *plan) askPort(out client.Port, at netip.Addr, by asked) {
	ports := func(first int) policy.Port {
		return policy.Port{Name: out.Name, First: first, Last: first + max(1, out.Count) - 1, Protocol: out.Protocol}
	}
	switch {
	case out.Port == 0:
	case by.published && p.translated():
		p.askOnce(policy.Publish(at, ports(out.Port)), by.host)
	default:
		p.askOnce(ports(out.Port), by.host)
	}
	if p.reached() {
		p.askOnce(ports(out.To), by.own)
	}
}

func (p *plan) askOnce(what policy.Privilege, source policy.Source) {
	same := func(r policy.Request) bool { return r.Key() == what.Key() && r.Source == source }
	if !slices.ContainsFunc(p.requests, same) {
		p.ask(what, source)
	}
}

// invalid is a number of a port that there cannot be, or nil.
func (p *plan) invalid(out client.Port) *int {
	valid := func(first int) bool { return 1 <= first && first+max(1, out.Count)-1 <= 65535 }
	switch {
	case !valid(out.Inside()):
		first := out.Inside()
		return &first
	case !valid(out.Port) && (p.onHost() || out.Port != 0):
		return &out.Port
	}
	return nil
}

// checkFamily refuses an address of the host that cannot lead to the task. What comes from the host
// itself is led by the daemon.
func (p *plan) checkFamily(out client.Port, at netip.Addr) error {
	has := p.network.Subnet4.IsValid()
	family := "IPv4"
	if at.Is6() {
		has, family = p.network.Subnet6.IsValid(), "IPv6"
	}
	if !p.translated() || !at.IsValid() || at.IsLoopback() || has {
		return nil
	}
	return client.Invalid("ports: %s: %s is an address of %s, and the network %s has none of that", out.Name, at,
		family, p.network.Name)
}

// listens is the port where the program listens whatever it is told, as far as that is known: as the
// job says by to, or an image without a manifest. 0 is unknown.
func (p *plan) listens(name string, b given) int {
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
func (p *plan) checkMapped(all map[string]given) error {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b := all[name]
		switch inside := p.listens(name, b); {
		case inside == 0 || inside == b.Port:
		case b.Label != "":
			p.note("port %s: %d is not mapped to %d, as tasks use the host's network: the program has to listen on "+
				"%d (FREEJAIL_PORT_%s), or the job to say static = %d%s", b.Label, b.Port, inside, b.Port,
				envName(name), inside, p.mapping())
		default:
			return client.Invalid("ports: %d cannot be mapped to port %d of image %s: tasks use the host's network, "+
				"and the image has no manifest with this port, by which its program would be told: give %d itself%s",
				b.Port, inside, p.image.Name, inside, p.mapping())
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
			if placed(a, b) && bindingOf(a).meets(bindingOf(b)) {
				return client.Invalid("ports: %s and %s of image %s are both %s", b.Name, a.Name, p.image.Name,
					bindingOf(a))
			}
			if !p.onHost() && insideOf(a).meets(insideOf(b)) {
				return client.Invalid("ports: %s and %s of image %s are both %s of the task", b.Name, a.Name,
					p.image.Name, insideOf(a))
			}
		}
	}
	return nil
}

// placesMeet refuses one port of the host that would lead to two of the task, or that is held twice.
func (p *plan) placesMeet() error {
	if !p.led() {
		return nil
	}
	for i, a := range p.ports {
		for _, b := range p.ports[:i] {
			x, y := bindingOf(a), bindingOf(b)
			if placed(a, b) && x.meets(y) && (x.addr != y.addr || a.To-a.Port != b.To-b.Port) {
				return client.Invalid("ports: %s and %s are both %s of the host", portText(b), portText(a), x)
			}
		}
	}
	return nil
}

// portText names a port in words: by its name, or by what was published, which has none.
func portText(p client.Port) string {
	if p.Name == "" || p.Name[0] < '0' || p.Name[0] > '9' {
		return p.Name
	}
	return client.Publication{Address: p.Address, Port: p.Port, Count: p.Count, To: p.Inside(),
		Protocol: p.Protocol}.String()
}

// placed tells whether both have a port of the host.
func placed(a, b client.Port) bool { return a.Port != 0 && b.Port != 0 }

// portVars tell a program its ports, and where on the host they are. A name that shells cannot read is
// told with _ for what they do not take, too, unless another port has that name.
func (p *plan) portVars() map[string]string {
	env := map[string]string{}
	put := func(name string, port client.Port) {
		env["FREEJAIL_PORT_"+name] = strconv.Itoa(port.Inside())
		env["FREEJAIL_ADDR_"+name] = port.Address
		if !p.onHost() {
			env["FREEJAIL_ADDR_"+name] = p.address().String()
		}
		if port.Port != 0 {
			env["FREEJAIL_HOST_PORT_"+name], env["FREEJAIL_HOST_ADDR_"+name] = strconv.Itoa(port.Port), port.Address
		}
	}
	named := slices.DeleteFunc(slices.Clone(p.ports), func(port client.Port) bool {
		return strings.Contains(port.Name, ".") // another place of one that has its variables
	})
	for _, port := range named {
		put(envName(port.Name), port)
	}
	for _, port := range named {
		if !strings.ContainsAny(port.Name, "=\x00") {
			put(port.Name, port)
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

// maxLeave is how long a task that is stopped can be kept from its signal, at most.
const maxLeave = 10 * time.Minute

// checkServices refuses what would be read as something else in Consul.
func checkServices(o client.Overrides) error {
	if d := time.Duration(o.ShutdownDelay); d < 0 || d > maxLeave {
		return client.Invalid("services: shutdown_delay %s: expected up to %s", d, maxLeave)
	}
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
