package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// Policy and registries are always of one version of the file, while it is
// replaced without end.
func TestOneVersionIsInForce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "freejail.hcl")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := NewFollower(Config{Path: path}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	version := func(n int) string {
		return fmt.Sprintf("default_registry = \"v%d.example\"\n"+
			"permit {\n  images = [\"v%d\"]\n  allow = [\"raw_sockets\"]\n}\n", n, n)
	}
	digests := map[string]string{}
	for n := range 2 {
		if err := os.WriteFile(path, []byte(version(n)), 0o600); err != nil {
			t.Fatal(err)
		}
		now, _ := f.Follow()
		digests[now.Policy.Digest()] = now.fallback
	}
	if len(digests) != 2 {
		t.Fatalf("versions: %v", digests)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			next := path + ".new"
			if err := errors.Join(os.WriteFile(next, []byte(version(n%2)), 0o600), os.Rename(next, path)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 500 {
		if now, _ := f.Follow(); digests[now.Policy.Digest()] != now.fallback {
			t.Errorf("the policy of %s with %s", digests[now.Policy.Digest()], now.fallback)
			break
		}
	}
	close(done)
	wg.Wait()
}
