package storage

import (
	"fmt"
	"slices"
	"sync"

	"github.com/freejail/freejail/internal/remove"
)

// leftovers are what could not be removed, by its name, and why: files with flags
// that the host's securelevel keeps, a dataset that somebody holds. Nothing needs
// their names, and the next daemon tries again.
type leftovers struct {
	mu sync.Mutex
	m  map[string]error
}

func (l *leftovers) note(name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = map[string]error{}
	}
	l.m[name] = err
	if err == nil {
		delete(l.m, name)
	}
}

// discard removes a tree that nothing needs any more.
func (l *leftovers) discard(path string) error {
	err := remove.Tree(path)
	l.note(path, err)
	return err
}

// Leftovers tells what could not be removed, each with the reason.
func (l *leftovers) Leftovers() (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, err := range l.m {
		out = append(out, fmt.Sprintf("%s: %v", name, err))
	}
	slices.Sort(out)
	return out
}
