package testhost

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Apart is not possible: the host is this one.
func Apart() (code int, done bool) { return 0, false }

// Networks is all of the host that tasks' networks have, a line each. States of pf are those from addresses that begin
// with one of some texts.
func Networks(states ...string) (out []string, err error) {
	ask := func(command string) []string {
		found, callErr := call(command)
		err = errors.Join(err, callErr)
		return found
	}
	out = append(out, strings.Fields(strings.Join(ask("ifconfig -l"), " "))...)
	for _, line := range ask("ifconfig -a") {
		if strings.Contains(line, "inet") && !strings.Contains(line, "fe80:") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	for _, c := range []string{"jls -d -q name", "pfctl -q -a freejail -s rules", "pfctl -q -a freejail -s nat",
		"pfctl -q -a freejail -s Tables"} {
		out = append(out, ask(c)...)
	}
	for _, line := range append(ask("arp -an"), ask("ndp -an")...) {
		if strings.Contains(line, "permanent") && !strings.Contains(line, "fe80:") {
			out = append(out, "neighbor "+line)
		}
	}
	for _, line := range ask("netstat -rnW") {
		if f := strings.Fields(line); len(f) > 3 {
			out = append(out, fmt.Sprint("route ", f[0], " ", f[3]))
		}
	}
	for _, line := range ask("pfctl -q -s states") {
		if slices.ContainsFunc(states, func(s string) bool { return strings.Contains(line, s) }) {
			out = append(out, "state "+line)
		}
	}
	for _, line := range ask("sockstat -l -q -P tcp,udp") {
		if f := strings.Fields(line); len(f) > 5 {
			out = append(out, "listens "+f[1]+" "+f[5])
		}
	}
	slices.Sort(out)
	return out, err
}
