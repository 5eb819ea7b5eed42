package devfs

import "sync"

// Memory is a kernel for hosts that have no devfs(5), and for tests.
type Memory struct {
	mu   sync.Mutex
	sets map[uint16]map[uint16]Rule
}

// NewMemory returns a kernel without rulesets.
func NewMemory() *Memory { return &Memory{sets: map[uint16]map[uint16]Rule{}} }

// Sets lists the rulesets that have rules.
func (m *Memory) Sets() ([]uint16, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []uint16
	for id := range m.sets {
		out = append(out, id)
	}
	return out, nil
}

// Rules lists a set's rules in the order of their numbers.
func (m *Memory) Rules(set uint16) ([]Rule, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Rule
	for n := 0; n < 1<<16 && len(out) < len(m.sets[set]); n++ {
		if r, ok := m.sets[set][uint16(n)]; ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// Add adds a rule, or fails with ErrTaken.
func (m *Memory) Add(set, number uint16, r Rule) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.sets[set][number]; taken {
		return ErrTaken
	}
	if m.sets[set] == nil {
		m.sets[set] = map[uint16]Rule{}
	}
	m.sets[set][number] = r
	return nil
}

// Delete removes all rules of a set.
func (m *Memory) Delete(set uint16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sets, set)
	return nil
}
