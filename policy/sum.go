package policy

import (
	"fmt"
	"math"

	"github.com/docker/go-units"
)

// sums adds up, for each line of a permit that bounds a size, all that it would
// permit to one task. What is over the bound by itself the line never permits.
func (t *table) sums(s *Subject, reqs []Request, in scope) map[*entry]int64 {
	l := t.lookups[Mount]
	if l == nil || !t.sized {
		return nil
	}
	out := map[*entry]int64{}
	list := t.entries[Mount]
	for _, r := range reqs {
		if r.Kind != Mount {
			continue
		}
		a := newAsk(r, s)
		l.each(&a, false, func(i int) bool {
			if e := &list[i]; e.mount.sized && e.covers(&a) && e.about(in, a.Source) {
				out[e] += min(a.mount.size, math.MaxInt64-out[e])
			}
			return false
		})
	}
	return out
}

// within tells whether all that a line permits to this task is within its bound.
func (j *judge) within(e *entry) error {
	sum := j.sums[e]
	if !e.mount.sized || sum <= e.mount.size {
		return nil
	}
	return fmt.Errorf("%s permits a task %s of memory together, and it asks for %s there", e.where,
		units.BytesSize(float64(e.mount.size)), units.BytesSize(float64(sum)))
}
