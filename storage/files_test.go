package storage

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/testprog"
)

// What programs do to an image's files is one table, which runs as a program in a
// root of each driver, and in one of podman's. Where a root is not like any other
// file system, the table says so for it; docs/storage.md has the same in words. A
// kernel that behaves in another way fails this test.

const (
	// driverVar names the driver of the root in which the table is gone through.
	driverVar = "FREEJAIL_TEST_DRIVER"

	// panics is what nobody tries: it takes the host down.
	panics = "the kernel panics"
)

func TestMain(m *testing.M) {
	testprog.Main(m, testprog.Programs{
		"table": func([]string) int { goThrough(); return 0 },
		"lock":  func(args []string) int { fmt.Print(outcome(lockFrom(args[0]))); return 0 },
		"true":  func([]string) int { return 0 },
	})
}

// one is what a program does in a directory of the image's own; like tells what
// is unlike a plain file system, by the driver, "podman" being one.
type one struct {
	do   func() error
	like map[string]string
}

// An image's directory has, for each of them: file (of 5:7, mode 640), hard and
// its other name same, link to file, a set-uid program, empty, and dir with in it
// a, b and sub/c.
func fillOne(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.MkdirAll(at("dir/sub"), 0o755), os.Mkdir(at("empty"), 0o755), os.Symlink("file", at("link")))
	for _, name := range []string{"file", "hard", "dir/a", "dir/b", "dir/sub/c", "setuid"} {
		err = errors.Join(err, os.WriteFile(at(name), []byte("image's "+name), 0o640), os.Chown(at(name), 5, 7))
	}
	return errors.Join(err, os.Link(at("hard"), at("same")), unix.Chmod(at("setuid"), 0o4755), unix.Chmod(dir, 0o755))
}

func goThrough() {
	results := map[string]string{}
	for name, o := range table {
		if results[name] = expected(name, os.Getenv(driverVar)); results[name] == panics {
			continue
		}
		results[name] = outcome(errors.Join(os.Chdir("/d/"+place(name)), o.do()))
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		panic(err)
	}
}

func expected(name, driver string) string {
	out := "ok"
	for _, key := range []string{runtime.GOOS, driver, driver + "/" + runtime.GOOS} {
		if s, ok := table[name].like[key]; ok {
			out = s
		}
	}
	return out
}

func place(name string) string { return strings.ReplaceAll(name, " ", "-") }

func outcome(err error) string {
	var no unix.Errno
	if errors.As(err, &no) {
		return unix.ErrnoName(no)
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func stat(name string) unix.Stat_t {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return unix.Stat_t{}
	}
	return st
}

// want is an error that says what is there instead.
func want(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func has(name, text string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return want(string(b) == text, "it is %q", b)
}

func fails(err error, with error) error {
	return want(errors.Is(err, with), "%s instead of %s", outcome(err), outcome(with))
}

// all does something to each entry of a tree, as chown -R does.
func all(do func(name string, e fs.DirEntry) error) error {
	return filepath.WalkDir(".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return do(name, e)
	})
}

func open(name string, flags int) (*os.File, error) { return os.OpenFile(name, flags, 0o600) }

// with opens a file for a function.
func with(name string, flags int, do func(f *os.File) error) error {
	f, err := open(name, flags)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Close())
}

func program(mode string, args ...string) *exec.Cmd {
	cmd := exec.Command("/prog", args...)
	cmd.Env = []string{testprog.Env(mode)}
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr // a root need not have /dev/null
	return cmd
}

// lockFrom is the other process's part.
func lockFrom(name string) error {
	return with(name, os.O_RDWR, func(f *os.File) error {
		return unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	})
}

