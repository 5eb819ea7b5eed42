package devfs

import "slices"

// Explain tells whether rules leave a node visible, and the place in the list
// of the rule that decided: -1 where none did, and it is visible.
func Explain(rules []Rule, n Node) (visible bool, by int) {
	visible, by = true, -1
	for i, r := range rules {
		if (r.Hide || r.Unhide) && r.matches(n) {
			visible, by = r.Unhide, i
		}
	}
	return visible, by
}

// Types are those of a node that a rule can name; a node may have none.
var Types = []string{"disk", "mem", "tape", "tty"}

// TypesVisible are the types for which alone a node of a path is visible, where
// that depends on its type; "" is none of them.
func TypesVisible(rules []Rule, path string) []string {
	var out []string
	all := append([]string{""}, Types...)
	for _, t := range all {
		if v, _ := Explain(rules, Node{Path: path, Type: t}); v {
			out = append(out, t)
		}
	}
	if len(out) == len(all) || len(out) == 0 {
		return nil
	}
	return slices.Clip(out)
}
