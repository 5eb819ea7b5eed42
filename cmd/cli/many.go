package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// everyday are the commands for what there is already.
func (a *commands) everyday() []*cobra.Command {
	return []*cobra.Command{a.restartCmd(), a.rmCmd(), a.tagCmd(), a.cpCmd(), a.dfCmd(), a.configCmd(),
		a.saveCmd(), a.loadCmd()}
}

// doneTo is a thing to which something was done.
type doneTo struct {
	Name string `json:"name"`
}

// errTold is of a name of which all has been told.
var errTold = errors.New("told already")

// each does something to several things, whatever becomes of one of them, and prints those with which it went well.
func (a *commands) each(ctx context.Context, names []string, do func(name string) error) error {
	var errs []error
	done := map[string]bool{}
	for _, name := range names {
		if done[name] {
			continue
		}
		done[name] = true
		err := ctx.Err()
		if err == nil {
			err = do(name)
		}
		if errors.Is(err, errTold) {
			continue
		}
		if err == nil {
			err = a.PrintLine(doneTo{name}, func(w io.Writer) { printable.Fprintln(w, name) })
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return app.Each(errs)
}

// namesOrMany refuses names beside flags that stand for many, and neither.
func namesOrMany(args []string, many bool) error {
	switch {
	case len(args) == 0 && !many:
		return app.Usagef("give names, or --all or --filter")
	case len(args) > 0 && many:
		return app.Usagef("--all and --filter are in place of names")
	}
	return nil
}

func (a *commands) rmCmd() *cobra.Command {
	var force, all bool
	f := filters{}
	c := app.Command("rm TASK...", "remove ended tasks", cobra.ArbitraryArgs,
		func(ctx context.Context, args []string) error {
			err := namesOrMany(args, all || len(f) > 0)
			if err == nil && len(args) == 0 {
				args, err = a.removable(ctx, f, force)
			}
			if err != nil {
				return err
			}
			return a.each(ctx, args, func(id string) error {
				destroy := func() error { return a.client().Destroy(ctx, id, force) }
				if !force {
					return destroy()
				}
				if _, err := a.client().Task(ctx, id); client.IsNotFound(err) {
					printable.Fprintf(a.Messages, "freejail: no such task: %s\n", id)
					return errTold
				}
				return a.endOf(ctx, id, destroy)
			})
		})
	c.Flags().BoolVarP(&force, "force", "f", false, "kill running tasks")
	c.Flags().BoolVarP(&all, "all", "a", false,
		"remove all ended tasks of `freejail run`; with --force the running ones too")
	c.Flags().Func("filter", "with or without --all: remove "+taskFilter, func(text string) error {
		return taskConditions.parse(text, f)
	})
	return c
}

// endOf ends a task, and tells of one of Nomad's that ran that Nomad may start it again.
func (a *commands) endOf(ctx context.Context, id string, end func() error) error {
	t, err := a.client().Task(ctx, id)
	if err != nil || ended(*t) || t.Spec.NomadLabels()["alloc_id"] == "" {
		return end() // which tells of an error
	}
	if err := end(); err != nil {
		return err
	}
	labels, how := t.Spec.NomadLabels(), "stopping the job ends it"
	if ns := cmp.Or(labels["namespace"], "default"); copyable(ns, labels["job_id"]) {
		how = fmt.Sprintf("`nomad job stop -namespace %s %s` ends the job", ns, labels["job_id"])
	}
	printable.Fprintf(a.Messages, "freejail: warning: task %s is of Nomad's job %s, and Nomad may start it again: %s\n",
		id, strings.ReplaceAll(labels["job"], "`", "'"), how)
	return nil
}

// plainWord is one word for any shell as it is, and no flag.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9/][A-Za-z0-9_./:@-]*$`)

// copyable tells whether words that others chose, such as the author of a job, can be in a command that is meant to
// be copied to a shell.
func copyable(words ...string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !plainWord.MatchString(w) })
}

