// Package testcrash cuts the power at every moment of what a program does to its
// files, and shows what a disk may then hold. A program is recorded by strace(1), so
// on Linux alone; what it does is the same elsewhere.
//
// The disk keeps what was synced, and of the rest anything: all, nothing, one of the
// operations, all but one, those of one directory, names without the data, zeros where
// data are to be, half of the last write. No file system is as bad; each is bad in some
// of these ways. A rename happens or does not.
package testcrash

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// childDir is where the child that is recorded works.
const childDir = "FREEJAIL_TEST_CRASH"

// Run records do in a process of its own, and calls check for each state in which the
// disk may be after a power cut during it. do begins in an empty directory and calls
// ack when something is promised; check has what was promised by then. It must be all
// that the test does.
func Run(t *testing.T, do func(dir string, ack func(what string)), check func(dir string, acked []string)) {
	if dir := os.Getenv(childDir); dir != "" {
		do(dir, func(what string) { fmt.Print(ackMark + what + "\n") })
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip(err)
	}
	base, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(strace, "-f", "-qq", "-y", "-xx", "-s", "100000000", "-o", log,
		"-e", "trace="+strings.Join(traced, ","),
		os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.count", "1")
	cmd.Env = append(os.Environ(), childDir+"="+base, "GOMAXPROCS=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{base: base, at: map[string]int64{}, disk: newDisk()}
	for _, line := range whole(strings.Split(string(b), "\n")) {
		if err := r.line(line); err != nil {
			t.Fatalf("%v: %.300s", err, line)
		}
	}
	n := r.states(t, check)
	t.Logf("%d operations, %d states of the disk", len(r.ops), n)
	if n == 0 {
		t.Error("nothing was recorded")
	}
}

const ackMark = "ack "

var traced = []string{"openat", "creat", "open", "lseek", "write", "pwrite64", "writev", "pwritev", "pwritev2", "fsync",
	"fdatasync", "syncfs",
	"sync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "link", "linkat",
	"symlink", "symlinkat",
	"ftruncate", "truncate", "copy_file_range", "sendfile", "splice", "fallocate"}

// whole joins calls that another thread's were written between.
func whole(lines []string) (out []string) {
	begun := map[string]string{}
	resumed := regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
	for _, l := range lines {
		pid, _, _ := strings.Cut(l, " ")
		if head, ok := strings.CutSuffix(l, " <unfinished ...>"); ok {
			begun[pid] = head
			continue
		}
		if m := resumed.FindStringSubmatch(l); m != nil {
			l = begun[pid] + m[2]
		}
		out = append(out, l)
	}
	return out
}

// recorder turns a log into operations.
type recorder struct {
	base string
	at   map[string]int64 // where each descriptor writes next; -1 is at the end
	*disk
	ops []op
}

var call = regexp.MustCompile(`^\d+ +(\w+)\((.*)\) += (\d+)(?:<(.*)>)?$`)

// line records a call that succeeded.
func (r *recorder) line(l string) error {
	m := call.FindStringSubmatch(l)
	if m == nil {
		return nil // a signal, an exit, an error
	}
	name, args, result := m[1], strings.Split(m[2], ", "), m[3]
	switch name {
	case "openat":
		return r.open(r.path(args[0], args[1]), args[2], result)
	case "lseek":
		n, err := strconv.ParseInt(result, 10, 64)
		r.at[fd(args[0])] = n
		return err
	case "write", "pwrite64":
		return r.write(args)
	case "fsync", "fdatasync":
		return r.add(op{kind: syncOne, path: fdPath(args[0])})
	case "syncfs", "sync":
		return r.add(op{kind: syncAll, path: r.base})
	case "renameat", "renameat2":
		return r.add(op{kind: rename, path: r.path(args[0], args[1]), to: r.path(args[2], args[3])})
	case "unlinkat":
		return r.add(op{kind: unlink, path: r.path(args[0], args[1])})
	case "mkdirat":
		return r.add(op{kind: create, dir: true, path: r.path(args[0], args[1])})
	case "linkat":
		return r.add(op{kind: link, path: r.path(args[0], args[1]), to: r.path(args[2], args[3])})
	case "symlinkat":
		return r.add(op{kind: create, data: []byte(text(args[0])), link: true, path: r.path(args[1], args[2])})
	case "ftruncate":
		n, err := strconv.ParseInt(args[1], 10, 64)
		return firstOf(err, r.add(op{kind: truncate, path: fdPath(args[0]), off: n}))
	case "rename", "unlink", "rmdir", "mkdir", "link", "symlink", "truncate":
		return fmt.Errorf("%s is not expected of Go", name)
	}
	if strings.Contains(l, r.base) {
		return fmt.Errorf("%s is not recorded", name)
	}
	return nil
}

func (r *recorder) open(path, flags, result string) error {
	r.at[result] = 0
	if strings.Contains(flags, "O_APPEND") {
		r.at[result] = -1
	}
	if !strings.Contains(flags, "O_WRONLY") && !strings.Contains(flags, "O_RDWR") {
		return nil
	}
	if strings.Contains(flags, "O_CREAT") && r.inside(path) && r.find(r.rel(path)) < 0 {
		return r.add(op{kind: create, path: path})
	}
	if strings.Contains(flags, "O_TRUNC") {
		return r.add(op{kind: truncate, path: path})
	}
	return nil
}

func (r *recorder) write(args []string) error {
	data, path := []byte(text(args[1])), fdPath(args[0])
	if what, ok := strings.CutPrefix(string(data), ackMark); ok && fd(args[0]) == "1" {
		r.ops = append(r.ops, op{kind: ack, path: strings.TrimSpace(what)})
		return nil
	}
	if !r.inside(path) {
		return nil
	}
	ino := r.find(r.rel(path))
	if ino < 0 {
		return nil // it was removed
	}
	off := r.at[fd(args[0])]
	if len(args) > 3 {
		n, err := strconv.ParseInt(args[3], 10, 64)
		if err != nil {
			return err
		}
		return r.add(op{kind: write, path: path, off: n, data: data})
	}
	if off < 0 {
		off = int64(len(r.inodes[ino].data))
	} else {
		r.at[fd(args[0])] = off + int64(len(data))
	}
	return r.add(op{kind: write, path: path, off: off, data: data})
}

// add finds what an operation is about, and does it.
func (r *recorder) add(o op) error {
	if !r.inside(o.path) {
		return nil
	}
	o.path = r.rel(o.path)
	if o.to != "" {
		o.to = r.rel(o.to)
	}
	r.resolve(&o)
	if o.ino < 0 {
		return nil // it was removed
	}
	r.apply(o, o.data)
	r.ops = append(r.ops, o)
	return nil
}

func (r *recorder) inside(path string) bool {
	return path == r.base || strings.HasPrefix(path, r.base+"/")
}

func (r *recorder) rel(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, r.base), "/")
}

func (r *recorder) path(dir, name string) string {
	if n := text(name); filepath.IsAbs(n) {
		return filepath.Clean(n)
	}
	return filepath.Join(fdPath(dir), text(name))
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// fd and fdPath take 3</path>.
func fd(arg string) string { n, _, _ := strings.Cut(arg, "<"); return n }

func fdPath(arg string) string {
	_, path, _ := strings.Cut(arg, "<")
	path = strings.TrimSuffix(path, ">")
	if strings.HasPrefix(path, `\x`) {
		return text(`"` + path + `"`)
	}
	return path
}

// text takes "\x61\x62".
func text(arg string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Trim(arg, `"`), `\x`, ""))
	if err != nil {
		return arg
	}
	return string(b)
}
