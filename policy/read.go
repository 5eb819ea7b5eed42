package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/freejail/freejail/internal/imagename"
)

// Blocks are the policy's in a host's file. Other blocks are not its to judge.
var Blocks = []hcl.BlockHeaderSchema{{Type: "permit"}, {Type: "deny"}, {Type: "require"},
	{Type: "set", LabelNames: []string{"name"}}, {Type: "test", LabelNames: []string{"name"}}}

// block is one permit, deny or set, or a part of a test.
type block struct {
	where                                             string
	images, digests, signers, namespaces, jobs, froms []string
	sets                                              []named
	description                                       string
	entries                                           map[Kind][]entry
}

// named is the use of a set.
type named struct{ name, where string }

// table has the entries of all blocks of a sort, by kind.
type table struct {
	blocks  []*block
	entries map[Kind][]entry
	lookups map[Kind]*lookup
	devfs   Index
	sized   bool // a mount of it has a bound
}

// Load reads the policy's blocks of a host's file; see Parse.
func Load(path string, index NewIndex) (*Policy, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return Parse(path, src, index)
}

// Parse reads permit, deny, require, set and test blocks in HCL; what else the file
// holds is not the policy's to judge. Errors name file, line and what is wrong.
func Parse(filename string, src []byte, index NewIndex) (*Policy, error) {
	r := &reader{index: index, sets: map[string]*block{}}
	if err := r.file("built-in", builtin, true); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	r.own = true
	if err := r.file(filepath.Base(filename), src, false); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	sum := sha256.Sum256(src)
	p := &Policy{digest: "sha256:" + hex.EncodeToString(sum[:]), tests: r.tests, requires: r.requires}
	var err error
	if p.permits, err = r.table(append(r.permits, always()...)); err == nil {
		p.denies, err = r.table(r.denies)
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return p, nil
}

// always is what every task may have unless it is denied: to run as any user of
// its image, to hide devices from itself, and what the host gives by itself.
func always() []*block {
	all := pattern{glob: "*"}
	b := &block{where: "what every task may do", entries: map[Kind][]entry{
		User: {{value: all}}, Devfs: {{text: "hide"}}}}
	h := &block{where: "what the host gives", froms: []string{string(FromHost)}, entries: map[Kind][]entry{
		Module: {{value: all}}, Devfs: {{text: "path shm unhide"}}}}
	for _, m := range []mountRule{{fstype: nullfs, path: "/"}, {fstype: "linprocfs"}, {fstype: "linsysfs"}, {fstype: "tmpfs"}} {
		h.entries[Mount] = append(h.entries[Mount], entry{mount: m})
	}
	for _, block := range []*block{b, h} {
		for _, list := range block.entries {
			for i := range list {
				list[i].block, list[i].where = block, block.where
			}
		}
	}
	return []*block{b, h}
}

type reader struct {
	index           NewIndex
	own             bool // no longer the built-in sets
	sets            map[string]*block
	permits, denies []*block
	requires        []requirement
	tests           []test
}

func (r *reader) file(name string, src []byte, setsOnly bool) error {
	f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if diags.HasErrors() {
		return diags
	}
	content, _, diags := f.Body.PartialContent(&hcl.BodySchema{Blocks: Blocks})
	if diags.HasErrors() {
		return diags
	}
	for _, b := range content.Blocks { // sets first: they may be used before they are written
		if b.Type == "set" {
			if err := r.set(b); err != nil {
				return err
			}
		}
	}
	if setsOnly {
		return nil
	}
	for _, b := range content.Blocks {
		if err := r.rule(b); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) set(b *hcl.Block) error {
	name := b.Labels[0]
	if old, there := r.sets[name]; there {
		return fmt.Errorf("%s: set %q is there already, at %s", place(b.DefRange), name, old.where)
	}
	s, err := r.block(b.Body, place(b.DefRange), "set")
	if err != nil {
		return err
	}
	r.sets[name] = s
	return nil
}

func (r *reader) rule(b *hcl.Block) error {
	switch b.Type {
	case "permit", "deny":
		out, err := r.block(b.Body, place(b.DefRange), b.Type)
		if err != nil {
			return err
		}
		if b.Type == "permit" {
			r.permits = append(r.permits, out)
		} else {
			r.denies = append(r.denies, out)
		}
	case "require":
		out, err := r.block(b.Body, place(b.DefRange), b.Type)
		if err != nil {
			return err
		}
		if len(out.signers) == 0 {
			return fmt.Errorf("%s: require: it says nothing: give it signer = [\"...\"]", out.where)
		}
		q := requirement{block: out, signers: out.signers}
		out.signers = nil // what is required does not narrow
		r.requires = append(r.requires, q)
	case "test":
		t, err := r.test(b)
		if err != nil {
			return err
		}
		r.tests = append(r.tests, t)
	}
	return nil
}

func place(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }

// block reads a body whose attributes are narrowings and lists of what is
// asked for.
func (r *reader) block(body hcl.Body, where, sort string) (*block, error) {
	attrs, diags := body.JustAttributes()
	if diags.HasErrors() {
		return nil, diags
	}
	b := &block{where: where, entries: map[Kind][]entry{}}
	names := make([]string, 0, len(attrs))
	for name := range attrs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := r.attribute(b, sort, attrs[name]); err != nil {
			return nil, fmt.Errorf("%s: %s: %s: %w", place(attrs[name].Range), sort, name, err)
		}
	}
	return b, nil
}

func (r *reader) attribute(b *block, sort string, a *hcl.Attribute) error {
	if a.Name == "description" {
		return text(a.Expr, &b.description)
	}
	narrowing := map[string]*[]string{"images": &b.images, "digests": &b.digests, "signer": &b.signers, "namespaces": &b.namespaces, "jobs": &b.jobs, "from": &b.froms}
	if dst, ok := narrowing[a.Name]; ok {
		if sort == "set" || sort == "require" && a.Name == "from" {
			return fmt.Errorf("it narrows a permit or a deny, and has no meaning here")
		}
		return readNarrowing(a, dst)
	}
	if sort == "require" {
		return fmt.Errorf("this is no setting of a require; there are description, signer, images, digests, namespaces and jobs")
	}
	if a.Name == "sets" {
		list, err := items(a.Expr)
		for _, i := range list {
			if _, ok := r.sets[i.value]; !ok {
				return fmt.Errorf("there is no set %q; see `freejail policy sets`", i.value)
			}
			b.sets = append(b.sets, named{i.value, i.where})
		}
		if err == nil && sort == "set" {
			err = fmt.Errorf("a set is not made of sets")
		}
		return err
	}
	return b.privileges(a, sort)
}

func readNarrowing(a *hcl.Attribute, dst *[]string) error {
	list, err := items(a.Expr)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("the list is empty, so that the block would be about nothing: leave it out, or name something")
	}
	for _, i := range list {
		hex, is := strings.CutPrefix(i.value, "sha256:")
		switch {
		case a.Name == "digests" && (!is || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != ""):
			return fmt.Errorf("%q is not sha256: and 64 hexadecimal digits", i.value)
		case a.Name == "from" && i.value != string(FromImage) && i.value != string(FromJob):
			return fmt.Errorf("%q is neither image nor job", i.value)
		}
		if _, err := path.Match(i.value, ""); err != nil {
			return fmt.Errorf("%q: %w", i.value, err)
		}
		*dst = append(*dst, i.value)
		if name := imagename.Canonical(i.value); a.Name == "images" && name != i.value {
			*dst = append(*dst, name)
		}
	}
	return nil
}

