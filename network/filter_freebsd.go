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

	checking sync.Mutex
	main     []pfRuleset // the host's, which name the anchors

	// What follows is the Manager's to guard: it loads and compares one at a time.
	text     string       // of the last load
	rules    []pfRuleset  // as the kernel had them after it
	labels   []pfText     // of its tasks
	addrs    []netip.Addr // of its tasks
	networks []Network
	tasks    []Task
}

func newFilter(Config) (filter, error) {
	return &pf{pfctl: runPfctl, host: findPFHost, lock: &anchorLock{}}, nil
}

// check tells what pf.conf or rc.conf lacks. The main rules are read again when they have changed.
func (p *pf) check() error {
	p.checking.Lock()
	defer p.checking.Unlock()
	if _, err := os.Stat(pfDevice); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: pf is not loaded: kldload pf, and sysrc pf_enable=YES && service pf start", errNoFilter)
	}
	if _, err := p.pfctl("", "-s", "Running"); err != nil {
		return errors.New("pf is not enabled: sysrc pf_enable=YES && service pf start")
	}
	main, err := pfRulesets("")
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

// load replaces the anchor in one transaction of pf's: its tables, translations and rules are the old
// ones until all of the new ones are there, and stay where pfctl refuses one.
func (p *pf) load(networks []Network, tasks []Task) error {
	if _, err := os.Stat(pfDevice); errors.Is(err, fs.ErrNotExist) {
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
		err = p.lock.leave()
	}
	return err
}

func (p *pf) render(networks []Network, tasks []Task) error {
	host, err := p.host()
	if err != nil {
		return err
	}
	text, err := pfRules(networks, tasks, host)
	if err != nil {
		return err
	}
	return p.replace(text, networks, tasks)
}

func (p *pf) replace(text string, networks []Network, tasks []Task) error {
	if p.rules == nil { // the first load of this daemon
		p.labels, p.addrs = p.left()
	}
	if _, err := p.pfctl(text, "-q", "-o", "none", "-a", pfAnchor, "-f", "-"); err != nil {
		return err
	}
	rules, err := pfRulesets(pfAnchor)
	if err != nil {
		return err
	}
	labels, addrs := pfOf(tasks)
	err = p.forget(labels, addrs)
	p.text, p.rules, p.networks, p.tasks = text, rules, networks, tasks
	if err == nil {
		p.labels, p.addrs = labels, addrs
	} else { // what is not forgotten is tried again at the next load
		p.labels, p.addrs = append(p.labels, labels...), append(p.addrs, addrs...)
	}
	return err
}

// pfOf are the labels and addresses of tasks.
func pfOf(tasks []Task) (labels []pfText, addrs []netip.Addr) {
	for _, t := range tasks {
		if t.Mode == NAT || t.Mode == Bridged || t.Mode == Alias {
			labels, addrs = append(labels, pfLabel(t)), append(addrs, pfValid(t.Addr4, t.Addr6)...)
		}
	}
	return labels, addrs
}

// forget ends the states of the tasks of the last load which are not in this one: by label those that
// lead to a task, by address those that come from it.
func (p *pf) forget(labels []pfText, addrs []netip.Addr) error {
	var errs []error
	for _, l := range p.labels {
		if !slices.Contains(labels, l) {
			_, err := p.pfctl("", "-q", "-M", "-k", "label", "-k", l.text)
			errs = append(errs, err)
		}
	}
	for _, a := range p.addrs {
		if !slices.Contains(addrs, a) {
			_, err := p.pfctl("", "-q", "-M", "-k", pfAddress(a).text)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

var (
	pfShownLabel   = regexp.MustCompile(`label "(freejail:[A-Za-z0-9_.+:-]+)"`)
	pfShownAddress = regexp.MustCompile(`pass out (?:quick )?(?:on \S+ )?inet6? from \S+ to (\S+) .*label "freejail:`)
)

// left are the labels and addresses that an earlier daemon has loaded; none where there are no rules.
func (p *pf) left() (labels []pfText, addrs []netip.Addr) {
	shown, err := p.pfctl("", "-a", pfAnchor, "-s", "rules")
	if err != nil { // there is no anchor
		return nil, nil
	}
	for _, m := range pfShownLabel.FindAllStringSubmatch(shown, -1) {
		labels = append(labels, pfText{m[1]})
	}
	for _, m := range pfShownAddress.FindAllStringSubmatch(shown, -1) {
		if a, err := netip.ParseAddr(m[1]); err == nil {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(labels, func(a, b pfText) int { return strings.Compare(a.text, b.text) })
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(labels), slices.Compact(addrs)
}

// loaded compares what the kernel has with what it had after the last load, by the numbers that it
// gives to each change of a rule set. Where the host's addresses are others than they were, the rules
// are loaded anew.
func (p *pf) loaded() (bool, error) {
	if err := p.check(); err != nil || p.rules == nil {
		return false, err
	}
	now, err := pfRulesets(pfAnchor)
	if err != nil || !slices.Equal(now, p.rules) {
		return false, err
	}
	if same, err := p.tables(); err != nil || !same {
		return same, err
	}
	host, err := p.host()
	if err != nil {
		return false, err
	}
	text, err := pfRules(p.networks, p.tasks, host)
	if err == nil && text != p.text {
		err = p.replace(text, p.networks, p.tasks)
	}
	return err == nil, err
}

// pfTable is one that a rule uses; the kernel has no others.
var pfTable = regexp.MustCompile(`(?:from|to) (?:! )?<(\w+)>`)

// tables tells whether all tables are there: they are const, so that their addresses are the loaded ones.
func (p *pf) tables() (bool, error) {
	shown, err := p.pfctl("", "-a", pfAnchor, "-s", "Tables")
	there := strings.Fields(shown)
	for _, m := range pfTable.FindAllStringSubmatch(p.text, -1) {
		if !slices.Contains(there, m[1]) {
			return false, err
		}
	}
	return true, err
}

// findPFHost looks at the host's addresses and at how bridges are filtered.
func findPFHost() (pfHost, error) {
	addrs, err := kernelAddresses()
	member, noBridge := unix.SysctlUint32("net.link.bridge.pfil_member")
	return pfHost{Addresses: addrs, Links: noBridge == nil && member != 0}, err
}
