package devfs

import "errors"

// states is a set of places in globs, of which each may be at several.
type states []uint64

func (s states) has(i int) bool { return s[i>>6]&(1<<(i&63)) != 0 }
func (s states) add(i int)      { s[i>>6] |= 1 << (i & 63) }

// maxPairs bounds the work on patterns that were made to be hard.
const maxPairs = 1 << 12

var errIntricate = errors.New("the patterns are too complex to be compared: write them out, with fewer stars")

// within reports whether every name that g matches is matched by one of the
// others: inclusion of languages, by walking g along with the set of all places
// that the others can be at. An empty name is no name.
func (g glob) within(others []glob) (bool, error) {
	w := &walk{g: g, others: others}
	size := 0
	for _, o := range others {
		w.offsets = append(w.offsets, size)
		size += len(o) + 1
	}
	w.words = size/64 + 1
	w.letters = letters(append([]glob{g}, others...))
	start := make(states, w.words)
	for k, o := range others {
		w.reach(start, k, o, 0)
	}
	for i := range closure(g, 0) {
		w.todo = append(w.todo, pair{i, start})
	}
	return w.run()
}

type pair struct {
	at int
	s  states
}

type walk struct {
	g       glob
	others  []glob
	offsets []int
	words   int
	letters []byte
	todo    []pair
	seen    map[string]bool
}

// reach adds a place of another glob, and those after its stars.
func (w *walk) reach(s states, k int, o glob, i int) {
	for i := range closure(o, i) {
		s.add(w.offsets[k] + i)
	}
}

// closure are the places that are reached from i without a character.
func closure(g glob, i int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for yield(i) && i < len(g) && g[i].star {
			i++
		}
	}
}

func (w *walk) run() (bool, error) {
	w.seen = map[string]bool{}
	for len(w.todo) > 0 {
		p := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		if p.at == len(w.g) {
			continue
		}
		e := w.g[p.at]
		for _, b := range w.letters {
			if !e.set.has(b) {
				continue
			}
			next, after := w.step(p.s, b), p.at+1
			if e.star {
				after = p.at
			}
			for i := range closure(w.g, after) {
				if i == len(w.g) && !w.accepts(next) {
					return false, nil
				}
				if !w.push(i, next) {
					return false, errIntricate
				}
			}
		}
	}
	return true, nil
}

// push notes a pair that is yet to be walked from.
func (w *walk) push(at int, s states) bool {
	key := make([]byte, 0, 8*len(s)+2)
	key = append(key, byte(at), byte(at>>8))
	for _, word := range s {
		for shift := 0; shift < 64; shift += 8 {
			key = append(key, byte(word>>shift))
		}
	}
	if w.seen[string(key)] {
		return true
	}
	w.seen[string(key)] = true
	w.todo = append(w.todo, pair{at, s})
	return len(w.seen) <= maxPairs
}

func (w *walk) step(s states, b byte) states {
	next := make(states, w.words)
	for k, o := range w.others {
		for i, e := range o {
			if s.has(w.offsets[k]+i) && e.set.has(b) {
				if e.star {
					w.reach(next, k, o, i)
				} else {
					w.reach(next, k, o, i+1)
				}
			}
		}
	}
	return next
}

func (w *walk) accepts(s states) bool {
	for k, o := range w.others {
		if s.has(w.offsets[k] + len(o)) {
			return true
		}
	}
	return false
}

// letters has one byte of each class that the globs' sets do not tell apart.
func letters(globs []glob) []byte {
	classes := []charset{anyByte}
	known := map[charset]bool{}
	for _, g := range globs {
		for _, e := range g {
			if known[e.set] {
				continue
			}
			known[e.set] = true
			for i, c := range classes {
				in, out := c.and(e.set), c.without(e.set)
				if !in.empty() && !out.empty() {
					classes[i] = in
					classes = append(classes, out)
				}
			}
		}
	}
	out := make([]byte, len(classes))
	for i, c := range classes {
		out[i] = c.first()
	}
	return out
}

// anyByte is all that a name can hold.
var anyByte = charset{^uint64(1), ^uint64(0), ^uint64(0), ^uint64(0)}

// meets reports whether there is a name that both match.
func (g glob) meets(o glob) bool {
	if len(g) == 0 || len(o) == 0 {
		return false
	}
	width := len(o) + 1
	seen := make([]bool, (len(g)+1)*width)
	todo := []int{0}
	seen[0] = true
	push := func(i, j int) {
		if at := i*width + j; !seen[at] {
			seen[at] = true
			todo = append(todo, at)
		}
	}
	stars := true // an empty name would be the only one that both match
	for _, e := range append(append(glob{}, g...), o...) {
		stars = stars && e.star
	}
	if stars {
		return true
	}
	for len(todo) > 0 {
		i, j := todo[len(todo)-1]/width, todo[len(todo)-1]%width
		todo = todo[:len(todo)-1]
		if i == len(g) && j == len(o) {
			return true
		}
		if i < len(g) && g[i].star {
			push(i+1, j)
		}
		if j < len(o) && o[j].star {
			push(i, j+1)
		}
		if i == len(g) || j == len(o) || g[i].set.and(o[j].set).empty() {
			continue
		}
		i2, j2 := i+1, j+1
		if g[i].star {
			i2 = i
		}
		if o[j].star {
			j2 = j
		}
		push(i2, j2)
	}
	return false
}