// listNames are the attributes of blocks, by the kind that they are about.
var listNames = map[string]Kind{"devfs": Devfs, "allow": Allow, "jail": Jail, "sysvipc": SysVIPC, "sysctl": Sysctl, "mounts": Mount,
	"ports": Port, "users": User, "modules": Module, "nfs": NFS, "vnet": VNET, "linux": Linux, "services": Service}

func (b *block) privileges(a *hcl.Attribute, sort string) error {
	kind, ok := listNames[a.Name]
	if !ok {
		return fmt.Errorf("this is no setting of a %s; there are description, images, digests, signer, namespaces, jobs, from, sets, "+
			"devfs, allow, jail, sysvipc, sysctl, mounts, ports, services, users, modules, nfs, vnet and linux", sort)
	}
	read := items
	switch kind {
	case Jail, Sysctl:
		read = pairs
	case NFS, VNET, Linux:
		read = func(hcl.Expression) ([]item, error) { return truth(a) }
	}
	list, err := read(a.Expr)
	if err != nil {
		return err
	}
	for _, i := range list {
		e, err := newEntry(kind, i)
		if err != nil {
			return err
		}
		if err := e.deniable(kind); sort == "deny" && err != nil {
			return err
		}
		e.block = b
		b.entries[kind] = append(b.entries[kind], e)
	}
	return nil
}

