package client

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// ParseSize reads a size such as 256MiB, in bytes; that of an empty text is 0.
func ParseSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(text)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%q is not a valid size (for example 256MiB)", text)
	}
	return n, nil
}

// ParseVolume reads SOURCE:TARGET, with :ro or :rw behind it.
func ParseVolume(text string) (Mount, error) {
	p := strings.Split(text, ":")
	if len(p) < 2 || len(p) > 3 || len(p) == 3 && p[2] != "ro" && p[2] != "rw" {
		return Mount{}, fmt.Errorf("%q: expected SOURCE:TARGET or SOURCE:TARGET:ro", text)
	}
	return Mount{Source: p[0], Target: p[1], ReadOnly: len(p) == 3 && p[2] == "ro"}, nil
}

// ParseDevice reads PATH[:PERMISSIONS], or PATH:PATH[:PERMISSIONS]: in a task a device has its own path. Permissions
// that are not given are rwm.
func ParseDevice(text string) (Device, error) {
	p := strings.Split(text, ":")
	d := Device{Path: p[0], Permissions: "rwm"}
	if len(p) > 1 && strings.HasPrefix(p[1], "/") {
		if p[1] != p[0] {
			return d, fmt.Errorf("%q: a task has devices at their own paths alone", text)
		}
		p = p[1:]
	}
	switch len(p) {
	case 1:
	case 2:
		d.Permissions = p[1]
	default:
		return d, fmt.Errorf("%q: expected PATH or PATH:PERMISSIONS", text)
	}
	return d, nil
}

// ParseTmpfs reads TARGET[:OPTIONS]; the daemon judges the options.
func ParseTmpfs(text string) Mount {
	target, options, _ := strings.Cut(text, ":")
	return Mount{Type: "tmpfs", Source: "tmpfs", Target: target, Options: options}
}

var notID = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// TaskID makes an id that people can read, by a name, and that is unique by what
// comes behind it.
func TaskID(name, unique string) string {
	name = notID.ReplaceAllString(name, "-")
	if name == "" || !(name[0] >= 'a' && name[0] <= 'z' || name[0] >= 'A' && name[0] <= 'Z') {
		name = "t" + name
	}
	return name[:min(len(name), 40)] + "-" + unique
}

// Pause waits for a time, or until the context ends, and tells whether it goes on.
func Pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
