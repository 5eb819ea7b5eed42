package software

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const caddyRoot = "pki/authorities/local/root.crt"

// caddy is a cluster with its image, and a client that trusts the authority of its volume.
type caddy struct {
	*cluster
	client *http.Client
}

// TestCaddy runs example/caddy: a canary beside two tasks while clients ask, its promotion, a bad image and the way
// back, with the certificates on the volume; then a backup, and its return to an empty volume.
func TestCaddy(t *testing.T) {
	programs := servers(t, "caddy")
	dirs := volumes(t, 80, "caddy", "caddy-backup")
	data, backup := dirs["caddy"], dirs["caddy-backup"]
	c := &caddy{cluster: startCluster(t, "", dirs)}
	archive := c.build("caddy", "caddy:1", programs)
	c.build("caddy", "caddy:2", programs, change{"www/index.html", "Version 1", "Version 2"})
	c.build("caddy", "caddy:3", programs, change{"Caddyfile", `respond "healthy"`, "respond 503"})
	policy := readExample(t, "caddy/policy.hcl")
	c.clientIsValid("caddy")
	c.eachPermitIsNeeded(archive, policy)
	job := c.quick("caddy/caddy.nomad.hcl")
	c.jobRefused("caddy", "caddy:1", "service caddy, asked for by the image", "no permit covers it")
	c.setPolicy(policy)
	c.run("freejail", "policy", "reload")

	c.job("caddy", "-var", "image=caddy:1", "-var", "count=1", job)
	c.run("nomad", "job", "run", "-var", "image=caddy:1", job)
	authority := c.trust(t, data)
	c.serves(t, "live", 2, "Version 1")
	c.sendsToHTTPS(t)

	load := c.startLoad("caddy", func(at string) error {
		_, err := c.page(at)
		return err
	})
	version := c.submit("-var", "image=caddy:2", job)
	c.serves(t, "canary", 1, "Version 2")
	c.serves(t, "live", 2, "Version 1")
	await(t, "the canary to be promoted", func() error { // it is healthy a moment after it passes its check
		_, err := c.try("nomad", "job", "promote", "caddy")
		return err
	})
	c.serves(t, "live", 2, "Version 2")
	c.versionIs(version, "successful")

	bad := copyExample(t, "caddy", change{"caddy.nomad.hcl", `healthy_deadline  = "1m"`, `healthy_deadline = "10s"`},
		change{"caddy.nomad.hcl", `progress_deadline = "2m"`, `progress_deadline = "16s"`})
	c.versionIs(c.submit("-var", "image=caddy:3", filepath.Join(bad, "caddy.nomad.hcl")), "failed")
	c.serves(t, "live", 2, "Version 2")
	if at, err := c.passing("caddy", "canary"); err != nil || len(at) > 0 {
		t.Errorf("canaries of a bad image: %q %v", at, err)
	}
	load.end(t)

	c.periodic("caddy-backup", "-var", "image=caddy:1", example(t, "caddy/backup.nomad.hcl"))
	made, err := os.ReadDir(backup)
	check(t, err)
	if len(made) != 1 {
		t.Fatalf("the backups are %v", made)
	}
	check(t, c.nomad.EndJob(t.Context(), "caddy"))
	c.job("caddy-restore", "-var", "image=caddy:1", example(t, "caddy/restore.nomad.hcl"))
	for range 2 {
		wipe(t, data)
		c.restores("caddy", strings.TrimSuffix(made[0].Name(), ".tar"))
		if again := c.trust(t, data); again != authority {
			t.Error("another authority came out of the backup")
		}
	}
	c.run("nomad", "job", "run", "-var", "image=caddy:2", job)
	c.serves(t, "live", 2, "Version 2")
}

// trust has the client trust the authority that is on the volume, and nobody else.
func (c *caddy) trust(t *testing.T, data string) (authority string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, caddyRoot))
	check(t, err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		t.Fatalf("no certificate: %s", text)
	}
	c.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}}}
	return string(text)
}

// page is that of one instance, by HTTPS.
func (c *caddy) page(at string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+at+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host = "localhost"
	resp, err := c.client.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), errors.Join(err, resp.Body.Close())
}

// serves waits until so many instances with a tag serve a page, and no other.
func (c *caddy) serves(t *testing.T, tag string, count int, want string) {
	t.Helper()
	await(t, fmt.Sprintf("%d %s to serve %s", count, tag, want), func() error {
		at, err := c.passing("caddy", tag)
		if err != nil || len(at) != count {
			return fmt.Errorf("there are %q %w; %s", at, err, c.seen("caddy"))
		}
		for _, a := range at {
			if page, err := c.page(a); err != nil || !strings.Contains(page, want) {
				return fmt.Errorf("%s: %s %w", a, page, err)
			}
		}
		return nil
	})
}

// sendsToHTTPS asks where the task's HTTP leads.
func (c *caddy) sendsToHTTPS(t *testing.T) {
	t.Helper()
	a := c.awaitAllocs("caddy", "running", 2)[0]
	for _, p := range a.AllocatedResources.Shared.Ports {
		if p.Label != "http" {
			continue
		}
		for host, to := range map[string]string{"web.example": "web.example", "web.example:8080": "web.example",
			"192.0.2.1:80": "192.0.2.1", "[2001:db8::1]": "[2001:db8::1]", "[2001:db8::1]:80": "[2001:db8::1]"} {
			at := net.JoinHostPort(p.HostIP, strconv.Itoa(p.Value))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+"/page?a=b", nil)
			check(t, err)
			req.Host = host
			resp, err := http.DefaultTransport.RoundTrip(req)
			check(t, err)
			check(t, resp.Body.Close())
			if got := resp.Header.Get("Location"); got != "https://"+to+"/page?a=b" {
				t.Errorf("HTTP of %s leads to %q: %s", host, got, resp.Status)
			}
		}
		return
	}
	t.Errorf("no port http: %+v", a.AllocatedResources.Shared.Ports)
}

// submit runs the job without waiting for its deployment, and tells the job's version.
func (c *caddy) submit(args ...string) uint64 {
	c.t.Helper()
	c.run(append([]string{"nomad", "job", "run", "-detach"}, args...)...)
	j, _, err := c.nomad.Client.Jobs().Info("caddy", nil)
	check(c.t, err)
	return *j.Version
}

// versionIs waits for the end of the deployment of a version.
func (c *caddy) versionIs(version uint64, status string) {
	c.t.Helper()
	await(c.t, fmt.Sprintf("the deployment of version %d to be %s", version, status), func() error {
		var seen []string
		list, _, err := c.nomad.Client.Jobs().Deployments("caddy", true, nil)
		for _, d := range list {
			if d.JobVersion == version && d.Status == status {
				return nil
			}
			seen = append(seen, fmt.Sprintf("version %d %s: %s", d.JobVersion, d.Status, d.StatusDescription))
		}
		return errors.Join(err, fmt.Errorf("%q; %s", seen, c.seen("caddy")))
	})
}
