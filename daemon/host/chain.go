package host

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// chain is the policy.Chain of this host. Of a path that is not there, what is
// above it counts. It looks and opens nothing: what is mounted was opened before.
func chain(path string) []string {
	var ids []string
	real, err := filepath.EvalSymlinks(path)
	for err != nil && path != "/" { // up to what is there
		ids = []string{""}
		path = filepath.Dir(path)
		real, err = filepath.EvalSymlinks(path)
	}
	for ; err == nil; real = filepath.Dir(real) {
		id := ""
		var st unix.Stat_t
		if unix.Lstat(real, &st) == nil { // what nobody can look at has no other name
			id = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
		}
		ids = append(ids, id)
		if real == "/" {
			break
		}
	}
	return ids
}
