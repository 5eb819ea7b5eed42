package software

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/testagent"
)

var errNotYet = errors.New("not yet")

// builds makes an image of an example as its Jailfile.debian says, with a version, and imports it as NAME:VERSION.
// Its files are those that debian.sh has made of Debian's packages.
func (c *cluster) builds(name, version string) (image string) {
	c.t.Helper()
	dir := filepath.Join(c.t.TempDir(), "context")
	check(c.t, os.CopyFS(dir, os.DirFS(filepath.Dir(example(c.t, name+"/Jailfile.debian")))))
	placeRoot(c.t, name, filepath.Join(dir, "root.tar"))
	archive := c.path(name + version + ".tar")
	c.run("freejail-build", "build", "-q", "--no-cache", "--platform", "linux/"+runtime.GOARCH, "--build-arg",
		"VERSION="+version, "-f", filepath.Join(dir, "Jailfile.debian"), "-o", archive, dir)
	c.run("freejail-build", "validate", archive)
	image = name + "-debian:" + version
	c.run("freejail", "images", "import", "--name", image, archive)
	return image
}

// root is the file with an example's root.
func root(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(program(t, "DEBIAN_DIR"), name+".tar")
	if _, err := os.Stat(file); err != nil {
		t.Skipf("the files of Debian's packages are not there; make test has them made on Debian and Ubuntu: %v", err)
	}
	return file
}

func placeRoot(t *testing.T, name, to string) {
	t.Helper()
	from := root(t, name)
	if os.Link(from, to) == nil {
		return
	}
	in, err := os.Open(from)
	check(t, err)
	defer in.Close()
	out, err := os.Create(to)
	check(t, err)
	_, err = io.Copy(out, in)
	check(t, err)
	check(t, out.Close())
}

// runsLinux skips a test on a host that cannot run programs of Linux.
func (c *cluster) runsLinux() {
	c.t.Helper()
	info, err := c.daemon.Info(c.t.Context())
	check(c.t, err)
	if runtime.GOOS == "freebsd" && info.Features["linux"] != "1" {
		c.t.Skip("this kernel runs no programs of Linux: service linux onestart")
	}
}

// volumes are directories for host volumes of Nomad, of a user.
func volumes(t *testing.T, uid int, names ...string) map[string]string {
	t.Helper()
	base, out := tempDir(t), map[string]string{}
	for _, name := range names {
		dir := filepath.Join(base, name)
		check(t, os.Mkdir(dir, 0o700))
		check(t, os.Chown(dir, uid, uid))
		out[name] = dir
	}
	return out
}

func readExample(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(example(t, name))
	check(t, err)
	return string(text)
}

// quick writes a job of the examples that looks at a task's health for a shorter time before it counts, and gives slow
// hosts more of it.
func (c *cluster) quick(name string) (file string) {
	c.t.Helper()
	file = c.path(strings.ReplaceAll(name, "/", "-"))
	text := readExample(c.t, name)
	times := map[string]string{"min_healthy_time": "1s", "healthy_deadline": "10m", "progress_deadline": "15m",
		"timeout": "10s"}
	for key, value := range times {
		line := regexp.MustCompile(`( ` + key + ` +=) "(.*?)"`)
		found := line.FindStringSubmatch(text)
		if found == nil {
			c.t.Fatalf("example/%s has no %s", name, key)
		}
		if found[2] != "0" { // the first task that fails ends the deployment
			text = line.ReplaceAllString(text, `$1 "`+value+`"`)
		}
	}
	check(c.t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// needsEachPermit has the policy lack one of an attribute's lines after the other: what the image asks for is refused
// then, by its name, and with all of them it is not.
func (c *cluster) needsEachPermit(policy, image string, lines map[string]string) {
	c.t.Helper()
	try := func(text string) (string, error) {
		c.setPolicy(text)
		c.run("freejail", "policy", "reload")
		return c.try("freejail", "policy", "check", image)
	}
	for attribute, refused := range lines {
		lacks := regexp.MustCompile(`(?m)^  `+attribute+` += .*\n`).ReplaceAllString(strings.SplitN(policy, "\ntest ", 2)[0], "")
		out, err := try(lacks)
		if err == nil || !regexp.MustCompile(`(?m)^refused .*`+refused).MatchString(out) {
			c.t.Errorf("without a permit of %s the image is not refused for %q: %v", attribute, refused, err)
		}
	}
	if _, err := try(policy); err != nil {
		c.t.Errorf("by the example's policy: %v", err)
	}
}

// dispatched runs a parameterized or periodic job once, by the arguments of `nomad job`, and waits until its task has a
// status.
func (c *cluster) dispatched(job, status string, args ...string) {
	c.t.Helper()
	before := c.children(job)
	c.run(append([]string{"nomad", "job"}, args...)...)
	var child string
	await(c.t, "a job of "+job, func() error {
		for id := range c.children(job) {
			if !before[id] {
				child = id
				return nil
			}
		}
		return errNotYet
	})
	await(c.t, child+" to be "+status, func() error {
		for _, s := range []string{"complete", "failed"} {
			if found, err := c.allocs(child, s); err != nil || len(found) > 0 && s == status {
				return err
			} else if len(found) > 0 {
				said, err := c.try("nomad", "alloc", "logs", "-stderr", found[0].ID)
				return testagent.Finally(fmt.Errorf("it is %s: %s %w; %s", s, said, err, c.seen(child)))
			}
		}
		return errNotYet
	})
}

func (c *cluster) children(job string) map[string]bool {
	c.t.Helper()
	list, _, err := c.nomad.Client.Jobs().PrefixList(job + "/")
	check(c.t, err)
	out := map[string]bool{}
	for _, j := range list {
		out[j.ID] = true
	}
	return out
}

// deployed waits until the newest version of a job has been deployed.
func (c *cluster) deployed(job string) {
	c.t.Helper()
	await(c.t, "the deployment of "+job, func() error {
		current, _, err := c.nomad.Client.Jobs().Info(job, nil)
		if err != nil {
			return err
		}
		d, _, err := c.nomad.Client.Jobs().LatestDeployment(job, nil)
		if err != nil || d == nil || d.JobVersion != *current.Version {
			return errors.Join(err, errNotYet)
		}
		switch d.Status {
		case "successful":
			return nil
		case "failed", "cancelled":
			return testagent.Finally(fmt.Errorf("%s: %s; %s", d.Status, d.StatusDescription, c.seen(job)))
		}
		return fmt.Errorf("%s: %s; %s", d.Status, d.StatusDescription, c.seen(job))
	})
}
