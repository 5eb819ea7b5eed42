package testhost

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
)

// Apart runs this program again in a network namespace of its own, which is the host's then: nothing that it sends
// leaves it. Done is false in that run, and where it cannot be.
func Apart() (code int, done bool) {
	const variable = "FREEJAIL_TEST_APART"
	if os.Geteuid() != 0 || os.Getenv(variable) != "" {
		return 0, false
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), variable+"=yes")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return cmd.ProcessState.ExitCode(), true
}

// Networks is all of the host that tasks' networks have, a line each.
func Networks(...string) (out []string, err error) {
	for _, c := range []string{"ip -o link show", "ip -o addr show", "ip route show table all",
		"ip -6 route show table all", "ip neigh show nud permanent"} {
		found, callErr := call(c)
		err = errors.Join(err, callErr)
		for _, line := range found {
			if !strings.Contains(line, "fe80:") { // the kernel gives interfaces those by itself, some time later
				out = append(out, withoutNumber(line))
			}
		}
	}
	sockets, listenErr := listening()
	rules, rulesErr := filterRules()
	return slices.Concat(out, sockets, rules), errors.Join(err, listenErr, rulesErr)
}

// withoutNumber drops what interfaces are numbered by.
func withoutNumber(line string) string {
	_, rest, found := strings.Cut(line, ": ")
	if found && strings.Trim(line[:len(line)-len(rest)-2], "0123456789") == "" {
		return rest
	}
	return line
}

// listening are the sockets of this namespace that wait for others.
func listening() (out []string, err error) {
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, readErr := os.ReadFile("/proc/net/" + protocol)
		err = errors.Join(err, readErr)
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 3 && (f[3] == "0A" || f[3] == "07" && strings.HasSuffix(f[2], ":0000")) {
				out = append(out, protocol+" "+f[1])
			}
		}
	}
	slices.Sort(out)
	return out, err
}

// filterRules are the rules of nftables, by their number, and the elements of sets.
func filterRules() (out []string, err error) {
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChains()
	for _, chain := range chains {
		rules, rulesErr := c.GetRules(chain.Table, chain)
		err = errors.Join(err, rulesErr)
		out = append(out, fmt.Sprintf("chain %s: %d rules", chain.Name, len(rules)))
	}
	tables, tablesErr := c.ListTables()
	err = errors.Join(err, tablesErr)
	for _, table := range tables {
		sets, setsErr := c.GetSets(table)
		err = errors.Join(err, setsErr)
		for _, set := range sets {
			elements, elementsErr := c.GetSetElements(set)
			err = errors.Join(err, elementsErr)
			if !set.Anonymous {
				out = append(out, fmt.Sprintf("set %s: %d elements", set.Name, len(elements)))
			}
		}
	}
	slices.Sort(out)
	return out, err
}