var table = map[string]one{
	"chown all": {do: func() error {
		return errors.Join(all(func(name string, _ fs.DirEntry) error { return os.Lchown(name, 11, 12) }),
			all(func(name string, _ fs.DirEntry) error {
				st := stat(name)
				return want(st.Uid == 11 && st.Gid == 12, "%s has the owner %d:%d", name, st.Uid, st.Gid)
			}))
	}, like: map[string]string{"nfs": "EROFS", "nfs/linux": "ok"}},
	"chmod all": {do: func() error {
		return all(func(name string, e fs.DirEntry) error {
			if e.Type() == fs.ModeSymlink {
				return nil
			}
			return errors.Join(unix.Chmod(name, 0o700), want(stat(name).Mode&0o7777 == 0o700, "%s: %o", name,
				stat(name).Mode))
		})
	}},
	"owner of a link": {do: func() error {
		return errors.Join(os.Lchown("link", 1, 2), want(stat("link").Uid == 1 && stat("file").Uid == 5, "%d",
			stat("link").Uid))
	}, like: map[string]string{"nfs": "EROFS", "nfs/linux": "ok"}},
	"mode of a link": {do: func() error {
		err := unix.Fchmodat(unix.AT_FDCWD, "link", 0o500, unix.AT_SYMLINK_NOFOLLOW)
		return errors.Join(err, want(stat("link").Mode&0o777 == 0o500 && stat("file").Mode&0o777 == 0o640, "%o",
			stat("link").Mode))
	}, like: map[string]string{"nfs": "EROFS", "linux": "ENOTSUP", "nfs/linux": "ENOTSUP"}},
	"times of a link": {do: func() error {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, "link", []unix.Timespec{{Sec: 5}, {Sec: 6}}, unix.AT_SYMLINK_NOFOLLOW)
		return errors.Join(err, want(stat("link").Mtim.Sec == 6 && stat("file").Mtim.Sec != 6, "%d",
			stat("link").Mtim.Sec))
	}, like: map[string]string{"nfs": "EROFS", "nfs/linux": "ok"}},
	"times of a file": {do: func() error {
		err := unix.UtimesNanoAt(unix.AT_FDCWD, "file", []unix.Timespec{{Sec: 5}, {Sec: 6, Nsec: 7000}}, 0)
		return errors.Join(err, want(stat("file").Mtim == unix.Timespec{Sec: 6, Nsec: 7000}, "%v", stat("file").Mtim))
	}},
	"a new owner keeps content and mode": {do: func() error {
		return errors.Join(os.Chown("file", 8, 9), has("file", "image's file"),
			want(stat("file").Mode&0o7777 == 0o640, "%o", stat("file").Mode))
	}},
	"rename": {do: func() error {
		err := errors.Join(os.Rename("file", "moved"), has("moved", "image's file"))
		_, gone := os.Lstat("file")
		return errors.Join(err, fails(gone, fs.ErrNotExist), want(stat("moved").Uid == 5, "owner %d",
			stat("moved").Uid))
	}},
	"rename over": {do: func() error {
		return errors.Join(os.Rename("file", "hard"), has("hard", "image's file"), has("same", "image's hard"))
	}},
	"rename over a link": {do: func() error {
		return errors.Join(os.Rename("hard", "link"), has("link", "image's hard"), has("file", "image's file"))
	}},
	"rename a link": {do: func() error {
		return errors.Join(os.Rename("link", "dir/link"), want(stat("dir/link").Mode&unix.S_IFMT == unix.S_IFLNK, "%o",
			stat("dir/link").Mode))
	}},
	"rename across directories": {do: func() error {
		return errors.Join(os.Rename("dir/a", "empty/a"), has("empty/a", "image's dir/a"),
			os.Rename("file", "dir/sub/c"), has("dir/sub/c", "image's file"))
	}},
	"rename a directory": {do: func() error {
		return errors.Join(os.Rename("dir", "moved"), has("moved/a", "image's dir/a"),
			has("moved/sub/c", "image's dir/sub/c"))
	}, like: map[string]string{"overlay": "EXDEV", "podman": "EXDEV", "nfs/linux": "EXDEV", "union": "ENOENT",
		"nfs": "ENOENT"}},
	"rename a directory over an empty one": {do: func() error {
		return errors.Join(os.Mkdir("mine", 0o755), os.WriteFile("mine/file", []byte("x"), 0o600),
			unix.Rename("mine", "empty"), has("empty/file", "x"))
	}},
	"rename a directory over a full one": {do: func() error {
		err := errors.Join(os.Mkdir("mine", 0o755))
		return errors.Join(err, fails(unix.Rename("mine", "dir"), unix.ENOTEMPTY))
	}, like: map[string]string{"union": "ok instead of ENOTEMPTY", "nfs": "ok instead of ENOTEMPTY",
		"nfs/linux": "ok"}},
	"rename one's own directory": {do: func() error {
		return errors.Join(os.Mkdir("mine", 0o755), os.WriteFile("mine/file", []byte("x"), 0o600),
			os.Rename("mine", "dir/mine"), has("dir/mine/file", "x"))
	}},
	"rename while open": {do: func() error {
		return with("file", os.O_RDWR|os.O_APPEND, func(f *os.File) error {
			_, err := f.WriteString("+")
			err = errors.Join(err, os.Rename("file", "moved"))
			_, err2 := f.WriteString("+")
			return errors.Join(err, err2, has("moved", "image's file++"))
		})
	}},
	"link": {do: func() error {
		return errors.Join(os.Link("file", "dir/linked"), has("dir/linked", "image's file"),
			want(stat("file").Ino == stat("dir/linked").Ino && stat("file").Nlink == 2, "two files"))
	}, like: map[string]string{"nfs/linux": "two files"}},
	"hard links stay one file": {do: func() error {
		err := os.WriteFile("hard", []byte("new"), 0o600)
		return errors.Join(err, has("same", "new"))
	}, like: map[string]string{"union": `it is "image's hard"`, "nfs": `it is "image's hard"`,
		"overlay": `it is "image's hard"`, "podman": `it is "image's hard"`}},
	"symlink over": {do: func() error {
		return errors.Join(fails(os.Symlink("x", "file"), fs.ErrExist), fails(os.Symlink("x", "link"), fs.ErrExist),
			os.Remove("file"), os.Symlink("dir/a", "file"), has("file", "image's dir/a"))
	}},
	"shared mapping": {do: func() error {
		return with("file", os.O_RDWR, func(f *os.File) error {
			b, err := unix.Mmap(int(f.Fd()), 0, 12, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			copy(b, "mapped")
			return errors.Join(has("file", "mappeds file"), unix.Munmap(b), has("file", "mappeds file"))
		})
	}},
	"a mapping sees what is written": {do: func() error {
		return with("file", os.O_RDWR, func(f *os.File) error {
			b, err := unix.Mmap(int(f.Fd()), 0, 12, unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("new"), 0)
			return errors.Join(err, want(string(b[:5]) == "newge", "%q", b), unix.Munmap(b))
		})
	}},
	"who reads sees what another writes later": {do: func() error {
		return with("file", os.O_RDONLY, func(f *os.File) error {
			err := with("file", os.O_WRONLY, func(w *os.File) error { _, err := w.WriteString("new"); return err })
			b := make([]byte, 5)
			_, err2 := f.ReadAt(b, 0)
			return errors.Join(err, err2, want(string(b) == "newge", "%q", b))
		})
	}},
	"flock": {do: func() error {
		return with("file", os.O_RDWR, func(a *os.File) error {
			return with("file", os.O_RDWR, func(b *os.File) error {
				return errors.Join(unix.Flock(int(a.Fd()), unix.LOCK_EX),
					fails(unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK))
			})
		})
	}},
	"flock of a reader and a writer": {do: func() error {
		return with("file", os.O_RDONLY, func(a *os.File) error {
			err := unix.Flock(int(a.Fd()), unix.LOCK_EX)
			return errors.Join(err, with("file", os.O_RDWR, func(b *os.File) error {
				return fails(unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
			}))
		})
	}},
	"fcntl lock": {do: func() error {
		return with("file", os.O_RDWR, func(f *os.File) error {
			err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
			out, err2 := program("lock", "file").Output()
			return errors.Join(err, err2, want(string(out) == outcome(unix.EAGAIN), "another process: %s", out))
		})
	}},
	"holes": {do: func() error {
		return with("file", os.O_RDWR, func(f *os.File) error {
			_, err := f.WriteAt([]byte("end"), 1<<20)
			hole, err2 := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE)
			data, err3 := unix.Seek(int(f.Fd()), hole, unix.SEEK_DATA)
			return errors.Join(err, err2, err3,
				want(hole > 0 && hole < data && data <= 1<<20 && stat("file").Blocks < 1000,
					"hole at %d, data at %d, %d blocks", hole, data, stat("file").Blocks))
		})
	}},
	"FIFO": {do: func() error {
		err := unix.Mkfifo("dir/fifo", 0o600)
		return errors.Join(err, with("dir/fifo", os.O_RDWR, func(f *os.File) error {
			_, err := f.WriteString("x")
			b := make([]byte, 1)
			_, err2 := f.Read(b)
			return errors.Join(err, err2)
		}))
	}},
	"sockets": {do: func() error {
		_, over := net.Listen("unix", "file")
		err := fails(over, unix.EADDRINUSE)
		for range 2 {
			l, err2 := net.Listen("unix", "dir/socket")
			if err = errors.Join(err, err2); err != nil {
				return err
			}
			c, err2 := net.Dial("unix", "dir/socket")
			if err2 == nil {
				err2 = c.Close()
			}
			err = errors.Join(err, err2, l.Close()) // which removes it
		}
		return err
	}},
	"a link for a file, and neither": {do: func() error {
		err := errors.Join(os.Remove("file"), os.Symlink("x", "file"), os.Remove("file"))
		_, gone := os.Lstat("file")
		return errors.Join(err, want(gone != nil, "the file is back"))
	}, like: map[string]string{"union": "the file is back", "nfs": "the file is back", "nfs/linux": "ok"}},
	"a file for a file, open, and neither": {do: func() error {
		err := os.Remove("file")
		return errors.Join(err, with("file", os.O_CREATE|os.O_RDWR, func(*os.File) error {
			err := os.Remove("file")
			_, gone := os.Lstat("file")
			return errors.Join(err, want(gone != nil, "the file is back"))
		}))
	}},
	"mkdir over what was removed": {do: func() error {
		return errors.Join(fails(os.Mkdir("file", 0o755), fs.ErrExist), os.Remove("file"), os.Mkdir("file", 0o755),
			os.WriteFile("file/x", nil, 0o600))
	}},
	"rmdir and mkdir again": {do: func() error {
		err := fails(os.Remove("dir"), unix.ENOTEMPTY)
		err = errors.Join(err, os.RemoveAll("dir"), os.Mkdir("dir", 0o755))
		left, err2 := os.ReadDir("dir")
		_, gone := os.Lstat("dir/a")
		return errors.Join(err, err2, want(len(left) == 0 && gone != nil, "what was in it is back"))
	}, like: map[string]string{"nfs": "what was in it is back", "nfs/linux": "ok"}},
	"truncate": {do: func() error {
		return with("file", os.O_RDWR, func(f *os.File) error {
			return errors.Join(f.Truncate(5), has("file", "image"), f.Truncate(7), has("file", "image\x00\x00"))
		})
	}},
	"truncate by path": {do: func() error {
		return errors.Join(os.Truncate("file", 5), has("file", "image"), os.Truncate("file", 7),
			has("file", "image\x00\x00"), os.Truncate("hard", 0), has("hard", ""))
	}, like: map[string]string{"union": panics, "nfs": panics, "nfs/linux": "ok"}},
	"truncate by path what was written": {do: func() error {
		return errors.Join(os.WriteFile("file", []byte("long"), 0o600), os.Truncate("file", 2), has("file", "lo"))
	}},
	"append": {do: func() error {
		return errors.Join(with("file", os.O_WRONLY|os.O_APPEND,
			func(f *os.File) error { _, err := f.WriteString("+"); return err }), has("file", "image's file+"))
	}},
	"open truncates": {do: func() error {
		return errors.Join(with("file", os.O_WRONLY|os.O_TRUNC, func(f *os.File) error { return has("file", "") }),
			want(stat("file").Uid == 5 && stat("file").Mode&0o7777 == 0o640, "%o", stat("file").Mode))
	}},
	"copy_file_range": {do: func() error {
		return with("file", os.O_RDONLY, func(from *os.File) error {
			return with("hard", os.O_WRONLY|os.O_TRUNC, func(to *os.File) error {
				n, err := copyRange(from, to, 5)
				return errors.Join(err, want(n == 5, "%d bytes", n), has("hard", "image"))
			})
		})
	}, like: map[string]string{"nfs/linux": "EXDEV"}},
	"exclusive": {do: func() error {
		_, err := open("file", os.O_CREATE|os.O_EXCL|os.O_RDWR)
		err = errors.Join(fails(err, fs.ErrExist), os.Remove("file"))
		return errors.Join(err, with("file", os.O_CREATE|os.O_EXCL|os.O_RDWR, func(f *os.File) error {
			_, err := f.WriteString("x")
			return err
		}), has("file", "x"))
	}},
	"remove all": {do: func() error {
		err := os.RemoveAll("dir")
		_, gone := os.Lstat("dir")
		return errors.Join(err, fails(gone, fs.ErrNotExist))
	}},
	"names are listed once": {do: func() error {
		err := errors.Join(os.WriteFile("file", []byte("new"), 0o600), os.WriteFile("dir/mine", nil, 0o600))
		return errors.Join(err, with(".", os.O_RDONLY, func(d *os.File) error {
			names, err := d.Readdirnames(-1)
			slices.Sort(names)
			return errors.Join(err, want(slices.Equal(names, slices.Compact(slices.Clone(names))), "twice"))
		}))
	}, like: map[string]string{"union": "twice", "nfs": "twice", "nfs/linux": "ok"}},
	"what was removed is not listed": {do: func() error {
		err := os.Remove("file")
		return errors.Join(err, with(".", os.O_RDONLY, func(d *os.File) error {
			names, err := d.Readdirnames(-1)
			return errors.Join(err, want(!slices.Contains(names, "file"), "listed"))
		}))
	}, like: map[string]string{"union": "listed", "nfs": "listed", "nfs/linux": "ok"}},
	"what one made and removed is not listed": {do: func() error {
		for i := range 2000 {
			name := fmt.Sprint("dir/n", i)
			if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Remove(name)); err != nil {
				return err
			}
		}
		return with("dir", os.O_RDONLY, func(d *os.File) error {
			names, err := d.Readdirnames(-1)
			return errors.Join(err, want(len(names) < 10, "%d names", len(names)),
				want(stat("dir").Size < 8192, "%d bytes", stat("dir").Size))
		})
	}},
	"list while removing": {do: func() error {
		for i := range 300 {
			if err := os.WriteFile(fmt.Sprint("dir/n", i), nil, 0o600); err != nil {
				return err
			}
		}
		return errors.Join(with("dir", os.O_RDONLY, func(d *os.File) error {
			seen := map[string]bool{}
			for {
				names, err := d.Readdirnames(16)
				if errors.Is(err, io.EOF) {
					return want(len(seen) == 303, "%d names seen", len(seen))
				}
				for _, n := range names {
					if n != "sub" && !seen[n] {
						err = errors.Join(err, os.Remove("dir/"+n))
					}
					seen[n] = true
				}
				if err != nil {
					return err
				}
			}
		}), os.RemoveAll("dir"))
	}},
	"inode number": {do: func() error {
		before := stat("file").Ino
		err := os.WriteFile("file", []byte("new"), 0o600)
		return errors.Join(err, want(stat("file").Ino == before, "another after a write"))
	}, like: map[string]string{"union": "another after a write", "nfs": "another after a write", "nfs/linux": "ok"}},
	"links of a directory": {do: func() error {
		return want(stat("dir").Nlink != 2, "as of one without directories")
	}, like: map[string]string{"union": "as of one without directories", "nfs": "as of one without directories",
		"nfs/linux": "ok"}},
	"extended attributes": {do: func() error {
		if err := unix.Lsetxattr("file", "user.mine", []byte("x"), 0); err != nil {
			return err
		}
		b := make([]byte, 9)
		n, err := unix.Lgetxattr("file", "user.mine", b)
		return errors.Join(err, want(string(b[:n]) == "x", "%q", b[:n]), has("file", "image's file"))
	}, like: map[string]string{"union": "EOPNOTSUPP", "nfs": "EOPNOTSUPP", "nfs/linux": "ok"}},
	"set-uid stays on a change of mode": {do: func() error {
		return errors.Join(unix.Chmod("setuid", 0o4711),
			want(stat("setuid").Mode&0o7777 == 0o4711 && stat("setuid").Uid == 5, "%o", stat("setuid").Mode))
	}},
	"set-uid on a write by root": {do: func() error {
		err := with("setuid", os.O_WRONLY, func(f *os.File) error { _, err := f.WriteString("x"); return err })
		return errors.Join(err, want(stat("setuid").Mode&0o7777 == 0o4755, "%o", stat("setuid").Mode&0o7777))
	}},
	"execute what is being written": {do: func() error {
		b, err := os.ReadFile("/prog")
		if err == nil {
			err = os.WriteFile("mine", b, 0o755)
		}
		return errors.Join(err, with("mine", os.O_RDWR, func(*os.File) error {
			cmd := program("true")
			cmd.Path, cmd.Stdout = "./mine", os.Stderr
			return fails(cmd.Run(), unix.ETXTBSY)
		}))
	}},
	"a watch sees a write": {do: func() error {
		return watched("hard", func() error { return os.WriteFile("hard", []byte("new"), 0o600) })
	}},
	"a watch of what was written sees a write": {do: func() error {
		err := os.WriteFile("hard", []byte("new"), 0o600)
		return errors.Join(err, watched("hard", func() error { return os.WriteFile("hard", []byte("newer"), 0o600) }))
	}},
	"file flags": {do: fileFlags},
	"statfs": {do: func() error {
		var st unix.Statfs_t
		err := unix.Statfs("file", &st)
		return errors.Join(err, want(st.Blocks > 0 && st.Bavail > 0 && int64(st.Bavail) <= int64(st.Blocks), "%d of %d",
			st.Bavail, st.Blocks))
	}},
	"long names": {do: func() error {
		long := strings.Repeat("n", 255)
		return errors.Join(os.WriteFile(long, []byte("x"), 0o600), os.Rename(long, "dir/"+long), has("dir/"+long, "x"),
			fails(os.Mkdir(long+"n", 0o700), unix.ENAMETOOLONG))
	}},
	"many names": {do: func() error {
		for i := range 10000 {
			if err := os.WriteFile(fmt.Sprint("dir/", i), nil, 0o600); err != nil {
				return err
			}
		}
		names, err := os.ReadDir("dir")
		for _, e := range names {
			err = errors.Join(err, os.RemoveAll("dir/"+e.Name()))
		}
		return errors.Join(err, want(len(names) >= 10003, "%d", len(names)), os.Remove("dir"))
	}},
	"fsync": {do: func() error {
		err := with("file", os.O_WRONLY, func(f *os.File) error {
			_, err := f.WriteString("new")
			return errors.Join(err, f.Sync())
		})
		return errors.Join(err, with("hard", os.O_RDONLY, func(f *os.File) error { return f.Sync() }),
			with("dir", os.O_RDONLY, func(f *os.File) error { return f.Sync() }))
	}},
	"an open file outlives its name": {do: func() error {
		return with("file", os.O_RDWR, func(f *os.File) error {
			err := os.Remove("file")
			_, err2 := f.WriteAt([]byte("new"), 0)
			b := make([]byte, 5)
			_, err3 := f.ReadAt(b, 0)
			var st unix.Stat_t
			return errors.Join(err, err2, err3, unix.Fstat(int(f.Fd()), &st),
				want(string(b) == "newge" && st.Nlink == 0, "%q, %d names", b, st.Nlink))
		})
	}},
	"an open file of the image outlives its name": {do: func() error {
		return with("file", os.O_RDONLY, func(f *os.File) error {
			err := os.Remove("file")
			b, err2 := io.ReadAll(f)
			return errors.Join(err, err2, want(string(b) == "image's file", "%q", b))
		})
	}},
	"a directory's time": {do: func() error {
		before := stat("dir").Mtim
		return errors.Join(os.WriteFile("dir/new", nil, 0o600), want(stat("dir").Mtim != before, "unchanged"))
	}},
}

