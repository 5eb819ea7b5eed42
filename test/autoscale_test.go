package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testimage"
)

// TestAutoscaler has Nomad's autoscaler and a Prometheus scale the groups of example/autoscale: up while their tasks
// are asked, and down afterwards.
func TestAutoscaler(t *testing.T) {
	scaler, prometheus := os.Getenv("NOMAD_AUTOSCALER_BIN"), os.Getenv("PROMETHEUS_BIN")
	if scaler == "" || prometheus == "" {
		t.Skip("NOMAD_AUTOSCALER_BIN and PROMETHEUS_BIN are not set: neither is built here")
	}
	c := startCluster(t)
	ports, err := testagent.Addresses(3)
	check(t, err)
	c.imports(t, "web", testimage.Spec{Cmd: []string{"probe", "serve"}, Manifest: manifest})
	c.configurable(t)(fmt.Sprintf("metrics {\n listen = %q\n}\n", ports[0].String()))
	c.stopDaemon(t, syscall.SIGTERM) // the plugin starts one that reads the block
	at := strings.NewReplacer("127.0.0.1:9477", ports[0].String(), "127.0.0.1:9090", ports[1].String(),
		"127.0.0.1:4646", c.nomadAgent.Addr, "8090", strconv.Itoa(ports[2].Port))
	for _, name := range []string{"autoscaler.hcl", "prometheus.yml"} {
		text, err := os.ReadFile(shipped(t, "example/autoscale/"+name))
		check(t, err)
		c.write(t, name, at.Replace(string(text)))
	}
	c.beside(t, prometheus, "--config.file="+c.path("prometheus.yml"), "--storage.tsdb.path="+c.path("tsdb"),
		"--web.listen-address="+ports[1].String())
	c.beside(t, scaler, "agent", "-config="+c.path("autoscaler.hcl"), "-log-level=DEBUG")
	text, err := os.ReadFile(shipped(t, "example/autoscale/scaled.nomad.hcl"))
	check(t, err)
	j := c.parsed(t, strings.Replace(string(text), "target = 20", "target = 2", 1)) // busy hosts have little for it
	c.run(t, j)
	stop := make(chan struct{})
	for range 8 {
		go c.press(*j.ID, stop)
	}
	for _, group := range []string{"web", "admin"} {
		c.awaitCount(t, *j.ID, group, func(n int) bool { return n > 1 })
	}
	close(stop)
	for _, group := range []string{"web", "admin"} {
		c.awaitCount(t, *j.ID, group, func(n int) bool { return n == 1 })
	}
}

// beside runs a program until the test ends.
func (c *cluster) beside(t *testing.T, bin string, args ...string) {
	t.Helper()
	log := c.path(filepath.Base(bin) + ".log")
	a, err := testagent.Run(exec.Command(bin, args...), log)
	check(t, err)
	t.Cleanup(func() {
		if err := a.End(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of %s:\n%s", log, tail(log, 8000))
		}
	})
}

// press requests pages of all tasks of a job, as fast as they come.
func (c *cluster) press(job string, stop <-chan struct{}) {
	var at []string
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		if n%500 == 0 {
			at = c.portsOf(job)
		}
		if len(at) == 0 {
			time.Sleep(100 * time.Millisecond)
			n = -1
			continue
		}
		_ = getPage("http://" + at[n%len(at)] + "/page") // some end meanwhile
	}
}

// portsOf are the addresses of a job's tasks that run.
func (c *cluster) portsOf(job string) (at []string) {
	list, _, err := c.nomad.Jobs().Allocations(job, false, nil)
	if err != nil {
		return nil
	}
	for _, a := range list {
		if a.ClientStatus != "running" {
			continue
		}
		if full, _, err := c.nomad.Allocations().Info(a.ID, nil); err == nil {
			for _, p := range full.AllocatedResources.Shared.Ports {
				at = append(at, net.JoinHostPort(p.HostIP, strconv.Itoa(p.Value)))
			}
		}
	}
	return at
}

func (c *cluster) awaitCount(t *testing.T, job, group string, is func(int) bool) {
	t.Helper()
	await(t, "another count of "+group, func() error {
		status, _, err := c.nomad.Jobs().ScaleStatus(job, nil)
		if err != nil {
			return err
		}
		n := status.TaskGroups[group].Desired
		if !is(n) {
			err = errors.Join(err, fmt.Errorf("it is %d", n))
		} else {
			t.Logf("%s %s: %d", time.Now().Format(time.TimeOnly), group, n)
		}
		return err
	})
}
