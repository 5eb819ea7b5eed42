package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/freejail/freejail/internal/mount"
)

// host lists, by kind and as readable lines, what the demo has on the host; of the kinds in
// whole, also what other programs have.
type host map[string][]string

// look finds mounts, processes and so on that have one of the marks in their
// names: the demo's directory, or a jail's name. Changes by other programs do not
// count.
func look(marks []string) (host, error) {
	h := host{}
	mounts, err1 := mount.List()
	for _, m := range mounts {
		h.add("mounts", fmt.Sprintf("%s %s on %s", m.Type, m.Source, m.Target), marks)
	}
	interfaces, err2 := net.Interfaces()
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		err2 = errors.Join(err2, err)
		h.add("interfaces", fmt.Sprint(i.Name, " ", addrs), marks)
	}
	return h, errors.Join(err1, err2, h.lookAtSystem(marks))
}

func (h host) add(kind, line string, marks []string) {
	if slices.Contains(whole, kind) ||
		slices.ContainsFunc(marks, func(m string) bool { return strings.Contains(line, m) }) {
		h[kind] = append(h[kind], line)
	}
}

// String is the number of things of each kind.
func (h host) String() string {
	var out []string
	for _, kind := range append(slices.Clone(own), whole...) {
		out = append(out, fmt.Sprintf("%d %s", len(h[kind]), kind))
	}
	return strings.Join(out, ", ")
}

// differences are what the demo has left behind, and what else has changed.
func (h host) differences(before host) []string {
	var out []string
	for _, kind := range append(slices.Clone(own), whole...) {
		for _, l := range h[kind] {
			if !slices.Contains(before[kind], l) {
				out = append(out, kind+": left behind: "+l)
			}
		}
		for _, l := range before[kind] {
			if !slices.Contains(h[kind], l) {
				out = append(out, kind+": gone: "+l)
			}
		}
	}
	return out
}
