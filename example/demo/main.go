// Command demo shows all of freejail on one host: images are built, a real
// Consul and a real Nomad are started, jobs run in jails, the service is found
// by Consul and asked, a greedy image is refused and then approved, and at the
// end nothing is left. Run it as root from the repository's root: `make demo`.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) (err error) {
	start := time.Now()
	if os.Geteuid() != 0 {
		return fmt.Errorf("jails need root: run it by sudo or as root")
	}
	dir, err := os.MkdirTemp("", "fjdemo")
	if err != nil {
		return err
	}
	c, err := newCluster(dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err := c.show(ctx); err != nil {
		c.abandon()
		return fmt.Errorf("%w\nlogs: %s", err, c.path("logs"))
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	say("Done in %s.", time.Since(start).Round(100*time.Millisecond))
	return nil
}

// show is the demonstration. When it returns nil everything was stopped.
func (c *cluster) show(ctx context.Context) (err error) {
	if c.before, err = look([]string{c.dir}); err != nil {
		return err
	}
	for _, part := range []struct {
		title string
		f     func(context.Context) error
	}{
		{"1. Two images", c.images},
		{"2. Consul and Nomad", c.start},
		{"3. A job, found by Consul", c.webJob},
		{"4. An image that asks for more than the host permits", c.greedyJob},
		{"5. Everything is stopped", c.stop},
		{"6. What is left", c.compare},
	} {
		say(part.title)
		if err := part.f(ctx); err != nil {
			return err
		}
		say("")
	}
	return nil
}

// images builds the example images, unless they are there already.
func (c *cluster) images(ctx context.Context) error {
	if c.imageDir = os.Getenv("FREEJAIL_IMAGES"); c.imageDir == "" {
		c.imageDir = c.path("images")
		if err := c.command(ctx, "go", "run", "./example/build", "-o", c.imageDir); err != nil {
			return err
		}
	}
	for _, name := range []string{"web", "greedy"} {
		if _, err := os.Stat(filepath.Join(c.imageDir, name+".tar")); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) start(ctx context.Context) error {
	if err := c.consulAgent.Start(ctx); err != nil {
		return err
	}
	if err := c.nomadAgent.Start(ctx); err != nil {
		return err
	}
	info, err := c.daemon.Info(ctx)
	if err != nil {
		return err
	}
	say("   Consul is at %s, Nomad at %s.", c.consulAgent.Addr, c.nomadAgent.Addr)
	say("   Nomad started the plugin and the plugin the daemon: version %s, %s storage.", info.Version, info.Storage)
	for _, name := range []string{"web", "greedy"} {
		if err := c.freejail(ctx, "images", "import", filepath.Join(c.imageDir, name+".tar")); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) webJob(ctx context.Context) error {
	a, err := c.run(ctx, "web")
	if err != nil {
		return err
	}
	addr, err := c.find(ctx, "web")
	if err != nil {
		return err
	}
	say("   Consul: web is healthy, at %s.", addr)
	say("   $ curl http://%s/", addr)
	body, err := httpGet(ctx, "http://"+addr+"/")
	if err != nil {
		return err
	}
	indent(body)
	task, err := c.task(ctx, a.ID)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"ps"}, {"logs", task}, {"exec", task, "/bin/web", "get", "/health"}} {
		if err := c.freejail(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) greedyJob(ctx context.Context) error {
	refused, err := c.refused(ctx, "greedy")
	if err != nil {
		return err
	}
	say("   Nomad shows the task's event:")
	indent(refused)
	args, err := approval(refused)
	if err != nil {
		return err
	}
	if err := c.freejail(ctx, args...); err != nil {
		return err
	}
	say("   $ nomad job eval -force-reschedule greedy")
	a, err := c.again(ctx, "greedy")
	if err != nil {
		return err
	}
	task, err := c.task(ctx, a.ID)
	if err != nil {
		return err
	}
	// The program's three lines may still be on their way through Nomad's log.
	if err := c.awaitLog(ctx, task, "shared memory"); err != nil {
		return err
	}
	return c.freejail(ctx, "logs", task)
}

// marks are parts of the names of everything that the demo makes on the host.
func (c *cluster) marks() []string { return append([]string{c.dir}, c.jails...) }

func (c *cluster) stop(ctx context.Context) error {
	tasks, err := c.daemon.Tasks(ctx)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		c.jails = append(c.jails, t.Jail)
	}
	if c.during, err = look(c.marks()); err != nil {
		return err
	}
	for _, job := range []string{"web", "greedy"} {
		if err := c.purge(ctx, job); err != nil {
			return err
		}
	}
	if err := c.idle(ctx); err != nil {
		return err
	}
	say("   No task, root, mount or ruleset of freejail remains, and no service in Consul.")
	if err := c.end(); err != nil {
		return err
	}
	say("   Nomad, the daemon and Consul have ended.")
	return nil
}

// compare looks at the host as it is now and as it was with both jobs.
func (c *cluster) compare(context.Context) error {
	after, err := look(c.marks())
	if err != nil {
		return err
	}
	say("   before: %s", c.before)
	say("   during: %s", c.during)
	say("   now:    %s", after)
	if len(c.during["mounts"]) == 0 || len(c.during["processes"]) == 0 {
		return errors.New("the comparison is worth nothing: it did not see the tasks while they ran")
	}
	if left := after.differences(c.before); len(left) > 0 {
		return fmt.Errorf("the host is not as it was:\n%s", strings.Join(left, "\n"))
	}
	return nil
}
