package devfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// ErrTaken means that a rule number of a ruleset is in use: the ruleset belongs
// to someone else.
var ErrTaken = errors.New("the rule number is taken")

// Kernel holds rulesets. FreeBSD's is the real one; elsewhere they are kept in
// memory. Add with a number that is there fails with ErrTaken.
type Kernel interface {
	Sets() ([]uint16, error)
	Rules(set uint16) ([]Rule, error)
	Add(set, number uint16, r Rule) error
	Delete(set uint16) error
}

// Store keeps the registry over restarts.
type Store interface {
	Load() ([]Set, error)
	Save([]Set) error
}

// Set is one ruleset of freejail and the tasks that hold it, which are not
// stored: what tasks there are tell their journals.
type Set struct {
	ID      uint16   `json:"id"`
	Hash    string   `json:"hash"`
	Rules   []Rule   `json:"rules"`
	Holders []string `json:"-"`
}

// Config bounds what the registry may make.
type Config struct {
	First, Last uint16 // the ids that are freejail's to use
	MaxSets     int
	MaxRules    int
}

// Registry hands out rulesets: equal rule lists share one, a set without
// holders is kept for reuse until its place is needed, and a set that freejail
// did not make is never touched.
type Registry struct {
	mu     sync.Mutex
	kernel Kernel
	store  Store
	cfg    Config
	sets   map[uint16]*Set
}

// NewRegistry loads what was stored. Nothing is trusted until Reconcile or
// Acquire have compared it with the kernel.
func NewRegistry(k Kernel, s Store, cfg Config) (*Registry, error) {
	list, err := s.Load()
	if err != nil {
		return nil, err
	}
	r := &Registry{kernel: k, store: s, cfg: cfg, sets: map[uint16]*Set{}}
	for _, set := range list {
		r.sets[set.ID] = &set
	}
	return r, nil
}

// Acquire returns a ruleset with exactly these rules, read back from the
// kernel, and notes its holder.
func (r *Registry) Acquire(rules []Rule, holder string) (uint16, error) {
	if len(rules) > r.cfg.MaxRules {
		return 0, fmt.Errorf("devfs: the task needs %d rules, the host's maximum is %d (devfs { max_rules })",
			len(rules), r.cfg.MaxRules)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	hash := hashRules(rules)
	for _, s := range r.sets {
		if s.Hash != hash {
			continue
		}
		same, err := r.loaded(s)
		if err != nil {
			return 0, err
		}
		if same {
			s.hold(holder)
			return s.ID, nil
		}
	}
	s, err := r.create(rules, hash)
	if err != nil {
		return 0, err
	}
	s.hold(holder)
	return s.ID, nil
}

func (s *Set) hold(holder string) {
	if !slices.Contains(s.Holders, holder) {
		s.Holders = append(s.Holders, holder)
	}
}

// loaded tells whether the kernel has the set wholly, as we know it.
func (r *Registry) loaded(s *Set) (bool, error) {
	have, err := r.kernel.Rules(s.ID)
	if err != nil {
		return false, err
	}
	return hashRules(have) == s.Hash, nil
}

// create claims a free id: the first rule is added with its number, which the
// kernel refuses where the set is someone's already.
func (r *Registry) create(rules []Rule, hash string) (*Set, error) {
	if err := r.makeRoom(); err != nil {
		return nil, err
	}
	used, err := r.kernel.Sets()
	if err != nil {
		return nil, err
	}
	for id := int(r.cfg.First); id <= int(r.cfg.Last); id++ {
		if slices.Contains(used, uint16(id)) || r.sets[uint16(id)] != nil {
			continue
		}
		s := &Set{ID: uint16(id), Hash: hash, Rules: slices.Clone(rules)}
		// Stored before it is made: after a crash in between it is known as ours.
		r.sets[s.ID] = s
		if err := r.save(); err != nil {
			delete(r.sets, s.ID)
			return nil, err
		}
		err := r.load(s)
		if errors.Is(err, ErrTaken) {
			delete(r.sets, s.ID)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("devfs ruleset %d: %w", s.ID, err)
		}
		return s, nil
	}
	return nil, fmt.Errorf("devfs: no ruleset from %d to %d is free (devfs { first, last })", r.cfg.First, r.cfg.Last)
}

func (r *Registry) load(s *Set) error {
	for i, rule := range s.Rules {
		if err := r.kernel.Add(s.ID, uint16(i+1), rule); err != nil {
			if i == 0 {
				return err
			}
			return errors.Join(fmt.Errorf("rule %d (%s): %v", i+1, rule, err), r.drop(s))
		}
	}
	same, err := r.loaded(s)
	if err == nil && !same {
		err = errors.New("the rules in the kernel differ from those written")
	}
	if err != nil {
		return errors.Join(err, r.drop(s))
	}
	return nil
}

func (r *Registry) drop(s *Set) error {
	if err := r.kernel.Delete(s.ID); err != nil {
		return err
	}
	delete(r.sets, s.ID)
	return r.save()
}

// makeRoom drops a set that nobody holds when the maximum is reached.
func (r *Registry) makeRoom() error {
	if len(r.sets) < r.cfg.MaxSets {
		return nil
	}
	for _, s := range r.sets {
		if len(s.Holders) == 0 {
			return r.drop(s)
		}
	}
	return fmt.Errorf("devfs: all %d rulesets that the host allows are in use (devfs { max_sets })", r.cfg.MaxSets)
}

// Release takes a holder's hold back. One that holds nothing is no error.
func (r *Registry) Release(holder string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sets {
		s.Holders = slices.DeleteFunc(s.Holders, func(h string) bool { return h == holder })
	}
}

// Reconcile compares the registry with the kernel and with the tasks that
// exist: the set of each. It is then their only holders', and sets that nobody
// holds are deleted, if the kernel's rules are still a beginning of ours. A set
// that someone changed is no longer ours to delete and is forgotten.
func (r *Registry) Reconcile(live map[string]uint16) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for id, s := range r.sets {
		s.Holders = nil
		for holder, set := range live {
			if set == id {
				s.Holders = append(s.Holders, holder)
			}
		}
		if len(s.Holders) > 0 {
			continue
		}
		have, err := r.kernel.Rules(id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		delete(r.sets, id)
		if len(have) > 0 && len(have) <= len(s.Rules) && hashRules(have) == hashRules(s.Rules[:len(have)]) {
			errs = append(errs, r.kernel.Delete(id))
		}
	}
	return errors.Join(append(errs, r.save())...)
}

// List returns all sets by their ids.
func (r *Registry) List() []Set {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list()
}

func (r *Registry) list() []Set {
	out := make([]Set, 0, len(r.sets))
	for _, s := range r.sets {
		c := *s
		c.Holders = slices.Clone(s.Holders)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Set) int { return int(a.ID) - int(b.ID) })
	return out
}

func (r *Registry) save() error { return r.store.Save(r.list()) }

func hashRules(rules []Rule) string {
	var b strings.Builder
	for _, r := range rules {
		b.WriteString(r.String() + "\n")
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:])
}
