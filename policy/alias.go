package policy

// Chain tells what directories of the host are, whatever paths lead to them: the
// identity of the one at a path, then those of all above it up to the root. The
// first is empty where there is none.
type Chain func(path string) []string

// OnHost lets denies of directories be about those that are there, by any path:
// one with links, or of another mount of the same.
func (p *Policy) OnHost(c Chain) { p.chain = c }

// aliases has the denied directories of a host by what they are: the places of
// entries by the directory itself, and by each that it is in.
type aliases struct{ self, above map[string][]int }

func (t *table) aliases(chain Chain) *aliases {
	out := &aliases{self: map[string][]int{}, above: map[string][]int{}}
	for i, e := range t.entries[Mount] {
		if e.mount.fstype != nullfs {
			continue
		}
		ids := chain(e.mount.path)
		for n, id := range ids {
			if n > 0 {
				out.above[id] = append(out.above[id], i)
			} else if id != "" {
				out.self[id] = append(out.self[id], i)
			}
		}
	}
	return out
}

// touchingAlias is the place of a deny of a directory that is asked for by
// another path, is in it, or has it below.
func (j *judge) touchingAlias(a *ask) string {
	if j.chain == nil || a.mount.odd {
		return ""
	}
	if j.aliases == nil {
		j.aliases = j.denies.aliases(j.chain)
	}
	list := j.denies.entries[Mount]
	in := func(places []int) string {
		for _, i := range places {
			if list[i].about(j.refuse, a.Source) {
				return list[i].where
			}
		}
		return ""
	}
	ids := j.chain(a.mount.where)
	for _, id := range ids {
		if where := in(j.aliases.self[id]); where != "" {
			return where
		}
	}
	if len(ids) == 0 || ids[0] == "" {
		return ""
	}
	return in(j.aliases.above[ids[0]])
}
