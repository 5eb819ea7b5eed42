package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cloud is a registry as Amazon's are: a helper gives a password, which ends. With one that has ended the private one
// answers 403, the public one 400, both without a challenge.
type cloud struct {
	public    bool
	forbidden string // a repository that is not for this user
	endsAt    string // in the path of the request before which the password ends, once

	mu       sync.Mutex
	password int
	file     string // where the helper reads it
	next     http.Handler
}

func (c *cloud) end(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renew(t)
}

func (c *cloud) renew(t *testing.T) {
	c.password++
	check(t, os.WriteFile(c.file, fmt.Appendf(nil, "password-%d", c.password), 0o600))
}

func (c *cloud) handler(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		if c.endsAt != "" && strings.Contains(r.URL.Path, c.endsAt) && r.Method != http.MethodHead {
			c.endsAt = ""
			c.renew(t)
		}
		good, challenge, status := fmt.Sprintf("password-%d", c.password), `Basic realm="cloud"`, http.StatusForbidden
		c.mu.Unlock()
		user, password, basic := r.BasicAuth()
		known := basic && user == "AWS" && password == good
		if c.public {
			if r.URL.Path == "/token" && known {
				_, _ = fmt.Fprintf(w, `{"token":%q}`, good)
				return
			}
			known = r.Header.Get("Authorization") == "Bearer "+good
			challenge, status = `Bearer realm="https://`+r.Host+`/token",service="cloud"`, http.StatusBadRequest
		}
		switch {
		case r.Header.Get("Authorization") == "":
			w.Header().Set("Www-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		case !known:
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"Your authorization token has expired."}]}`))
		case c.forbidden != "" && strings.Contains(r.URL.Path, c.forbidden):
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"not authorized to perform this"}]}`))
		default:
			c.next.ServeHTTP(w, r)
		}
	}
}

// start returns a client that has the helper in its auth file, and how often that was asked.
func (c *cloud) start(t *testing.T) (client *Client, host string, asked func() int) {
	dir := t.TempDir()
	c.file = filepath.Join(dir, "password")
	c.end(t)
	srv, err := NewServer(t.TempDir(), ServerOptions{})
	check(t, err)
	t.Cleanup(func() { check(t, srv.Close()) })
	c.next = srv
	host, ca := secure(t, c.handler(t))
	check(t, os.WriteFile(filepath.Join(dir, "docker-credential-cloud"), fmt.Appendf(nil, `#!/bin/sh
[ "$1" = get ] && [ "$(cat)" = %q ] || exit 1
echo asked >>%[2]s/asked
printf '{"ServerURL":"%[1]s","Username":"AWS","Secret":"%%s"}' "$(cat %[2]s/password)"
`, host, dir), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	file := filepath.Join(dir, "auth.json")
	check(t, os.WriteFile(file, fmt.Appendf(nil, `{"credHelpers":{%q:"cloud"}}`, host), 0o600))
	client, err = NewClient(Config{Hosts: []Host{{Name: host, CAFile: ca, AuthFile: file}}})
	check(t, err)
	return client, host, func() int {
		b, err := os.ReadFile(filepath.Join(dir, "asked"))
		check(t, err)
		return strings.Count(string(b), "asked")
	}
}

// A helper is asked once, and again when what it has told has ended: before a pull, in the middle of one, and of a push.
func TestHelperIsAskedAnew(t *testing.T) {
	defer func(d time.Duration) { young = d }(young)
	young = 0
	impatient(t)
	for _, public := range []bool{false, true} {
		t.Run(fmt.Sprint("public ", public), func(t *testing.T) {
			c := &cloud{public: public}
			client, host, asked := c.start(t)
			dir, img := someImage(t)
			want := 0
			step := func(what string, calls int, err error) {
				t.Helper()
				if want += calls; err != nil || asked() != want {
					t.Fatalf("%s: asked %d times, want %d: %v", what, asked(), want, err)
				}
			}
			pull := func() error {
				got, err := client.Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{})
				if err == nil && got.Digest != img.Digest {
					t.Errorf("got %s", got.Digest)
				}
				return err
			}
			push := func(name string) error {
				_, err := client.Copy(ctx, loc(t, "oci:"+dir), loc(t, host+"/"+name), CopyOptions{})
				return err
			}
			fresh := 0
			if public { // each repository has a token to read with, and one to write
				fresh = 2
			}
			step("push", max(1, fresh), push("team/web:1"))
			step("pull", 0, pull())
			c.end(t)
			step("pull after the end", 1, pull())
			c.endsAt = "/blobs/"
			step("end before a blob", 1, pull())
			c.endsAt = "/uploads/up-"
			step("end within an upload", fresh+1, push("team/other:1"))
			c.endsAt = "/manifests/1"
			step("end before a manifest", fresh+1, push("team/third:1"))
		})
	}
}

// A refusal that is about the repository is no reason to ask a helper again and again.
func TestHelperIsNotAskedForNothing(t *testing.T) {
	defer func(d time.Duration) { young = d }(young)
	impatient(t)
	c := &cloud{forbidden: "/secret/"}
	client, host, asked := c.start(t)
	dir, _ := someImage(t)
	refused := func(calls int) {
		t.Helper()
		before := asked()
		_, err := client.Pull(ctx, newStore(t), ref(t, host+"/secret/web:1"), PullOptions{})
		wantError(t, err, "access denied", "not authorized to perform this")
		if n := asked() - before; n != calls {
			t.Errorf("asked %d times, want %d", n, calls)
		}
	}
	_, err := client.Copy(ctx, loc(t, "oci:"+dir), loc(t, host+"/team/web:1"), CopyOptions{})
	check(t, err)
	refused(0)
	young = 0
	refused(1)
	// One who tells the same that has ended is asked once more for it, and no more.
	young = time.Minute
	c.mu.Lock()
	c.password++
	c.mu.Unlock()
	before := asked()
	young = 0
	_, err = client.Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{})
	wantError(t, err, "access denied", "Your authorization token has expired")
	if n := asked() - before; n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
}

