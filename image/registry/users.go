package registry

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Users are those of a file as htpasswd -B writes it.
type Users struct {
	hashes map[string][]byte
	nobody []byte // compared where there is no such user, to take as long
	mu     sync.Mutex
	good   map[[sha256.Size]byte]time.Time // when a user and password were found right
	busy   chan struct{}                   // bcrypt is slow on purpose
}

// believed is for how long a password is not hashed again.
const believed = 5 * time.Minute

// ReadUsers reads lines of user:bcrypt-hash.
func ReadUsers(file string) (*Users, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	u := &Users{hashes: map[string][]byte{}, good: map[[sha256.Size]byte]time.Time{}, busy: make(chan struct{}, 2)}
	if u.nobody, err = bcrypt.GenerateFromPassword([]byte(rand.Text()), bcrypt.DefaultCost); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("%s line %d: want user:hash", file, n)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("%s line %d: the password of %q is not a bcrypt hash: use htpasswd -B",
				file, n, name)
		}
		u.hashes[name] = []byte(hash)
	}
	if len(u.hashes) == 0 && lines.Err() == nil {
		return nil, fmt.Errorf("%s: no users", file)
	}
	return u, lines.Err()
}

func (u *Users) admit(r *http.Request) bool {
	name, password, ok := r.BasicAuth()
	if !ok {
		return false
	}
	key := sha256.Sum256([]byte(name + "\x00" + password))
	u.mu.Lock()
	at, known := u.good[key]
	u.mu.Unlock()
	if known && time.Since(at) < believed {
		return true
	}
	select {
	case u.busy <- struct{}{}:
		defer func() { <-u.busy }()
	case <-r.Context().Done():
		return false
	}
	hash, there := u.hashes[name]
	if !there {
		hash = u.nobody
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !there {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.good) >= 1024 {
		clear(u.good)
	}
	u.good[key] = time.Now()
	return true
}
