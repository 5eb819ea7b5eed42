package storage

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/keylock"
)

// holders serialises the work on each chain and keeps those that are about to
// be used.
type holders struct {
	locks keylock.Map
	mu    sync.Mutex
	held  map[string]int
}

// lastChain is the one that is wanted. All names are checked.
func lastChain(chains []string) (string, error) {
	if len(chains) == 0 {
		return "", errors.New("storage: an image without layers has no root")
	}
	for _, c := range chains {
		if err := checkName("chain", c); err != nil {
			return "", err
		}
	}
	return chains[len(chains)-1], nil
}

// hold is for who has the chain's lock.
func (h *holders) hold(chain string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		h.held = map[string]int{}
	}
	h.held[chain]++
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.held[chain]--; h.held[chain] == 0 {
			delete(h.held, chain)
		}
	})
}

func (h *holders) isHeld(chain string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[chain] > 0
}

// diskUse is in bytes. What vanishes while it counts does not count, nor what lies
// too deep for a path.
func diskUse(ctx context.Context, dir string) (sum int64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if p != dir && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG)) {
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil || seen[st.Ino] {
			return err
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			seen[st.Ino] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}
