// Package testmanual holds docs/cli.md against the commands of a program.
package testmanual

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Check wants a page to have a section for every command of a program, with its
// usage, its flags and their help.
func Check(t *testing.T, page string, root *cobra.Command) {
	t.Helper()
	text, err := os.ReadFile(page)
	if os.IsNotExist(err) {
		t.Skip("the documentation is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands(root) {
		if want := section(c); !strings.Contains(string(text), want) {
			t.Errorf("%s has not this section:\n\n%s", page, want)
		}
	}
}

// commands are those that do something.
func commands(c *cobra.Command) (list []*cobra.Command) {
	if c.RunE != nil && c.HasParent() {
		list = append(list, c)
	}
	for _, sub := range c.Commands() {
		list = append(list, commands(sub)...)
	}
	return list
}

func section(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n`%s`: %s.\n", c.CommandPath(), c.UseLine(), c.Short)
	flags := ""
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { flags += row(f) })
	if flags != "" {
		b.WriteString("\n| flag | |\n| --- | --- |\n" + flags)
	}
	return b.String()
}

func row(f *pflag.Flag) string {
	if f.Hidden || f.Name == "help" {
		return ""
	}
	name := "`--" + f.Name + "`"
	if f.Shorthand != "" {
		name = "`-" + f.Shorthand + "`, " + name
	}
	_, usage := pflag.UnquoteUsage(f)
	if !slices.Contains([]string{"", "false", "[]", "0", "0s", "-1"}, f.DefValue) {
		usage += " (default `" + f.DefValue + "`)"
	}
	return fmt.Sprintf("| %s | %s |\n", name, usage)
}