// removable are the tasks of --all: Nomad removes its own.
func (a *commands) removable(ctx context.Context, f filters, force bool) (ids []string, err error) {
	c := a.client()
	tasks, err := c.Tasks(ctx)
	if err == nil {
		err = checkFilters(ctx, c, tasks, f)
	}
	if err != nil {
		return nil, err
	}
	var run, others []string
	for _, t := range taskConditions.of(tasks, f) {
		switch {
		case t.State == client.Left:
		case t.Spec.Owner != "cli":
			others = append(others, t.Spec.ID)
		case force || t.State == client.Exited:
			ids = append(ids, t.Spec.ID)
		default:
			run = append(run, t.Spec.ID)
		}
	}
	if len(f) > 0 {
		a.skipped("they run (--force kills them)", run)
		a.skipped("who started them, such as Nomad, removes them", others)
	}
	return ids, nil
}

// skipped tells of what a filter has found and what is not removed.
func (a *commands) skipped(why string, names []string) {
	if len(names) > 0 {
		printable.Fprintf(a.Messages, "freejail: left, as %s: %s\n", why, strings.Join(names, " "))
	}
}

func (a *commands) imagesRmCmd() *cobra.Command {
	var all bool
	f := filters{}
	c := app.Command("rm IMAGE...", "remove names of images; `freejail gc` frees their space", cobra.ArbitraryArgs,
		func(ctx context.Context, args []string) error {
			err := namesOrMany(args, all || len(f) > 0)
			if err == nil && len(args) == 0 {
				args, err = a.removableImages(ctx, f)
			}
			if err != nil {
				return err
			}
			return a.each(ctx, args, func(name string) error {
				image, err := a.shortDigest(ctx, name)
				if err != nil {
					return err
				}
				return a.untag(ctx, image)
			})
		})
	c.Long = `A task that runs an image keeps its files, but not its name. IMAGE is a name, or a
digest, which removes all names of the image: each is told.`
	c.Flags().BoolVarP(&all, "all", "a", false, "remove the names of all images that no task runs")
	c.Flags().Func("filter", "with or without --all: remove "+imageFilter, func(text string) error {
		return imageConditions.parse(text, f)
	})
	return c
}

// untag takes a name from an image, or by its digest all names, each of which is told.
func (a *commands) untag(ctx context.Context, image string) error {
	u, err := a.client().Untag(ctx, image)
	if err != nil {
		return err
	}
	if len(u.Tasks) > 0 {
		printable.Fprintf(a.Messages, "freejail: %s has no name any more, and stays as long as tasks run it: %s\n",
			short(u.Digest), strings.Join(u.Tasks, " "))
	}
	if !strings.HasPrefix(image, "sha256:") {
		return nil
	}
	for _, name := range u.Names {
		if err := a.PrintLine(doneTo{name}, func(w io.Writer) { printable.Fprintln(w, "untagged", name) }); err != nil {
			return err
		}
	}
	return errTold
}

// removableImages are the names of --all.
func (a *commands) removableImages(ctx context.Context, f filters) (names []string, err error) {
	list, err := a.client().Images(ctx)
	if err != nil {
		return nil, err
	}
	var used []string
	for _, i := range imageConditions.of(list, f) {
		if len(i.Tasks) == 0 {
			names = append(names, i.Name)
		} else {
			used = append(used, i.Name)
		}
	}
	if len(f) > 0 {
		a.skipped("tasks run them", used)
	}
	return names, nil
}

const imageFilter = "images alone for which `KEY=VALUE` holds: name (a part of it), digest (its beginning), " +
	"platform (OS/ARCHITECTURE), or used (true or false: whether a task runs it); repeatable"

