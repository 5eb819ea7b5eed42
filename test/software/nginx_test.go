package software

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// anew makes a connection for each request: none is lost with one that was kept.
var anew = http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func get(url string) (string, error) {
	resp, err := anew.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.80q", resp.Status, body)
	}
	return string(body), err
}

// load asks for as long as it is not ended, wherever Consul says that the service passes its checks.
type load struct {
	stop   chan struct{}
	wait   sync.WaitGroup
	mu     sync.Mutex
	served int
	failed []string
}

func (c *cluster) startLoad(service string, ask func(at string) error) *load {
	l := &load{stop: make(chan struct{})}
	for range 4 {
		l.wait.Go(func() {
			var at []string
			pause := 20 * time.Millisecond // and longer on a slow host, which is to do something else too
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				case <-time.After(pause):
				}
				var err error
				asked := time.Now()
				if n%10 == 0 {
					at, err = c.passing(service, "")
				}
				if err == nil && len(at) == 0 {
					err = errNotYet
				}
				if err == nil {
					err = ask(at[rand.IntN(len(at))])
				}
				l.note(err)
				pause = max(20*time.Millisecond, 4*time.Since(asked))
			}
		})
	}
	return l
}

func (l *load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.served++
	} else {
		l.failed = append(l.failed, fmt.Sprintf("%s %v", time.Now().Format(time.TimeOnly), err))
	}
}

func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wait.Wait()
	if len(l.failed) > 0 || l.served == 0 {
		t.Errorf("%d requests were served, %d failed, first %q", l.served, len(l.failed), l.failed[:min(3, len(l.failed))])
	}
	t.Logf("%d requests", l.served)
}

// Debian's nginx serves a volume by the example's job and policy: a new version of its image gets a canary and is
// promoted under load without a failed request, its pages are packed by a job, lost, and brought back by another.
func TestNginx(t *testing.T) {
	root(t, "nginx")
	dirs := volumes(t, 80, "www", "www-backup")
	page := filepath.Join(dirs["www"], "index.html")
	check(t, os.WriteFile(page, []byte("a page\n"), 0o644))
	c := startCluster(t, readExample(t, "nginx/policy.hcl"), dirs)
	c.runsLinux()
	one, two := c.builds("nginx", "1"), c.builds("nginx", "2")
	lines := map[string]string{"services": "service nginx", "ports": "8080/tcp"}
	if runtime.GOOS == "freebsd" {
		lines["linux"] = " linux "
	}
	c.clientIsValid("nginx")
	c.needsEachPermit(readExample(t, "nginx/policy.hcl"), one, lines)

	job := c.quick("nginx/nginx.nomad.hcl")
	c.job("nginx", "-var", "image="+one, job)
	c.awaitPassing("nginx", "live", 2)
	c.isConfined(c.awaitAllocs("nginx", "running", 2)[0])
	clients := c.startLoad("nginx", func(at string) error {
		page, err := get("http://" + at + "/")
		if err == nil && page != "a page\n" {
			err = fmt.Errorf("the page is %.40q", page)
		}
		return err
	})
	c.run("nomad", "job", "run", "-detach", "-var", "image="+two, job)
	c.serves(c.awaitPassing("nginx", "canary", 1), "2\n")
	c.serves(c.awaitPassing("nginx", "live", 2), "1\n")
	id := strings.TrimSpace(c.run("nomad", "job", "deployments", "-latest", "-t", "{{ .ID }}", "nginx"))
	await(t, "the canary to be healthy", func() error {
		_, err := c.try("nomad", "deployment", "promote", "-detach", id)
		return err
	})
	c.deployed("nginx")
	c.serves(c.awaitPassing("nginx", "live", 2), "2\n")
	clients.end(t)

	c.job("nginx-backup", "-var", "image="+two, example(t, "nginx/backup.nomad.hcl"))
	c.dispatched("nginx-backup", "complete", "periodic", "force", "nginx-backup")
	packed, err := filepath.Glob(dirs["www-backup"] + "/*.tar.gz")
	check(t, err)
	if len(packed) != 1 {
		t.Fatalf("the backups are %q", packed)
	}
	check(t, os.Remove(page))
	if _, err := get("http://" + c.awaitPassing("nginx", "live", 2)[0] + "/"); err == nil {
		t.Error("there is a page without its file")
	}
	c.job("nginx-restore", "-var", "image="+two, example(t, "nginx/restore.nomad.hcl"))
	c.dispatched("nginx-restore", "failed", "dispatch", "-detach", "-meta", "backup=../etc", "nginx-restore")
	name := strings.TrimSuffix(filepath.Base(packed[0]), ".tar.gz")
	for range 2 {
		c.dispatched("nginx-restore", "complete", "dispatch", "-detach", "-meta", "backup="+name, "nginx-restore")
		check(t, os.Remove(page))
	}
	c.dispatched("nginx-restore", "complete", "dispatch", "-detach", "-meta", "backup="+name, "nginx-restore")
	for _, at := range c.awaitPassing("nginx", "live", 2) {
		if got, err := get("http://" + at + "/"); err != nil || got != "a page\n" {
			t.Errorf("restored: %q %v", got, err)
		}
	}
}

// serves has instances be of a version of the image.
func (c *cluster) serves(at []string, version string) {
	c.t.Helper()
	for _, at := range at {
		if got, err := get("http://" + at + "/version"); err != nil || got != version {
			c.t.Errorf("%s is version %q, want %q: %v", at, got, version, err)
		}
	}
}

// isConfined has a server write its volume nowhere, and be no superuser.
func (c *cluster) isConfined(a *nomad.Allocation) {
	c.t.Helper()
	out, err := c.try("nomad", "alloc", "exec", "-task", "nginx", a.ID, "/bin/sh", "-c",
		`echo x 2>&1 >/www/index.html; id -u`)
	if err != nil || !strings.Contains(out, "Read-only file system") || !strings.HasSuffix(out, "\n80\n") {
		c.t.Errorf("in the task: %q %v", out, err)
	}
}
