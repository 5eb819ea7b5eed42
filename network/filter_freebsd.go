package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// pfConf are the lines that the host's pf.conf needs, each among those of its kind: translations come
// before rules. Rules after the last of them have the last word on what is published.
const pfConf = `nat-anchor "freejail"
rdr-anchor "freejail"
anchor "freejail"`

// pfctl runs pfctl(8): the interface of pf that every kernel's base system has right. It gives what it
// has written, or an error with its words.
type pfctl func(input string, args ...string) (string, error)

// pfctlTime is more than the largest load takes.
const pfctlTime = time.Minute

func runPfctl(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pfctlTime)
	defer cancel()
	c := exec.CommandContext(ctx, "/sbin/pfctl", args...)
	c.Stdin = strings.NewReader(input)
	var told strings.Builder
	c.Stderr = &told
	out, err := c.Output()
	if err != nil {
		return string(out), fmt.Errorf("pfctl %s: %s: %w", strings.Join(args, " "), pfWords(told.String()), err)
	}
	return string(out), nil
}

// pfWords are pfctl's without those that it always says.
func pfWords(told string) string {
	lines := slices.DeleteFunc(strings.Split(told, "\n"), func(l string) bool {
		return l == "" || strings.Contains(l, "ALTQ")
	})
	return strings.Join(lines, "; ")
}

// pf is the filter of FreeBSD.
type pf struct {
	pfctl pfctl
	host  func() (pfHost, error)
	lock  *anchorLock // nil where nobody else can have the anchor

	killsByStack bool // a kernel that finds states by what a stack sees of them

	checking sync.Mutex
	main     []pfSets // the host's, which name the anchors; nil until they were found to

	// What follows is the Manager's to guard: it loads and compares one at a time.
	loader   pfLoader
	networks []Network
	tasks    []Task
	seen     pfHost
}

func newFilter(cfg Config) (filter, error) {
	return newPF(&anchorLock{path: pfLock, stateDir: cfg.StateDir}), nil
}

func newPF(lock *anchorLock) *pf {
	p := &pf{pfctl: runPfctl, host: findPFHost, lock: lock, killsByStack: findsByStack()}
	p.loader.kernel = p
	return p
}

// check tells what pf.conf or rc.conf lacks. The main rules are read again when they have changed.
func (p *pf) check() error {
	p.checking.Lock()
	defer p.checking.Unlock()
	if _, err := os.Stat(pfDevice); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: pf is not loaded: kldload pf, and sysrc pf_enable=YES && service pf start", errNoFilter)
	}
	on, err := p.enabled()
	if err == nil && !on {
		err = errors.New("pf is not enabled: sysrc pf_enable=YES && service pf start")
	}
	if err == nil && p.lock != nil {
		err = p.lock.free()
	}
	if err != nil {
		return err
	}
	main, err := p.sets("")
	if err != nil || slices.Equal(main, p.main) {
		return err
	}
	missing, err := p.missingAnchors()
	if err == nil && len(missing) == 0 {
		p.main = main
	}
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("the host's pf rules do not name freejail's: add to /etc/pf.conf, translations before rules, "+
			"and then service pf reload: %s", strings.Join(missing, ", "))
	}
	return err
}

// pfAnchorLine is how pfctl shows one of the lines of pfConf, with or without options.
var pfAnchorLine = regexp.MustCompile(`(?m)^((?:nat-|rdr-)?anchor "freejail")`)

func (p *pf) missingAnchors() ([]string, error) {
	nat, err1 := p.pfctl("", "-s", "nat")
	rules, err2 := p.pfctl("", "-s", "rules")
	there := pfAnchorLine.FindAllString(nat+"\n"+rules, -1)
	missing := slices.DeleteFunc(strings.Split(pfConf, "\n"), func(l string) bool { return slices.Contains(there, l) })
	return missing, errors.Join(err1, err2)
}

// load has pf be as networks and tasks need it: where it is so by now nothing is changed.
func (p *pf) load(networks []Network, tasks []Task) error {
	if _, err := os.Stat(pfDevice); errors.Is(err, fs.ErrNotExist) {
		p.loader.begun = false
		return errNoFilter
	}
	if p.lock == nil {
		return p.render(networks, tasks)
	}
	if err := p.lock.take(); err != nil {
		return err
	}
	err := p.render(networks, tasks)
	if err == nil && len(networks)+len(tasks) == 0 {
		p.loader.begun = false // what another daemon makes of it is not known
		err = p.lock.leave()
	}
	return err
}

func (p *pf) render(networks []Network, tasks []Task) error {
	p.networks, p.tasks = networks, tasks
	host, err := p.host()
	if err != nil {
		return err
	}
	want, err := pfRules(networks, tasks, host)
	if err != nil {
		return err
	}
	err = p.loader.apply(want, pfAddresses(tasks))
	if err == nil {
		p.seen = host
	}
	return err
}

// pfAddresses are those of tasks that pf has rules for.
func pfAddresses(tasks []Task) (addrs []netip.Addr) {
	for _, t := range tasks {
		if t.Mode.needsRules() {
			addrs = append(addrs, pfValid(t.Addr4, t.Addr6)...)
		}
		if t.Mode == Bridged {
			addrs = append(addrs, pfValid(t.linkLocal())...)
		}
	}
	return addrs
}

// loaded compares what pf has with what it had after the last load. Where the host's addresses are others than
// they were, the rules follow.
func (p *pf) loaded() (bool, error) {
	if err := p.check(); err != nil {
		return false, err
	}
	if same, err := p.loader.intact(); err != nil || !same {
		return false, err
	}
	host, err := p.host()
	same := host.Links == p.seen.Links && host.States == p.seen.States
	if err != nil || same && slices.Equal(host.Addresses, p.seen.Addresses) {
		return err == nil, err
	}
	err = p.render(p.networks, p.tasks)
	return err == nil, err
}

func (p *pf) loadAnchor(text string) error {
	_, err := p.pfctl(text, "-q", "-o", "none", "-a", pfAnchor, "-f", "-")
	return err
}

var (
	pfShownTable = regexp.MustCompile(`(?m)^(freejail_\S+)$`)
	pfShownAlias = regexp.MustCompile(`(?m)^pass in inet6? proto \S+ from any to (\S+) port`)
)

// left finds the addresses of nat and bridged networks in tables, those of alias networks in rules.
func (p *pf) left() (addrs []netip.Addr, err error) {
	tables, err := p.pfctl("", "-a", pfAnchor, "-s", "Tables")
	if err != nil { // there is no anchor
		return nil, nil
	}
	for _, m := range pfShownTable.FindAllStringSubmatch(tables, -1) {
		if m[1] == pfAnchor+"_host" || m[1] == pfAnchor+"_nets" {
			continue
		}
		list, _, err := p.addresses(m[1])
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			addrs = append(addrs, a.Addr())
		}
	}
	rules, err := p.pfctl("", "-a", pfAnchor, "-s", "rules")
	for _, m := range pfShownAlias.FindAllStringSubmatch(rules, -1) {
		if a, err := netip.ParseAddr(m[1]); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs, err
}

// findPFHost looks at the host's addresses, at how bridges are filtered, and at what pf has room for.
func findPFHost() (pfHost, error) {
	addrs, err := kernelAddresses()
	if err != nil {
		return pfHost{}, err
	}
	member, noBridge := unix.SysctlUint32("net.link.bridge.pfil_member")
	states, err := stateLimit()
	return pfHost{Addresses: addrs, Links: noBridge == nil && member != 0, States: states}, err
}
