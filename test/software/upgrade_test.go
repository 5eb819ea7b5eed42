package software

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testagent"
)

// change is one of a copy of an example's file. What it replaces must be there.
type change struct{ file, old, new string }

// copyExample has a directory of the examples, with changes, in a directory of the test.
func copyExample(t *testing.T, name string, changes ...change) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), name)
	check(t, os.CopyFS(dir, os.DirFS(example(t, name))))
	for _, c := range changes {
		file := filepath.Join(dir, c.file)
		text, err := os.ReadFile(file)
		check(t, err)
		if !strings.Contains(string(text), c.old) {
			t.Fatalf("example/%s/%s has no %q", name, c.file, c.old)
		}
		check(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), c.old, c.new)), 0o644))
	}
	return dir
}

// servers are programs that the makefile built, for this system.
func servers(t *testing.T, names ...string) map[string]string {
	t.Helper()
	paths := map[string]string{}
	for _, name := range names {
		paths[name] = filepath.Join(program(t, "SERVERS_DIR"), name)
		if _, err := os.Stat(paths[name]); err != nil {
			t.Skipf("%s is not there, `make test` builds it: %v", name, err)
		}
	}
	return paths
}

// build makes an image of an example's own recipe and programs, and has the host know it by its tag.
func (c *cluster) build(name, tag string, programs map[string]string, changes ...change) (archive string) {
	c.t.Helper()
	dir := copyExample(c.t, name, changes...)
	for base, path := range programs {
		check(c.t, copyFile(path, filepath.Join(dir, base)))
	}
	archive = filepath.Join(c.t.TempDir(), name+".tar")
	c.run("freejail-build", "build", "--platform", runtime.GOOS+"/"+runtime.GOARCH, "--cache", c.path("cache"), "-t", tag,
		"-o", archive, dir)
	c.run("freejail", "images", "import", "-t", tag, archive)
	return archive
}

func copyFile(from, to string) error {
	if err := os.Link(from, to); err == nil || !errors.Is(err, syscall.EXDEV) {
		return err
	}
	b, err := os.ReadFile(from)
	return errors.Join(err, os.WriteFile(to, b, 0o755))
}