// fillTable fills an image for the table, its program included.
func fillTable(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "prog"), b, 0o755)
	}
	for name := range table {
		d := filepath.Join(dir, "d", place(name))
		err = errors.Join(err, os.MkdirAll(d, 0o755), fillOne(d))
	}
	return err
}

// needsStatic skips where the test binary cannot run in a root of its own.
func needsStatic(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Section(".interp") != nil {
		t.Skip("the test binary is not static: build it with CGO_ENABLED=0")
	}
}

func TestWhatProgramsDoToFiles(t *testing.T) {
	needsStatic(t)
	eachDriver(t, func(t *testing.T, d Driver) {
		if err := ensure(t.Context(), d, "c", fillTable); err != nil {
			t.Fatal(err)
		}
		root, err := d.Create(t.Context(), "c", "t", Options{Links: true, Writable: []string{"/d"}})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/prog")
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		cmd.Dir = "/"
		compareTable(t, d.Name(), cmd)
		check(t, errors.Join(d.Remove(context.Background(), "t"), d.RemoveChain(context.Background(), "c")))
	})
}

func compareTable(t *testing.T, driver string, cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(cmd.Env, testprog.Env("table"), driverVar+"="+driver)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	got := map[string]string{}
	if err = errors.Join(err, json.Unmarshal(out, &got)); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if want := expected(name, driver); got[name] != want {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
}
