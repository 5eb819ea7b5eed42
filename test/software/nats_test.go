package software

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const natsToken = "4be1d2a0c7"

// nats is a cluster with its image, and the command line of NATS as a client.
type nats struct {
	*cluster
	cli      string
	programs map[string]string
}

// TestNATS runs example/nats: a server whose streams outlive its end by kill -9, new images and a bad one, a backup
// and its return to an empty volume; and three servers that are replaced while a client publishes.
func TestNATS(t *testing.T) {
	programs := servers(t, "nats-server", "nats")
	dirs := volumes(t, 4222, "nats", "nats-backup", "nats[0]", "nats[1]", "nats[2]")
	data, backup := dirs["nats"], dirs["nats-backup"]
	n := &nats{startCluster(t, "", dirs), programs["nats"], programs}
	archive := n.build("nats", "nats:1", programs)
	n.build("nats", "nats:2", programs, change{"nats.conf", "max_memory_store: 64MB", "max_memory_store: 32MB"})
	n.build("nats", "nats:3", programs, change{"nats.conf", "store_dir: /data", "store_dir: /nowhere"})
	for _, job := range []string{"nats", "nats-cluster", "nats-backup", "nats-restore"} {
		n.run("nomad", "var", "put", "nomad/jobs/"+job, "token="+natsToken)
	}
	policy := readExample(t, "nats/policy.hcl")
	n.clientIsValid("nats")
	n.eachPermitIsNeeded(archive, policy)
	job := n.quick("nats/nats.nomad.hcl")
	n.jobRefused("nats", "nats:1", "service nats, asked for by the image", "no permit covers it")
	n.setPolicy(policy)
	n.run("freejail", "policy", "reload")

	n.oneServer(t, job, data, backup)
	check(t, n.nomad.PurgeJob(t.Context(), "nats"))
	n.threeServers(t)
}

// oneServer has its data on the volume data, and backups on another.
func (n *nats) oneServer(t *testing.T, job, data, backup string) {
	n.job("nats", "-var", "image=nats:1", job)
	at := n.url(1)
	n.do(at, "stream", "add", "ORDERS", "--subjects=orders.>", "--defaults")
	n.do(at, "pub", "--jetstream", "--count=100", "orders.new", "order {{Count}}")
	if _, err := n.as("another", at, "stream", "ls"); err == nil || !strings.Contains(err.Error(), "Authorization") {
		t.Errorf("another token: %v", err)
	}

	before := n.server(t)
	check(t, syscall.Kill(before.PID, syscall.SIGKILL))
	await(t, "the server to be started anew", func() error {
		if list := n.tasks("nats"); len(list) != 1 || list[0].PID == before.PID {
			return fmt.Errorf("there are %+v", list)
		}
		return nil
	})
	n.has(t, "after kill -9")

	n.run("nomad", "job", "run", "-var", "image=nats:2", job)
	if now := n.server(t); now.Digest == before.Digest {
		t.Error("the image is the old one")
	}
	n.has(t, "with a new image")

	good := n.server(t).Digest
	dir := copyExample(t, "nats", change{"nats.nomad.hcl", `healthy_deadline  = "2m"`, `healthy_deadline = "10s"`})
	out, err := n.try("nomad", "job", "run", "-var", "image=nats:3", filepath.Join(dir, "nats.nomad.hcl"))
	if err == nil || !strings.Contains(err.Error(), "rolling back to job version") {
		t.Errorf("a bad image: %v\n%s", err, out)
	}
	await(t, "the image before to be back", func() error {
		if list := n.tasks("nats"); len(list) != 1 || list[0].Digest != good {
			return fmt.Errorf("there are %+v", list)
		}
		return nil
	})
	n.has(t, "after a bad image")
	n.goesBack("nats", "-var", "image=nats:mistyped", job)
	n.has(t, "after the name of no image")

	n.periodic("nats-backup", "-var", "image=nats:1", example(t, "nats/backup.nomad.hcl"))
	made, err := os.ReadDir(backup)
	check(t, err)
	if len(made) != 1 {
		t.Fatalf("the backups are %v", made)
	}
	n.job("nats-restore", "-var", "image=nats:1", example(t, "nats/restore.nomad.hcl"))
	for range 2 {
		check(t, n.nomad.EndJob(t.Context(), "nats"))
		wipe(t, data)
		n.run("nomad", "job", "run", "-var", "image=nats:2", job)
		if out := n.do(n.url(1), "stream", "ls", "--names"); strings.Contains(out, "ORDERS") {
			t.Fatalf("an empty volume has %s", out)
		}
		n.restores("nats", made[0].Name())
		n.has(t, "out of the backup")
	}
}

