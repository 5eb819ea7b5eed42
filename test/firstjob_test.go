package test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// containerfile is one as others write them.
const containerfile = `FROM scratch
LABEL maintainer="someone"
COPY --chmod=0755 prog %[1]s
EXPOSE 8080/tcp 9000/udp
ENTRYPOINT [%[1]q, "probe"]
CMD [%[2]q]
`

// builds makes an image of a Containerfile, without a manifest, whose program has a mode.
func (c *cluster) builds(t *testing.T, name, mode string) {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	check(t, err)
	prog, err := os.ReadFile(self)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "prog"), prog, 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "Containerfile"), fmt.Appendf(nil, containerfile, testimage.Program, mode),
		0o644))
	out := filepath.Join(t.TempDir(), "image.tar")
	build := exec.Command(program(t, "FREEJAIL_BUILD_BIN"), "build", "--no-cache", "-o", out, dir)
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, said)
	}
	_, err = c.daemon.Import(t.Context(), client.ImportRequest{Name: name, Path: out}, nil)
	check(t, err)
}

// A group with two ports, a sidecar, and images without a manifest: there is no key but image.
const firstJob = `
job "first" {
  datacenters = ["*"]
  group "group" {
    network {
      port "http" {}
      port "my-metrics" {}
    }
    task "before" {
      driver = "freejail"
      lifecycle {
        hook = "prestart"
      }
      config {
        image = "plain-env"
      }
      resources {
        memory = 64
      }
    }
    task "sidecar" {
      driver = "freejail"
      lifecycle {
        hook    = "prestart"
        sidecar = true
      }
      config {
        image = "plain-side"
      }
      resources {
        memory = 64
      }
    }
    task "probe" {
      driver = "freejail"
      config {
        image = "plain"
      }
      resources {
        memory = 64
      }
    }
  }
}
`

// parsed is a job of a job file's text.
func (c *cluster) parsed(t *testing.T, text string) *nomad.Job {
	t.Helper()
	j, err := c.nomad.Jobs().ParseHCL(text, true)
	check(t, err)
	return j
}

// portOf is where a port of an allocation is, by its label.
func portOf(t *testing.T, a *nomad.Allocation, label string) (host, port string) {
	t.Helper()
	for _, p := range a.AllocatedResources.Shared.Ports {
		if p.Label == label {
			return p.HostIP, strconv.Itoa(p.Value)
		}
	}
	t.Fatalf("the allocation has no port %s: %v", label, a.AllocatedResources.Shared.Ports)
	return "", ""
}

func firstJobs(t *testing.T, c *cluster) {
	for name, mode := range map[string]string{"plain": "serve", "plain-side": "signals", "plain-env": "env"} {
		c.builds(t, name, mode)
	}
	j := c.parsed(t, firstJob)
	c.run(t, j)
	a := c.one(t, j, "running")
	host, http := portOf(t, a, "http")
	_, metrics := portOf(t, a, "my-metrics")
	await(t, "the page", func() error {
		_, err := httpGet("http://" + net.JoinHostPort(host, http) + "/page")
		return err
	})
	for _, task := range []string{"sidecar", "probe"} {
		var out syncBuffer
		_, err := c.nomad.Allocations().Exec(t.Context(), a, task, false,
			[]string{testimage.Program, "probe", "env"}, strings.NewReader(""), &out, &out, nil, nil)
		check(t, err)
		for _, want := range []string{"FREEJAIL_PORT_http=" + http, "FREEJAIL_ADDR_http=" + host,
			"FREEJAIL_PORT_my-metrics=" + metrics, "FREEJAIL_PORT_my_metrics=" + metrics, "NOMAD_PORT_http=" + http} {
			if !strings.Contains("\n"+out.String(), "\n"+want+"\n") {
				t.Errorf("%s lacks %s: %s", task, want, out.String())
			}
		}
	}
	await(t, "the task before the others to end", func() error {
		a, _, err := c.nomad.Allocations().Info(a.ID, nil)
		if err == nil && (a.TaskStates["before"].State != "dead" || a.TaskStates["before"].Failed) {
			err = fmt.Errorf("it is %+v", a.TaskStates["before"])
		}
		return err
	})
}

// portsAreSaid are the forms of ports, as a job file has them: a task each.
func portsAreSaid(t *testing.T, c *cluster) {
	c.imports(t, "plain-env", testimage.Spec{Cmd: []string{"probe", "env"}})
	wants := map[string]struct{ ports, has, hasNot string }{
		"list":  {`ports = ["http"]`, "PORT_http=", "PORT_my"},
		"udp":   {`ports = ["http", "my-metrics/udp"]`, "PORT_my_metrics=", ""},
		"none":  {`ports = []`, "", "PORT_"},
		"map":   {`ports = { web = "http" }`, "PORT_web=", "PORT_http"},
		"block": {"ports {\n web = \"http\"\n }", "PORT_web=", "PORT_http"},
	}
	text := "job \"said\" {\n datacenters = [\"*\"]\n type = \"batch\"\n group \"g\" {\n" +
		"network {\n port \"http\" {}\n port \"my-metrics\" {}\n}\n"
	for name, want := range wants {
		text += fmt.Sprintf("task %q {\n driver = \"freejail\"\n config {\n image = \"plain-env\"\n %s\n}\n"+
			"resources {\n memory = 32\n}\n}\n", name, want.ports)
	}
	j := c.parsed(t, text+"}\n}\n")
	c.run(t, j)
	a := c.one(t, j, "complete")
	for name, want := range wants {
		out := c.taskLog(t, a, name)
		if !strings.Contains(out, "FREEJAIL_"+want.has) && want.has != "" ||
			want.hasNot != "" && strings.Contains(out, "FREEJAIL_"+want.hasNot) {
			t.Errorf("%s: the task has %s", want.ports, out)
		}
	}
}

