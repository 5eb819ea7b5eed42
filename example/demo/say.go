package main

import (
	"fmt"
	"strings"
)

func say(format string, a ...any) { fmt.Printf(format+"\n", a...) }

// indent prints what a program or a server said.
func indent(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Print("     ", strings.TrimRight(line, "\n"), "\n")
	}
}

// quoted writes a command as a shell would read it.
func quoted(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a
		if a == "" || strings.ContainsAny(a, " \t\"'$&|;<>()*?") {
			out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}