// What a helper does instead of telling credentials is an error with its words, without its secrets, within bounds.
func TestHelperFails(t *testing.T) {
	defer func(d time.Duration) { helperTime = d }(helperTime)
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	file := filepath.Join(dir, "auth.json")
	check(t, os.WriteFile(file, []byte(`{"credsStore":"x"}`), 0o600))
	ask := func(script string) (string, []string) {
		check(t, os.WriteFile(filepath.Join(dir, "docker-credential-x"), []byte("#!/bin/sh\n"+script), 0o755))
		var warned []string
		got, err := lookup(ctx, file, ref(t, "reg.example/web:1"), func(s string) { warned = append(warned, s) })
		if err != nil {
			return err.Error(), warned
		}
		return got.Username + ":" + got.Password, warned
	}
	for script, want := range map[string]string{
		"echo no role is attached >&2; exit 3": "the credential helper docker-credential-x: exit status 3: no role is attached",
		"echo no credentials username; exit 1": "exit status 1: no credentials username",
		"echo token S3CRET; exit 3":            "exit status 3",
		`echo '[{"Secret":"S3CRET"}]'; exit 1`: "exit status 1",
		"printf 'a\\033[2Jb' >&2; exit 1":      `a\u001b[2Jb`,
		`echo '{"Secret":"S3CRET"}'; exit 1`:   "exit status 1",
		`echo 'S3CRET'`:                        "is not an object of JSON",
		`echo '["S3CRET"]'`:                    "is not an object of JSON",
		"head -c 70000 /dev/zero | tr '\\0' x": "more than 65536 bytes",
		`sleep 1000 >/dev/null 2>&1 & echo '{"Username":"u","Secret":"p"}'; echo old configuration >&2`: "u:p",
	} {
		got, warned := ask(script)
		if !strings.Contains(got, want) || strings.Contains(got, "S3CRET") || len(got) > 1000 {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
		if strings.Contains(script, "old conf") != (len(warned) == 1 && strings.Contains(warned[0], "old configuration")) {
			t.Errorf("%s: warned %q", script, warned)
		}
	}
	helperTime = 100 * time.Millisecond
	if got, _ := ask("exec sleep 1000"); !strings.Contains(got, "did not answer within 100ms") {
		t.Error(got)
	}
	// What it has started ends with it: the other end of a FIFO that this holds is closed then.
	fifo := filepath.Join(dir, "fifo")
	check(t, syscall.Mkfifo(fifo, 0o600))
	held, err := os.OpenFile(fifo, os.O_RDWR, 0)
	check(t, err)
	helperTime = time.Second
	if got, _ := ask("(echo on; exec sleep 1000) >" + fifo + " & sleep 1000"); !strings.Contains(got, "did not answer") {
		t.Error(got)
	}
	read, err := os.Open(fifo)
	check(t, err)
	check(t, held.Close())
	b, err := io.ReadAll(read) // until nobody writes any more
	check(t, errors.Join(err, read.Close()))
	if string(b) != "on\n" {
		t.Errorf("the helper's child said %q", b)
	}
}

// A helper has the daemon's environment, and a home where that has none.
func TestHelperEnvironment(t *testing.T) {
	home := helperEnv([]string{"HOME=/", "AWS_PROFILE=p"})
	if len(home) != 2 || home[0] != "AWS_PROFILE=p" || !strings.HasPrefix(home[1], "HOME=/") || home[1] == "HOME=/" {
		t.Errorf("%q", home)
	}
	if got := helperEnv([]string{"HOME=/srv/freejail"}); len(got) != 1 || got[0] != "HOME=/srv/freejail" {
		t.Errorf("%q", got)
	}
	if got := helperEnv(nil); len(got) != 1 || got[0] != home[1] {
		t.Errorf("%q", got)
	}
}
