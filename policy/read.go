package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
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
	{Type: "approver", LabelNames: []string{"name"}}, {Type: "set", LabelNames: []string{"name"}},
	{Type: "test", LabelNames: []string{"name"}}}

// block is one permit, deny or set, or a part of a test.
type block struct {
	where                                             string
	images, digests, signers, namespaces, jobs, froms []string
	sets                                              []setUse
	description                                       string
	entries                                           map[Kind][]entry
	builtin                                           bool
}

// entry is one thing that a block permits or denies.
type entry struct {
	block *block
	where string // file:line, and the set that it comes from
	rule  rule
}

// setUse is where a block names a set.
type setUse struct{ name, where string }

// table has the entries of all permits, or of all denies, by kind.
type table struct {
	blocks []*block
	of     map[Kind]*ruling
}

// ruling is the entries of a kind, with an index of them.
type ruling struct {
	index
	entries []entry
	summed  bool // some of them limit a sum
}

// Load reads the policy's blocks of a host's file; see Parse.
func Load(path string, d Devices) (*Policy, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return Parse(path, src, d)
}

// Parse reads permit, deny, require, set and test blocks in HCL; what else the file
// holds is not the policy's to judge. Errors name file, line and what is wrong.
func Parse(filename string, src []byte, d Devices) (p *Policy, err error) {
	defer func() {
		if err != nil {
			p, err = nil, fmt.Errorf("policy: %w", err)
		}
	}()
	r := &reader{devices: d, sets: map[string]*block{}, approvers: map[string]*approver{}, builtin: true}
	if err := r.file("built-in", builtin); err != nil {
		return nil, err
	}
	always := r.permits
	r.permits, r.builtin = nil, false
	if err := r.file(filepath.Base(filename), src); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(src)
	p = &Policy{digest: "sha256:" + hex.EncodeToString(sum[:]), tests: r.tests, requires: r.requires,
		approvers: r.approvers}
	for _, a := range p.approvers {
		if a.may, err = r.table(a.blocks); err != nil {
			return nil, err
		}
	}
	for _, t := range p.tests {
		if t.approver != "" && p.approvers[t.approver] == nil {
			return nil, fmt.Errorf("%s: test %q: there is no approver %q", t.where, t.name, t.approver)
		}
	}
	if p.permits, err = r.table(append(r.permits, always...)); err != nil {
		return nil, err
	}
	p.denies, err = r.table(r.denies)
	return p, err
}

type reader struct {
	devices         Devices
	builtin         bool // it reads what comes with freejail
	sets            map[string]*block
	approvers       map[string]*approver
	permits, denies []*block
	requires        []requirement
	tests           []test
}

func (r *reader) file(name string, src []byte) error {
	f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if diags.HasErrors() {
		return Explain(name, src, diags)
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
		return fmt.Errorf("%s: set %q already exists, at %s", place(b.DefRange), name, old.where)
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
	case "set":
		return nil // it is read by now
	case "approver":
		return r.approver(b)
	case "test":
		t, err := r.test(b)
		r.tests = append(r.tests, t)
		return err
	}
	out, err := r.block(b.Body, place(b.DefRange), b.Type)
	switch {
	case err != nil:
		return err
	case b.Type == "permit":
		r.permits = append(r.permits, out)
	case b.Type == "deny":
		r.denies = append(r.denies, out)
	case len(out.signers) == 0:
		return fmt.Errorf("%s: require: signer is missing: add signer = [\"...\"]", out.where)
	default:
		r.requires = append(r.requires, requirement{out, out.signers})
		out.signers = nil // what is required does not narrow
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
	b := &block{where: where, entries: map[Kind][]entry{}, builtin: r.builtin}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
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
	narrowing := map[string]*[]string{"images": &b.images, "digests": &b.digests, "signer": &b.signers,
		"namespaces": &b.namespaces, "jobs": &b.jobs, "from": &b.froms}
	if dst, ok := narrowing[a.Name]; ok {
		if sort == "set" || sort == "require" && a.Name == "from" {
			return fmt.Errorf("it narrows a permit or a deny and is not allowed here")
		}
		return r.narrowing(a, dst)
	}
	if sort == "require" {
		return fmt.Errorf("not a setting of require: it has description, signer, images, digests, namespaces and jobs")
	}
	if a.Name == "sets" {
		list, err := readList(a)
		for _, i := range list {
			if _, ok := r.sets[i.value]; !ok {
				return fmt.Errorf("no such set %q; see `freejail policy sets`", i.value)
			}
			b.sets = append(b.sets, setUse{i.value, i.where})
		}
		if err == nil && sort == "set" {
			err = fmt.Errorf("a set cannot use other sets")
		}
		return err
	}
	return b.privileges(a, sort)
}

func (r *reader) narrowing(a *hcl.Attribute, dst *[]string) error {
	list, err := readList(a)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("the list is empty, so the block would match nothing: leave it out, or name something")
	}
	for _, i := range list {
		hex, is := strings.CutPrefix(i.value, "sha256:")
		switch {
		case a.Name == "digests" && (!is || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != ""):
			return fmt.Errorf("%q is not a valid digest (sha256: and 64 hexadecimal digits)", i.value)
		case a.Name == "from" && !r.builtin && i.value != string(FromImage) && i.value != string(FromJob):
			return fmt.Errorf("%q is not image or job", i.value)
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

func (b *block) privileges(a *hcl.Attribute, sort string) error {
	k := byAttribute(a.Name)
	if k == nil || k.rule == nil {
		return fmt.Errorf("not a setting of %s: it has description, images, digests, signer, namespaces, jobs, from, "+
			"sets, %s",
			sort, strings.Join(attributes(), ", "))
	}
	items, err := k.read(a)
	if err != nil {
		return err
	}
	for _, i := range items {
		r, err := k.rule(i)
		if err != nil {
			return err
		}
		if d, is := r.(permitOnly); is && sort == "deny" {
			if err := d.deniable(); err != nil {
				return fmt.Errorf("%q: %w", i.value, err)
			}
		}
		b.entries[k.name] = append(b.entries[k.name], entry{b, i.where, r})
	}
	return nil
}

// table resolves the sets and prepares the rules for comparison.
func (r *reader) table(blocks []*block) (t table, err error) {
	all := map[Kind][]entry{}
	for _, b := range blocks {
		via := ""
		if b.builtin {
			via = b.description
		}
		if err := b.use(b, via, all); err != nil {
			return t, err
		}
		for _, n := range b.sets {
			if err := b.use(r.sets[n.name], fmt.Sprintf("%s (set %s)", n.where, n.name), all); err != nil {
				return t, err
			}
		}
	}
	t = table{blocks: blocks, of: map[Kind]*ruling{}}
	for name, list := range all {
		limits := func(e entry) bool { b, is := e.rule.(summed); return is && b.limited() }
		index, err := kinds[name].index(list, r.devices)
		if err != nil {
			return t, err
		}
		t.of[name] = &ruling{index, list, slices.ContainsFunc(list, limits)}
	}
	return t, nil
}

// use adds the entries of a block itself, or of a set that it names at a place.
func (b *block) use(from *block, via string, all map[Kind][]entry) error {
	for kind, list := range from.entries {
		for _, e := range list {
			e.block, e.where = b, cmp.Or(via, e.where)
			if r, is := e.rule.(bound); is {
				var err error
				if e.rule, err = r.in(b); err != nil {
					return fmt.Errorf("%s: %w", e.where, err)
				}
			}
			all[kind] = append(all[kind], e)
		}
	}
	return nil
}
