package cli

import (
	"context"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// names are what a word of a command line can be, each with a short description.
type names func(ctx context.Context, c *client.Client) ([]cobra.Completion, error)

// completed are the words of the help that shells complete.
var completed = map[string]names{"TASK": taskNames, "IMAGE": imageNames, "NETWORK": networkNames, "SRC": taskPlaces}

// firstArgument is that of a command in its line of use.
var firstArgument = regexp.MustCompile(`^\S+ (?:\[flags\] )?\[?([A-Z]+)(\.\.\.)?`)

// completeTime bounds how long a shell waits for a daemon.
const completeTime = 2 * time.Second

// complete has shells complete the arguments of a command and of those below it.
func (a *commands) complete(c *cobra.Command) {
	for _, sub := range c.Commands() {
		a.complete(sub)
	}
	if m := firstArgument.FindStringSubmatch(c.Use); m != nil && completed[m[1]] != nil {
		other := cobra.ShellCompDirectiveNoFileComp
		if m[1] == "IMAGE" { // also the path of an archive
			other = cobra.ShellCompDirectiveDefault
		}
		if m[1] == "SRC" { // also a file, and DST too
			other, m[2] = cobra.ShellCompDirectiveNoSpace, m[1]
		}
		c.ValidArgsFunction = a.completion(completed[m[1]], m[2] != "", other)
	}
	if c.Flags().Lookup("network") != nil {
		a.completeFlag(c, "network", a.completion(networkNames, true, cobra.ShellCompDirectiveNoFileComp))
	}
	if c.Flags().Lookup("pull") != nil {
		a.completeFlag(c, "pull", cobra.FixedCompletions(pullWhen, cobra.ShellCompDirectiveNoFileComp))
	}
}

// completeFlag cannot fail: the flag is there, and is completed once.
func (a *commands) completeFlag(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

// completion gives names for one argument, or for many.
func (a *commands) completion(f names, many bool, other cobra.ShellCompDirective) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !many {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
		defer cancel()
		list, err := f(ctx, client.New(a.socket))
		if err != nil { // without a daemon there are none
			return nil, other
		}
		return list, other
	}
}

func taskNames(ctx context.Context, c *client.Client) (list []cobra.Completion, err error) {
	tasks, err := c.Tasks(ctx)
	for _, t := range tasks {
		list = append(list, described(t.Spec.ID, string(t.State)+" "+t.Spec.Image))
	}
	return list, err
}

// taskPlaces are the beginnings of paths in tasks that run.
func taskPlaces(ctx context.Context, c *client.Client) (list []cobra.Completion, err error) {
	tasks, err := c.Tasks(ctx)
	for _, t := range tasks {
		if t.State == client.Running {
			list = append(list, described(t.Spec.ID+":", t.Spec.Image))
		}
	}
	return list, err
}

func imageNames(ctx context.Context, c *client.Client) (list []cobra.Completion, err error) {
	images, err := c.Images(ctx)
	for _, i := range images {
		if i.Name != "" {
			list = append(list, described(i.Name, i.Digest))
		}
	}
	return list, err
}

func networkNames(ctx context.Context, c *client.Client) (list []cobra.Completion, err error) {
	networks, err := c.Networks(ctx)
	for _, n := range networks {
		list = append(list, described(n.Name, n.Mode))
	}
	return list, err
}

func described(name, about string) cobra.Completion {
	return cobra.CompletionWithDesc(printable.Cell(name), printable.Cell(about))
}