// threeServers are replaced one by one, and no message that was acknowledged is lost, or there twice.
func (n *nats) threeServers(t *testing.T) {
	job := n.quick("nats/nats-cluster.nomad.hcl")
	n.job("nats-cluster", "-var", "image=nats:1", job)
	n.do(n.url(3), "stream", "add", "ORDERS", "--subjects=orders.>", "--replicas=3", "--defaults")
	p := n.publish()
	n.run("nomad", "job", "run", "-var", "image=nats:2", job)
	acknowledged, refused := p.end()
	if len(acknowledged) == 0 {
		t.Fatalf("nothing was published: %v", refused)
	}
	slices.Sort(refused)
	t.Logf("%d messages while three servers were replaced, %d tried again: %q", len(acknowledged), len(refused),
		slices.Compact(refused))
	if list := n.tasks("nats-cluster"); len(list) != 3 || slices.ContainsFunc(list[1:], func(other task) bool {
		return other.Digest != list[0].Digest
	}) {
		t.Errorf("not three servers of one image: %+v", list)
	}
	n.holds(t, "ORDERS", n.url(3), acknowledged)
}

// url names the servers of Consul.
func (n *nats) url(count int) string {
	return "nats://" + strings.Join(n.awaitPassing("nats", "", count), ",nats://")
}

// as runs the command line of NATS with a token.
func (n *nats) as(token, url string, args ...string) (string, error) {
	cmd := exec.CommandContext(n.t.Context(), n.cli, args...)
	cmd.Env = append(n.env, "HOME="+n.path("home"), "NATS_URL="+url, "NATS_TOKEN="+token)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("nats %q: %w: %s", args, err, out)
	}
	return string(out), err
}

func (n *nats) do(url string, args ...string) string {
	n.t.Helper()
	out, err := n.as(natsToken, url, args...)
	check(n.t, err)
	return out
}

func (n *nats) server(t *testing.T) task {
	t.Helper()
	list := n.tasks("nats")
	if len(list) != 1 {
		t.Fatalf("there are %+v", list)
	}
	return list[0]
}

// has looks for the hundred orders.
func (n *nats) has(t *testing.T, when string) {
	t.Helper()
	at := n.url(1)
	if count := n.messages("ORDERS", at); count != 100 {
		t.Errorf("%s: %d messages", when, count)
	}
	if out := n.do(at, "stream", "get", "ORDERS", "100"); !strings.Contains(out, "order 100") {
		t.Errorf("%s: the last is %s", when, out)
	}
}

// publisher sends one message after the other to any of the servers that Consul has, each again until it is
// acknowledged; its id has a repetition be known as such.
type publisher struct {
	stop                  context.CancelFunc
	wait                  sync.WaitGroup
	acknowledged, refused []string
}

func (n *nats) publish() *publisher {
	ctx, cancel := context.WithCancel(n.t.Context())
	p := &publisher{stop: cancel}
	p.wait.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			body := "order " + strconv.Itoa(i)
			for {
				if err := n.publishOne(body); err == nil {
					p.acknowledged = append(p.acknowledged, body)
					break
				} else if p.refused = append(p.refused, err.Error()); len(p.refused) > 1000 {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
	})
	return p
}

func (n *nats) publishOne(body string) error {
	at, err := n.passing("nats", "")
	if err == nil && len(at) == 0 {
		err = errors.New("no server passes its check")
	}
	if err == nil {
		_, err = n.as(natsToken, "nats://"+strings.Join(at, ",nats://"), "pub", "--jetstream", "-H", "Nats-Msg-Id:"+body,
			"orders.new", body)
	}
	return err
}

func (p *publisher) end() (acknowledged, refused []string) {
	p.stop()
	p.wait.Wait()
	return p.acknowledged, p.refused
}

// holds compares the messages of a stream with those that are wanted.
func (n *nats) holds(t *testing.T, stream, url string, want []string) {
	t.Helper()
	out := n.do(url, "subscribe", "--stream="+stream, "--all", fmt.Sprintf("--count=%d", n.messages(stream, url)), "--raw")
	var got []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "order ") {
			got = append(got, line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("of %d messages the stream has %d:\n%q\n%q", len(want), len(got), want, got)
	}
}

func (n *nats) messages(stream, url string) int {
	n.t.Helper()
	var info struct {
		State struct{ Messages int }
	}
	check(n.t, json.Unmarshal([]byte(n.do(url, "stream", "info", stream, "--json")), &info))
	return info.State.Messages
}
