package devfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// opens tells that a rule gives something: one that only hides does not.
func (r Rule) opens() bool { return r.Unhide || r.Mode != nil || r.User != nil || r.Group != nil }

// mayDo reports whether the actions of the requested rule are among those of
// the permitted one: no node made visible that it does not, no bit of a mode
// and no owner that it does not give.
func (r Rule) mayDo(requested Rule) bool {
	if requested.Unhide && !r.Unhide || r.Type != "" && r.Type != requested.Type {
		return false
	}
	return idWithin(r.User, requested.User) && idWithin(r.Group, requested.Group) &&
		(requested.Mode == nil || r.Mode != nil && *requested.Mode&^*r.Mode == 0)
}

func idWithin(permitted, requested *uint32) bool {
	return requested == nil || permitted != nil && *permitted == *requested
}

// Index finds, among many rules, those that bear on a requested one.
type Index struct {
	rules    []Rule
	globs    []glob
	prefix   []string
	byPrefix map[string][]int // by what their names begin with
	prefixes []string         // sorted
	longest  int
	anyPath  []int
}

// NewIndex prepares rules, which keep their places in the list.
func NewIndex(rules []Rule) (*Index, error) {
	x := &Index{rules: rules, byPrefix: map[string][]int{}, globs: make([]glob, len(rules)),
		prefix: make([]string, len(rules))}
	for i, r := range rules {
		if r.Path == "" {
			x.anyPath = append(x.anyPath, i)
			continue
		}
		g, err := parseGlob(r.Path)
		if err != nil {
			return nil, fmt.Errorf("path %w", err)
		}
		p := g.prefix()
		x.globs[i], x.prefix[i], x.longest = g, p, max(x.longest, len(p))
		x.byPrefix[p] = append(x.byPrefix[p], i)
	}
	x.prefixes = slices.Sorted(maps.Keys(x.byPrefix))
	return x, nil
}

// Covering returns the rule that contains all of the requested one, or the
// several that do so together; none if it is not contained. Rules that use
// refuses are left out; nil takes all.
func (x *Index) Covering(requested Rule, use func(int) bool) ([]int, error) {
	may := func(i int) bool { return (use == nil || use(i)) && x.rules[i].mayDo(requested) }
	for _, i := range x.anyPath {
		if may(i) {
			return []int{i}, nil
		}
	}
	if requested.Path == "" {
		return nil, nil
	}
	g, err := parseGlob(requested.Path)
	if err != nil {
		return nil, fmt.Errorf("path %w", err)
	}
	// What all names of the request begin with, names of a rule that contains
	// it begin with too; a name can be shared out over rules with longer ones.
	p := g.prefix()
	var near, far []int
	var intricate error // of one rule: another one may do
	for n := 0; n <= min(len(p), x.longest); n++ {
		for _, i := range x.byPrefix[p[:n]] {
			if !may(i) {
				continue
			}
			in, err := g.within([]glob{x.globs[i]})
			if in {
				return []int{i}, nil
			}
			if err != nil {
				intricate = err
				continue
			}
			near = append(near, i)
		}
	}
	if len(p) == len(g) { // one name is in one rule or in none
		return nil, intricate
	}
	from, _ := slices.BinarySearch(x.prefixes, p)
	for _, longer := range x.prefixes[from:] {
		if !strings.HasPrefix(longer, p) {
			break
		}
		if longer == p {
			continue
		}
		for _, i := range x.byPrefix[longer] {
			if may(i) {
				far = append(far, i)
			}
		}
	}
	if by, err := x.together(g, append(near, far...)); len(by) > 0 || err != nil {
		return by, err
	}
	return nil, intricate
}

// maxTogether bounds how many rules are tried as one: a request over more of
// them is refused, not judged wrongly.
const maxTogether = 64

func (x *Index) together(g glob, which []int) ([]int, error) {
	if len(which) < 2 {
		return nil, nil
	}
	if len(which) > maxTogether {
		return nil, fmt.Errorf("%d rules permit parts of it: write it as several rules", len(which))
	}
	var globs []glob
	for _, i := range which {
		globs = append(globs, x.globs[i])
	}
	in, err := g.within(globs)
	if !in || err != nil {
		return nil, err
	}
	slices.Sort(which)
	return which, nil
}

// Touching returns the first rule that opens a node, in whatever way, which the
// requested one opens as well, or -1: where rules are what is denied, it denies
// the request. To show a node, to give it away and to widen its mode are one: a
// host may show it already.
func (x *Index) Touching(requested Rule, use func(int) bool) (int, error) {
	if !requested.opens() {
		return -1, nil
	}
	var g glob
	p := ""
	if requested.Path != "" {
		var err error
		if g, err = parseGlob(requested.Path); err != nil {
			return -1, fmt.Errorf("path %w", err)
		}
		p = g.prefix()
	}
	for i, r := range x.rules {
		if q := x.prefix[i]; p != "" && q != "" && !strings.HasPrefix(p, q) && !strings.HasPrefix(q, p) {
			continue
		}
		if use != nil && !use(i) || r.Type != "" && requested.Type != "" && r.Type != requested.Type || !r.opens() {
			continue
		}
		if r.Path == "" || requested.Path == "" || g.meets(x.globs[i]) {
			return i, nil
		}
	}
	return -1, nil
}
