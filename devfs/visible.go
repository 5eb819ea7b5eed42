package devfs

// Node is a device node, by its path below /dev and its type.
type Node struct {
	Path, Type string
}

// Visible evaluates rules on a node as the kernel does: every rule that
// matches acts, in order.
func Visible(rules []Rule, n Node) bool {
	visible := true
	for _, r := range rules {
		if !r.matches(n) {
			continue
		}
		if r.Hide {
			visible = false
		}
		if r.Unhide {
			visible = true
		}
	}
	return visible
}

// Mode is the mode that the rules give to a node, or def.
func Mode(rules []Rule, n Node, def uint32) uint32 {
	for _, r := range rules {
		if r.Mode != nil && r.matches(n) {
			def = *r.Mode
		}
	}
	return def
}

func (r Rule) matches(n Node) bool {
	if r.Type != "" && r.Type != n.Type {
		return false
	}
	if r.Path == "" {
		return true
	}
	g, err := parseGlob(r.Path)
	return err == nil && g.matches(n.Path) // a pattern that cannot be read was refused before
}