// taskLog is what a task of an allocation has written.
func (c *cluster) taskLog(t *testing.T, a *nomad.Allocation, task string) string {
	t.Helper()
	var text string
	await(t, "the environment in the log of "+task, func() error {
		file, err := c.nomad.AllocFS().Cat(a, "alloc/logs/"+task+".stdout.0", nil)
		if err != nil {
			return err
		}
		all, err := io.ReadAll(file)
		if text = string(all); err == nil && !strings.Contains(text, "PATH=") {
			err = fmt.Errorf("it is %q", text)
		}
		return errors.Join(err, file.Close())
	})
	return text
}

// deployments are judged by the service block of the job, as example/jobs/deployment.nomad.hcl has
// it: beside it freejail registers nothing for the port.
func deployments(t *testing.T, c *cluster) {
	text, err := os.ReadFile(shipped(t, "example/jobs/deployment.nomad.hcl"))
	check(t, err)
	c.imports(t, "web", testimage.Spec{Cmd: []string{"probe", "serve"},
		Manifest: strings.ReplaceAll(manifest, `"name":"probe"`, `"name":"web"`)})
	c.configurable(t)("permit {\n  images   = [\"web\"]\n  services = [\"web:test\"]\n}\n")
	version := func(change func(*nomad.Task)) *nomad.Job {
		j := c.parsed(t, string(text))
		u := j.TaskGroups[0].Update
		u.MinHealthyTime, u.HealthyDeadline = ptr(time.Second), ptr(10*time.Second)
		u.ProgressDeadline, u.AutoRevert = ptr(11*time.Second), ptr(false)
		j.TaskGroups[0].Services[0].Checks[0].CheckRestart = nil
		task := j.TaskGroups[0].Tasks[0]
		task.Config["parameters"] = map[string]string{"GREETING": "hello"}
		change(task)
		return j
	}
	good := version(func(*nomad.Task) {})
	c.run(t, good)
	c.awaitDeployment(t, *good.ID, "successful")
	c.awaitOneService(t, c.one(t, good, "running"), "healthy")

	bad := version(func(k *nomad.Task) { k.Env = map[string]string{"HEALTH": "500"} })
	_, _, err = c.nomad.Jobs().Register(bad, nil)
	check(t, err)
	a := c.latest(t, *bad.ID)
	c.awaitOneService(t, a, "unhealthy")
	c.awaitDeployment(t, *bad.ID, "failed")
	for _, want := range []string{"the check of port http fails: ", "by the job's service web alone"} {
		await(t, "an event with "+want, func() error {
			now, _, err := c.nomad.Allocations().Info(a.ID, nil)
			if err != nil {
				return err
			}
			all := messages(now.TaskStates["web"])
			if !slices.ContainsFunc(all, func(m string) bool { return strings.Contains(m, want) }) {
				return fmt.Errorf("events: %q", all)
			}
			return nil
		})
	}
}

func (c *cluster) awaitDeployment(t *testing.T, job, want string) {
	t.Helper()
	await(t, "a deployment that is "+want, func() error {
		d, _, err := c.nomad.Jobs().LatestDeployment(job, nil)
		if err == nil && (d == nil || d.Status != want) {
			err = fmt.Errorf("it is %+v", d)
		}
		return err
	})
}

// latest waits for the allocation of a job's newest version to run.
func (c *cluster) latest(t *testing.T, id string) (a *nomad.Allocation) {
	t.Helper()
	await(t, "the newest version to run", func() error {
		job, _, err := c.nomad.Jobs().Info(id, nil)
		if err != nil {
			return err
		}
		list, _, err := c.nomad.Jobs().Allocations(id, true, nil)
		for _, stub := range list {
			if err == nil && stub.JobVersion == *job.Version && stub.ClientStatus == "running" {
				a, _, err = c.nomad.Allocations().Info(stub.ID, nil)
				return err
			}
		}
		return fmt.Errorf("allocations %v: %v", list, err)
	})
	return a
}

// awaitOneService wants Nomad's service of an allocation's port, and no other, and its health told
// of the task.
func (c *cluster) awaitOneService(t *testing.T, a *nomad.Allocation, health string) {
	t.Helper()
	_, port := portOf(t, a, "http")
	await(t, "one service of the port that is "+health, func() error {
		all, err := c.consul.Agent().Services()
		var ids []string
		for id, s := range all {
			if strconv.Itoa(s.Port) == port {
				ids = append(ids, id)
			}
		}
		if err != nil || len(ids) != 1 || !strings.HasPrefix(ids[0], "_nomad-task-"+a.ID) {
			return fmt.Errorf("services %q: %v", ids, err)
		}
		tasks, err := c.daemon.Tasks(t.Context())
		for _, task := range tasks {
			s := task.Services
			if task.Spec.Labels["alloc_id"] == a.ID && len(s) == 1 && s[0].Health == health && !s[0].Registered {
				return nil
			}
		}
		return fmt.Errorf("the daemon has %+v: %v", tasks, err)
	})
}
