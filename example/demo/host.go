package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/freejail/freejail/internal/mount"
)

// host is what tasks could leave behind, each thing as a readable line.
type host map[string][]string

// lookAtHost leaves out what is neither freejail's nor the demo's: programs
// come and go on any host. dir marks what is the demo's.
func lookAtHost(dir string) (host, error) {
	h := host{}
	mounts, err1 := mount.List()
	for _, m := range mounts {
		h["mounts"] = append(h["mounts"], fmt.Sprintf("%s %s on %s", m.Type, m.Source, m.Target))
	}
	interfaces, err2 := net.Interfaces()
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		err2 = errors.Join(err2, err)
		h["interfaces"] = append(h["interfaces"], fmt.Sprint(i.Name, " ", addrs))
	}
	return h, errors.Join(err1, err2, h.lookAtSystem(dir))
}

// String counts.
func (h host) String() string {
	var out []string
	for _, kind := range kinds {
		out = append(out, fmt.Sprintf("%d %s", len(h[kind]), kind))
	}
	return strings.Join(out, ", ")
}

func (h host) differences(now host) []string {
	var out []string
	for _, kind := range kinds {
		for _, l := range now[kind] {
			if !slices.Contains(h[kind], l) {
				out = append(out, kind+": left behind: "+l)
			}
		}
		for _, l := range h[kind] {
			if !slices.Contains(now[kind], l) {
				out = append(out, kind+": gone: "+l)
			}
		}
	}
	return out
}
