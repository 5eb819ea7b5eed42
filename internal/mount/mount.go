// Package mount mounts and unmounts file systems by system call: on what was
// opened, from what was opened, and by the kernel's number of a mount.
package mount

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

// Mount is one file system to be mounted. Type is FreeBSD's name (nullfs,
// devfs, tmpfs, fdescfs, procfs, linprocfs, linsysfs, unionfs, nfs) or
// Linux's; nullfs is a bind mount there. Options are nmount(2)'s: "ro",
// "ruleset=7", "size=1048576", "mode=1777"; Binary are those that are no text.
type Mount struct {
	Type, Source, Target string
	// From is the opened source of a nullfs or unionfs; Source is then for
	// messages only.
	From    *os.File
	Options []string
	Binary  map[string][]byte
}

// Info is one mounted file system.
type Info struct {
	Type, Source, Target string
	id                   string // the kernel's number of it
}

// Error says which mount failed, with the kernel's own message where it gave
// one.
type Error struct {
	Op, Type, Source, Target, Message string
	Err                               error
}

func (e *Error) Error() string {
	s := e.Op
	if e.Type != "" {
		s += " " + e.Type
	}
	if e.Source != "" && e.Source != e.Type {
		s += " " + e.Source
	}
	s += " on " + e.Target + ": "
	if e.Message != "" {
		s += e.Message + ": "
	}
	return s + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Unmount unmounts what is mounted on target, the newest if there are several.
// Nothing there is no error.
func Unmount(target string) error {
	there, err := list(func(at []byte) bool { return string(at) == target })
	if err != nil || len(there) == 0 {
		return err
	}
	return there[len(there)-1].Unmount(false)
}

// Unmount unmounts it, with force whoever uses what is there. It goes by the
// kernel's number of the mount, wherever its mount point has been moved. One that
// is gone is no error.
func (m Info) Unmount(force bool) error {
	return m.unmountWithin(time.Second, force)
}

// unmountWithin tries for about a time while it is busy.
func (m Info) unmountWithin(most time.Duration, force bool) error {
	var err error
	for wait := time.Millisecond; wait < most; wait *= 2 {
		err = m.unmount(force)
		if err == nil || isGone(err) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			break
		}
		time.Sleep(wait) // the last process of the jail may still let go
	}
	return &Error{Op: "unmount", Target: m.Target, Err: err}
}

// isGone is an unmount's error where there is no such mount.
func isGone(err error) bool { return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) }

// Release unmounts it, with what is mounted in it, for the root of a jail as ReleaseUnder does. The mounts of the host
// are listed only where somebody uses it.
func (m Info) Release() error {
	if err := m.unmount(false); err == nil || isGone(err) {
		return nil
	}
	return ReleaseUnder(m.Target)
}

// Below lists the mounts at some directories and below them, the newest first.
func Below(dirs ...string) ([]Info, error) {
	out, err := list(func(target []byte) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool {
			n := len(dir)
			return len(target) >= n && string(target[:n]) == dir && (len(target) == n || target[n] == '/')
		})
	})
	slices.Reverse(out)
	return out, err
}

// ReleaseOwn unmounts what this process has mounted at some directories and below them, apart from at but, unless that
// is in use. It lists no mounts: that takes time and memory for each of the host's. What others have mounted there it
// leaves; in a mount of ours that keeps it in use. It is false where something may be left: then ReleaseUnder and its
// like find out. On Linux it always is.
func ReleaseOwn(but string, dirs ...string) bool {
	mounts := own.below(dirs)
	done := len(mounts) > 0
	for _, m := range mounts {
		if m.Target == but {
			continue
		}
		if err := m.unmount(false); err != nil && !isGone(err) {
			return false
		}
	}
	return done
}

// List returns all mounts in the order in which they were made.
func List() ([]Info, error) { return list(func([]byte) bool { return true }) }

// UnmountUnder unmounts everything at some directories and below them. Nothing
// mounted is no error. No path is looked up on FreeBSD: one that leads over a server
// which is away would not end.
func UnmountUnder(dirs ...string) error { return unmountAll(dirs, "", gently) }

// UnmountBelow unmounts everything below root, but not root itself, and what was
// mounted there with help of a Descriptors in dirs.
func UnmountBelow(root string, dirs ...string) error {
	return unmountAll(append(dirs, root), root, gently)
}

// ReleaseBelow is UnmountBelow for the root of a jail in which nobody runs any
// more: who was given something of it by a descriptor, in another jail, does not
// keep it. Nor does the jail itself, which on FreeBSD is dying as long as TCP has
// connections of it, up to ten minutes: it keeps a vnode that is no file system's
// any more (vflush in sys/kern/vfs_subr.c).
func ReleaseBelow(root string, dirs ...string) error {
	return unmountAll(append(dirs, root), root, firmly)
}

// ReleaseUnder is UnmountUnder for such a root.
func ReleaseUnder(dirs ...string) error { return unmountAll(dirs, "", firmly) }

// ForceUnder is UnmountUnder, whoever uses what is there.
func ForceUnder(dirs ...string) error { return unmountAll(dirs, "", Info.forced) }

// ForceBelow is UnmountBelow, whoever uses what is there.
func ForceBelow(root string, dirs ...string) error {
	return unmountAll(append(dirs, root), root, Info.forced)
}

func gently(m Info) error { return m.Unmount(false) }

func (m Info) forced() error { return m.Unmount(true) }

// firmly gives whoever is on the way out a moment.
func firmly(m Info) error {
	if m.unmountWithin(50*time.Millisecond, false) == nil {
		return nil
	}
	return m.Unmount(true)
}

func unmountAll(dirs []string, but string, how func(Info) error) error {
	for _, dir := range dirs {
		if dir == "" || dir == "/" {
			return fmt.Errorf("unmount: refusing to unmount below %q", dir)
		}
	}
	err := unmountOnce(dirs, but, how)
	if err != nil { // what could not be found may have gone with what it was mounted in
		err = unmountOnce(dirs, but, how)
	}
	return err
}

func unmountOnce(dirs []string, but string, how func(Info) error) error {
	all, err := Below(dirs...)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range all {
		if m.Target != but {
			errs = append(errs, how(m))
		}
	}
	return errors.Join(errs...)
}
