package daemon

import (
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

func init() {
	programs["open"] = func(args []string) int { // its code is the errno
		flags := map[string]int{"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
		f, err := os.OpenFile(args[0], flags[args[1]], 0)
		if err != nil {
			errno, _ := err.(*os.PathError).Err.(syscall.Errno) // 0 is none of an open that failed
			return int(errno)
		}
		return failed(f.Close(), 99, 0)
	}
}

// permitDevice has what shows a device by its path.
func permitDevice(device string) string {
	out := ""
	for name := strings.TrimPrefix(device, "/dev/"); name != "."; name = path.Dir(name) {
		out += fmt.Sprintf("permit {\n  devfs = [\"path %s unhide\"]\n}\n", name)
	}
	return out
}

// opens tells the errno of opening a file in a task; 0 is none.
func (v *victim) opens(file, flag string) int {
	e, err := v.c.Exec(v.t.Context(), "device", client.ExecSpec{Args: []string{"/bin/prog", "open", file, flag}},
		client.ExecIO{})
	if err != nil {
		v.t.Fatal(err)
	}
	return e.Code
}

// A task has the devices that it was given, at their own paths, and no other.
func TestDevices(t *testing.T) {
	device := someDevice(t)
	v := newVictim(t, permitDevice(device))
	img := v.image(testimage.Spec{})
	for _, given := range [][]client.Device{nil, {{Path: device, Permissions: "rwm"}}} {
		if _, err := v.c.Start(t.Context(), client.TaskSpec{ID: "device", Image: img, Devices: given}); err != nil {
			t.Fatal(err)
		}
		want := int(syscall.ENOENT)
		if given != nil {
			want = 0
		}
		if got := v.opens(device, "rw"); got != want {
			t.Errorf("given %v: %v, want %v", given, syscall.Errno(got), syscall.Errno(want))
		}
		if err := v.c.Destroy(t.Context(), "device", true); err != nil {
			t.Error(err)
		}
	}
	for _, access := range []string{"r", "w"} {
		v.onlyOne(client.TaskSpec{ID: "device", Image: img,
			Devices: []client.Device{{Path: device, Permissions: access}}}, access)
	}
}

func TestDevicesRefused(t *testing.T) {
	device := someDevice(t)
	v := newVictim(t, permitDevice(device)+"permit {\n devfs = [\"path 'z*' unhide\"]\n}\n"+
		"deny {\n devfs = [\"path zero unhide\"]\n}\n")
	img := v.image(testimage.Spec{})
	for want, d := range map[string]client.Device{
		"denied":                   {Path: "/dev/zero", Permissions: "rw"},
		"path random unhide":       {Path: "/dev/random", Permissions: "rw"},
		"is not there":             {Path: "/dev/nothere", Permissions: "rw"},
		"does not lie in /dev":     {Path: "/etc/passwd", Permissions: "rw"},
		"is not a clean path":      {Path: "/dev/../etc/passwd", Permissions: "rw"},
		"not a clean path below":   {Path: "/dev/", Permissions: "rw"},
		"a pattern in rules":       {Path: "/dev/*", Permissions: "rw"},
		"is a link":                {Path: "/dev/stdin", Permissions: "rw"},
		"expected some of r, w":    {Path: device, Permissions: "rx"},
		`"rwr": expected some of`:  {Path: device, Permissions: "rwr"},
		"/dev/zero/below: open":    {Path: "/dev/zero/below", Permissions: "rw"},
		"is not a device":          {Path: directory, Permissions: "rw"},
		"ermissions":               {Path: device},
		"device /dev/stdin/x: /de": {Path: "/dev/stdin/x", Permissions: "rw"},
	} {
		v.refuses(client.TaskSpec{Image: img, Devices: []client.Device{d}}, want)
	}
}