var imageConditions = conditions[client.ImageInfo]{
	"name":     func(i client.ImageInfo, value string) bool { return strings.Contains(i.Name, value) },
	"digest":   func(i client.ImageInfo, value string) bool { return beginsDigest(i.Digest, value) },
	"platform": func(i client.ImageInfo, value string) bool { return i.OS+"/"+i.Arch == value },
	"used":     func(i client.ImageInfo, value string) bool { return fmt.Sprint(len(i.Tasks) > 0) == value },
}

func (a *commands) restartCmd() *cobra.Command {
	var timeout client.Duration
	var given bool
	c := app.Command("restart TASK...", "stop tasks of `freejail run`, and start them again", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error {
			return a.each(ctx, args, func(id string) error {
				wait := timeout
				if !given {
					wait = client.Duration(a.stopTimeout(ctx, id))
				}
				return a.restart(ctx, id, wait)
			})
		})
	c.Long = `A task starts with what it was started with, in a new root: what it wrote outside
of volumes is gone, and so is its log. If its image has another digest by now, that
is told. One that has ended is started again. Where it cannot be it stays as it was, one
that ran as one that has ended, with its log, for the next restart.`
	c.Flags().FuncP("timeout", "t",
		"the `TIME` until SIGKILL, such as 90s, or in seconds (default: the image's, else 10s)",
		func(text string) error {
			d, err := parseSeconds(text)
			timeout, given = client.Duration(d), true
			return err
		})
	return c
}

// restart ends a task that could be started again by what is known now.
func (a *commands) restart(ctx context.Context, id string, timeout client.Duration) error {
	c := a.client()
	t, err := c.Task(ctx, id)
	if err != nil {
		return err
	}
	if t.Spec.Owner != "cli" {
		return byNomad(t)
	}
	spec := t.Spec
	spec.Attach = false
	if d, err := c.CheckPolicy(ctx, spec); err != nil {
		return fmt.Errorf("task %s is left as it is, as it could not be started again: %w", id, err)
	} else if !d.Allowed {
		why := ""
		if copyable(spec.Image) {
			why = fmt.Sprintf("; `freejail policy check %s` tells more", spec.Image)
		}
		return client.Refused("task %s is left as it is: the policy does not permit it any more%s", id, why)
	}
	if _, err := c.Stop(ctx, id, client.StopRequest{Timeout: timeout}); err != nil && t.State != client.Exited {
		return err
	}
	if spec.Remove { // which the end does too
		if err := c.Destroy(ctx, id, true); err != nil {
			return err
		}
	}
	now, err := a.startBy(ctx, spec, c.StartAgain)
	if err != nil {
		return notAgain(t, err)
	}
	if now.Digest != t.Digest {
		printable.Fprintf(a.Messages, "%s: the image %s is %s now; it was %s\n", id, spec.Image, now.Digest, t.Digest)
	}
	return nil
}

// notAgain tells what there is of a task that was to be started again, and was not.
func notAgain(t *client.Task, err error) error {
	id := t.Spec.ID
	switch {
	case t.Spec.Remove:
		return fmt.Errorf("task %s was stopped and, as it has --rm, removed, and does not start again: %w", id, err)
	case t.State == client.Exited:
		return fmt.Errorf("task %s had ended, and is left as it is, as it does not start again: %w", id, err)
	}
	return fmt.Errorf("task %s was stopped, and does not start again; it stays, with its log, as one that ended: %w",
		id, err)
}

// byNomad refuses to restart a task of Nomad's, which would be lost to it.
func byNomad(t *client.Task) error {
	labels := t.Spec.NomadLabels()
	if labels["alloc_id"] == "" {
		return fmt.Errorf("task %s is not of `freejail run`: who started it restarts it", t.ID)
	}
	if !copyable(labels["task"], labels["alloc_id"]) {
		return fmt.Errorf("task %s is Nomad's: `nomad alloc restart` restarts it", t.ID)
	}
	return fmt.Errorf("task %s is Nomad's: use `nomad alloc restart -task %s %s`", t.ID, labels["task"],
		labels["alloc_id"])
}
