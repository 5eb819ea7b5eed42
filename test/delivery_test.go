package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testagent"
)

// delivery is a checkout with a CI system: it calls example/delivery/deliver.
type delivery struct {
	*cluster
	script, dir, job string
	repository       string
	env              []string
}

func (d *delivery) path(name string) string { return filepath.Join(d.dir, name) }

// deliver runs a step for a version of the program; its end is wanted.
func (d *delivery) deliver(t *testing.T, step, version string, ends bool, says ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, d.script, step)
	c.Dir = d.dir
	c.Env = append(d.env, "VERSION="+version, "CONTEXT="+d.path(version), "OUT=out/"+version)
	out, err := c.CombinedOutput()
	if (err == nil) != ends {
		t.Fatalf("deliver %s of %s: %v, want its end: %v\n%s", step, version, err, ends, out)
	}
	for _, want := range says {
		if !strings.Contains(string(out), want) {
			t.Errorf("deliver %s of %s does not say %q:\n%s", step, version, want, out)
		}
	}
}

// commit makes a version of example/web, a module of its own, with changes to its files.
func (d *delivery) commit(t *testing.T, version string, changes ...string) {
	t.Helper()
	dir := d.path(version)
	check(t, os.Mkdir(dir, 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module web\n\ngo 1.24\n"), 0o644))
	changed := strings.NewReplacer(changes...)
	for _, name := range []string{"Jailfile", "main.go"} {
		text, err := os.ReadFile(shipped(t, "example/web/"+name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(changed.Replace(string(text))), 0o644))
	}
}

// leavesNothing wants no image on the host that a test of one has brought.
func (d *delivery) leavesNothing(t *testing.T) {
	t.Helper()
	list, err := d.daemon.Images(t.Context())
	check(t, err)
	for _, img := range list {
		if strings.HasPrefix(img.Name, "file/") || strings.HasPrefix(img.Name, d.repository+":") {
			t.Errorf("the host still has %s", img.Name)
		}
	}
}

// greetings are what the service's instances of a tag answer, each once.
func (d *delivery) greetings(t *testing.T, tag string) (list []string) {
	t.Helper()
	found, _, err := d.consul.Health().Service("web", tag, true, nil)
	check(t, err)
	for _, f := range found {
		said, err := httpGet(fmt.Sprintf("http://%s:%d/", f.Service.Address, f.Service.Port))
		check(t, err)
		greeting, _, _ := strings.Cut(said, ",")
		list = append(list, greeting)
	}
	return list
}

func (d *delivery) serves(t *testing.T, live, canary string) {
	t.Helper()
	await(t, "what is served: "+live+"; "+canary, func() error {
		if l, c := fmt.Sprint(d.greetings(t, "live")), fmt.Sprint(d.greetings(t, "canary")); l != live || c != canary {
			return fmt.Errorf("live %s, canary %s", l, c)
		}
		return nil
	})
}

// newDelivery has a registry whose images must be signed, and commands where a script finds them.
func newDelivery(t *testing.T, c *cluster) *delivery {
	t.Helper()
	d := &delivery{cluster: c, script: shipped(t, "example/delivery/deliver"), dir: t.TempDir()}
	host := startRegistry(t, registry.ServerOptions{})
	d.repository = host + "/team/web"
	private, public, err := sign.Generate(nil)
	check(t, err)
	check(t, os.WriteFile(d.path("release.key"), private, 0o600))
	check(t, os.WriteFile(d.path("release.pub"), public, 0o644))
	private, public, err = sign.Generate(nil)
	check(t, err)
	check(t, os.WriteFile(d.path("security.key"), private, 0o600))
	check(t, os.WriteFile(d.path("security.pub"), public, 0o644))
	c.configurable(t)(fmt.Sprintf("registry %q {\n  plain_http = true\n}\nsigner \"release\" {\n  key_file = %q\n}\n"+
		"require {\n  signer = [\"release\"]\n  images = [\"%[1]s/**\"]\n}\npermit {\n  services = [\"web:example\"]\n"+
		"  images = [\"%[1]s/team/*\"]\n}\n"+
		"approver \"security\" {\n  key_file = %[3]q\n  kinds = [\"allow\"]\n}\n",
		host, d.path("release.pub"), d.path("security.pub")))
	text, err := os.ReadFile(shipped(t, "example/delivery/web.nomad.hcl"))
	check(t, err)
	job := strings.NewReplacer(`min_healthy_time  = "5s"`, `min_healthy_time = "1s"`, `healthy_deadline  = "1m"`,
		`healthy_deadline = "10s"`, `progress_deadline = "2m"`, `progress_deadline = "11s"`).Replace(string(text))
	d.job = d.path("web.nomad.hcl")
	check(t, os.WriteFile(d.job, []byte(job), 0o644))
	ports, err := testagent.Addresses(1)
	check(t, err)
	bin := d.path("bin")
	check(t, os.Mkdir(bin, 0o755))
	for name, env := range map[string]string{"nomad": "NOMAD_BIN", "freejail": "FREEJAIL_BIN",
		"freejail-build": "FREEJAIL_BUILD_BIN"} {
		check(t, os.Symlink(program(t, env), filepath.Join(bin, name)))
	}
	d.env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "REPOSITORY="+d.repository,
		"PLAIN_HTTP="+host, "PLATFORM="+runtime.GOOS+"/"+runtime.GOARCH, "SIGN_KEY="+d.path("release.key"),
		"APPROVE_KEY="+d.path("security.key"), "REASON=it listens to pings", "JOB="+d.job,
		"TEST_SOCKET="+c.path("sock"), fmt.Sprintf("TEST_PORT=%d", ports[0].Port), "NOMAD_ADDR=http://"+c.nomadAgent.Addr)
	return d
}

// deliveries go from a commit to the fleet by the script that the docs show: a canary beside what runs, its
// promotion, a version that its own test stops, one that is unhealthy, and the way back.
func deliveries(t *testing.T, c *cluster) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("the script compiles a program: " + err.Error())
	}
	d := newDelivery(t, c)
	defer c.stop(t, "web")
	d.commit(t, "v1")
	d.commit(t, "v2", `default="Hello"`, `default="Welcome"`, "USER ", "ALLOW raw_sockets\nUSER ")
	d.commit(t, "v3", `"healthy"`, `http.StatusText(500)`, "func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(",
		"func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); fmt.Fprintln(")
	roll := func(version string, steps ...string) {
		t.Helper()
		for _, step := range steps {
			d.deliver(t, step, version, true)
		}
	}
	roll("v1", "build", "test")
	d.leavesNothing(t)
	roll("v1", "push", "canary")
	d.serves(t, "[Hello Hello]", "[]")
	roll("v2", "build")
	d.deliver(t, "test", "v2", false, "allow.raw_sockets", fmt.Sprintf("images = [%q]", d.repository))
	d.leavesNothing(t)
	roll("v2", "push")
	d.deliver(t, "canary", "v2", false, "the host's policy refuses image "+d.repository, "allow.raw_sockets",
		"--sign KEY") // and the next canary need not wait for the end of this one
	d.serves(t, "[Hello Hello]", "[]")
	roll("v2", "approve", "canary")
	d.serves(t, "[Hello Hello]", "[Welcome]")
	roll("v2", "promote")
	d.serves(t, "[Welcome Welcome]", "[]")
	roll("v3", "build")
	d.deliver(t, "canary", "v3", false, "run push first")
	d.deliver(t, "test", "v3", false, "the image does not answer")
	roll("v3", "push")
	d.deliver(t, "canary", "v3", false, "Failed due to progress deadline")
	d.serves(t, "[Welcome Welcome]", "[]")
	roll("v1", "rollback")
	d.serves(t, "[Hello Hello]", "[]")
}