// deniable refuses what would deny less than it seems to, or nothing.
func (e *entry) deniable(kind Kind) error {
	has := func(word string) bool { return slices.Contains(strings.Fields(e.text), word) }
	switch {
	case e.mount.sized:
		return fmt.Errorf("%q: a size is for a permit", e.text)
	case e.service.own:
		return fmt.Errorf("%q: a deny names what it denies", e.text)
	case kind == Devfs && has("hide") && !has("unhide") && !has("mode") && !has("user") && !has("group"):
		return fmt.Errorf("%q: a rule that only hides is no privilege, so that this denies nothing: write unhide", e.text)
	}
	return nil
}

// elsewhere are jail parameters that are asked for in words of their own.
var elsewhere = map[string]string{"allow": "allow", "vnet": "vnet", "sysvshm": "sysvipc", "sysvmsg": "sysvipc", "sysvsem": "sysvipc"}

func newEntry(kind Kind, i item) (e entry, err error) {
	e = entry{where: i.where, text: i.value}
	switch kind {
	case Allow:
		e.name, err = newPattern("allow." + strings.TrimPrefix(i.value, "allow."))
	case Jail, Sysctl:
		e.text = i.key + "=" + i.value
		top, _, _ := strings.Cut(i.key, ".")
		if word := elsewhere[top]; word != "" && kind == Jail {
			return e, fmt.Errorf("%q is asked for by %s: write it there", i.key, word)
		}
		if e.name, err = newPattern(i.key); err == nil {
			e.value, err = newValue(i.value)
		}
	case SysVIPC:
		name, mode, given := strings.Cut(i.value, "=")
		if name != "shm" && name != "msg" && name != "sem" || given && mode != "new" && mode != "inherit" {
			return e, fmt.Errorf("%q: want shm, msg or sem, with =new or =inherit", i.value)
		}
		e.name, e.value = pattern{prefix: name, literal: true}, pattern{prefix: mode, literal: given, glob: "*"}
	case Mount:
		e.mount, err = parseMount(i.value)
	case Port:
		e.ports, err = parsePorts(i.value)
	case Service:
		e.service, err = parseService(i.value)
	case User, Module:
		e.value, err = newPattern(i.value)
	case NFS:
		e.value = pattern{glob: "*"}
	}
	return e, err
}

// table resolves the sets and prepares the devfs rules.
func (r *reader) table(blocks []*block) (table, error) {
	t := table{blocks: blocks, entries: map[Kind][]entry{}, lookups: map[Kind]*lookup{}}
	for _, b := range blocks {
		all := []*block{b}
		via := []string{""}
		for _, n := range b.sets {
			all, via = append(all, r.sets[n.name]), append(via, fmt.Sprintf("%s (set %s)", n.where, n.name))
		}
		for i, from := range all {
			for kind, list := range from.entries {
				for _, e := range list {
					e.block = b
					if via[i] != "" {
						e.where = via[i]
					}
					if e.service.own && !b.namesImages() && !b.namesJobs() {
						return t, fmt.Errorf("%s: services: own is what an image or a job calls itself: say in the block whose, by images or signer, "+
							"or by namespaces or jobs", e.where)
					}
					t.entries[kind], t.sized = append(t.entries[kind], e), t.sized || e.mount.sized
				}
			}
		}
	}
	for kind, list := range t.entries {
		l := newLookup(kind, list)
		t.lookups[kind] = &l
	}
	var texts []string
	for _, e := range t.entries[Devfs] {
		texts = append(texts, e.text)
		if _, err := r.index([]string{e.text}); err != nil {
			return t, fmt.Errorf("%s: devfs: %w", e.where, err)
		}
	}
	var err error
	t.devfs, err = r.index(texts)
	return t, err
}