// wipe removes all that is in a volume.
func wipe(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	if len(entries) == 0 {
		t.Fatalf("%s was empty", dir)
	}
	for _, e := range entries {
		check(t, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
}

var permits = regexp.MustCompile(`(?m)^  (ports|services|mounts|users|networks|publish|sysvipc) += .*\n`)

// eachPermitIsNeeded has a policy without one of its lines refuse an image, and the whole one permit it.
func (c *cluster) eachPermitIsNeeded(archive, policy string) {
	c.t.Helper()
	file := c.path("policy.hcl")
	decide := func(text string) (string, error) {
		check(c.t, os.WriteFile(file, []byte(text), 0o644))
		return c.try("freejail", "policy", "check", "--policy", file, archive)
	}
	check(c.t, os.WriteFile(file, []byte(policy), 0o644))
	c.run("freejail", "policy", "test", file)
	if _, err := decide(policy); err != nil {
		c.t.Error(err)
	}
	block := policy[:strings.Index(policy, "\n}\n")]
	lines := permits.FindAllString(block, -1)
	if len(lines) == 0 {
		c.t.Fatalf("it permits nothing:\n%s", policy)
	}
	for _, line := range lines {
		kind := strings.TrimSuffix(strings.Fields(line)[0], "s")
		out, err := decide(strings.Replace(policy, line, "", 1))
		if err == nil || !regexp.MustCompile(`(?m)^refused +`+kind+` `).MatchString(out) {
			c.t.Errorf("without %q: %v, want %s refused:\n%s", line, err, kind, out)
		}
	}
}

// jobRefused runs an example's job, by another name, and the host's policy refuses it with these words for its owner.
func (c *cluster) jobRefused(name, image string, words ...string) {
	c.t.Helper()
	refused, file := name+"-refused", name+".nomad.hcl"
	dir := copyExample(c.t, name, change{file, fmt.Sprintf("job %q", name), fmt.Sprintf("job %q", refused)})
	c.run("nomad", "job", "run", "-detach", "-var", "image="+image, filepath.Join(dir, file))
	await(c.t, refused+" to be refused", func() error {
		seen := c.seen(refused)
		for _, w := range words {
			if !strings.Contains(seen, w) {
				return fmt.Errorf("no %q in: %s", w, seen)
			}
		}
		return nil
	})
	check(c.t, c.nomad.PurgeJob(c.t.Context(), refused))
}

// periodic runs a periodic job at once, as well as by its calendar, and waits for its good end.
func (c *cluster) periodic(id string, args ...string) {
	c.t.Helper()
	c.job(id, args...)
	c.run("nomad", "job", "periodic", "force", id)
	c.completes(id)
}

// completes waits for the good end of a job of type batch, or of what a periodic one has started.
func (c *cluster) completes(id string) {
	c.t.Helper()
	await(c.t, id+" to complete", func() error {
		list, _, err := c.nomad.Client.Jobs().PrefixList(id)
		if err != nil {
			return err
		}
		for _, j := range list {
			if j.Periodic {
				continue
			}
			allocs, _, err := c.nomad.Client.Jobs().Allocations(j.ID, true, nil)
			if err != nil {
				return err
			}
			for _, a := range allocs {
				if a.ClientStatus == nomad.AllocClientStatusComplete {
					return nil
				}
			}
		}
		return fmt.Errorf("it is not: %s", c.seenOf(list))
	})
}

func (c *cluster) seenOf(list []*nomad.JobListStub) string {
	var out []string
	for _, j := range list {
		out = append(out, j.ID+": "+c.seen(j.ID))
	}
	return strings.Join(out, "\n")
}

// restores dispatches an example's restore, by a name that is a path first: the image refuses that.
func (c *cluster) restores(name, backup string) {
	c.t.Helper()
	job := name + "-restore"
	for _, path := range []string{"../data/" + backup, "-" + backup, backup + "/.."} {
		c.dispatched(job, "failed", "dispatch", "-detach", "-meta", "backup="+path, job)
	}
	c.dispatched(job, "complete", "dispatch", "-detach", "-meta", "backup="+backup, job)
}

// goesBack runs a new version of a job, and waits for its deployment to fail by the first task that failed, not by a
// deadline, and for that of the version before.
func (c *cluster) goesBack(job string, args ...string) {
	c.t.Helper()
	before, _, err := c.nomad.Client.Jobs().Info(job, nil)
	check(c.t, err)
	c.run(append([]string{"nomad", "job", "run", "-detach"}, args...)...)
	await(c.t, job+" to go back to the version before", func() error {
		list, _, err := c.nomad.Client.Jobs().Deployments(job, true, nil)
		of := map[uint64]*nomad.Deployment{}
		for _, d := range list {
			of[d.JobVersion-*before.Version] = d
		}
		bad, back := of[1], of[2]
		if err != nil || bad == nil || back == nil {
			return errors.Join(err, fmt.Errorf("%+v; %s", bad, c.seen(job)))
		}
		if back.Status != "successful" || bad.Status != "failed" {
			return fmt.Errorf("%s: %s; %s: %s; %s", back.Status, back.StatusDescription, bad.Status, bad.StatusDescription,
				c.seen(job))
		}
		if !strings.HasPrefix(bad.StatusDescription, "Failed due to unhealthy allocations - rolling back") {
			return testagent.Finally(errors.New(bad.StatusDescription))
		}
		return nil
	})
}

type task = client.Task

// tasks are those of a job that run.
func (c *cluster) tasks(job string) (list []task) {
	c.t.Helper()
	all, err := c.daemon.Tasks(c.t.Context())
	check(c.t, err)
	for _, task := range all {
		if task.Spec.Labels["job"] == job && task.State == client.Running {
			list = append(list, task)
		}
	}
	return list
}

// clientIsValid has Nomad read what an example adds to the configuration of its client.
func (c *cluster) clientIsValid(name string) {
	c.t.Helper()
	c.run("nomad", "config", "validate", example(c.t, "nomad/server.hcl"), example(c.t, "nomad/client.hcl"),
		example(c.t, name+"/client.hcl"))
}
