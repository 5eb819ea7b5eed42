package daemon

import (
	"context"
	"fmt"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
)

// RulesetInfos are the rulesets that the daemon has made.
func (d *Daemon) RulesetInfos() []client.Ruleset {
	out := []client.Ruleset{}
	for _, s := range d.rulesets.List() {
		r := client.Ruleset{ID: int(s.ID), Holders: s.Holders}
		for _, rule := range s.Rules {
			r.Rules = append(r.Rules, rule.String())
		}
		out = append(out, r)
	}
	return out
}

// Explain tells what a jail would see if all were permitted that its
// image asks for.
func (d *Daemon) Explain(ctx context.Context, ref string) (*client.DevfsView, error) {
	img, err := d.images.Resolve(ctx, client.TaskSpec{Image: ref})
	if err != nil {
		return nil, err
	}
	var asked []devfs.Rule
	for _, text := range img.Manifest.Requires.Devfs {
		rule, err := devfs.ParseRule(text)
		if err != nil {
			return nil, client.Invalid("image %s: %v", img.Name, err)
		}
		asked = append(asked, rule)
	}
	rules, from := d.composed(asked)
	names, err := devfs.HostNodes()
	if err != nil {
		return nil, err
	}
	view := &client.DevfsView{Image: img.Name, Nodes: []client.Node{}}
	for _, rule := range rules {
		view.Rules = append(view.Rules, rule.String())
	}
	for _, name := range names {
		node := devfs.Node{Path: name}
		visible, by := devfs.Explain(rules, node)
		out := client.Node{Path: name, Visible: visible, From: from(by), Types: devfs.TypesVisible(rules, name)}
		if by >= 0 {
			out.Rule = rules[by].String()
		}
		const none = 1 << 31
		if mode := devfs.Mode(rules, node, none); mode != none {
			out.Mode = fmt.Sprintf("%o", mode)
		}
		view.Nodes = append(view.Nodes, out)
	}
	return view, nil
}

// composed are all rules of a jail, and whose the rule at a place is.
func (d *Daemon) composed(asked []devfs.Rule) ([]devfs.Rule, func(int) string) {
	open := d.cfg.Devfs.Open
	from := func(i int) string {
		switch {
		case i < 1:
			return "first"
		case i < 1+len(open):
			return "open"
		case i < 1+len(open)+len(asked):
			return "image"
		}
		return "close"
	}
	return devfs.Compose(open, asked, d.cfg.Devfs.Close), from
}
