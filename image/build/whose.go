package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// mayBeOurs refuses a file that somebody may have brought into the context who
// cannot read it: whoever can write to a directory can move a file there, and on
// FreeBSD make a hard link to any. The way is that from the context to the file.
// The number of links does not count: it is 1 as soon as the other is removed.
func mayBeOurs(file fs.FileInfo, way []fs.FileInfo) error {
	f, ok := file.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("file owners are not supported on this system")
	}
	everybodys := file.Mode()&0o044 == 0o044
	for _, dir := range way {
		d, ok := dir.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("file owners are not supported on this system")
		}
		// Others cannot come to what is below a private directory of ours.
		everybodys = everybodys && (isOthers(d.Uid) || dir.Mode()&0o011 == 0o011)
	}
	for _, dir := range way {
		who := writerOf(dir, file, f)
		if who == "" || everybodys {
			continue
		}
		return fmt.Errorf("it is a file of user %d that not everybody can read, in a directory to which %s can write, "+
			"who may have put a link to it there: copy it to a directory of your own, or let only its owner "+
			"write there",
			f.Uid, who)
	}
	return nil
}

func isOthers(uid uint32) bool { return uid != 0 && uid != uint32(os.Geteuid()) }

// writerOf is who can write to a directory and may not be able to read the file;
// empty is nobody but its owner, root and the builder.
func writerOf(dir, file fs.FileInfo, f *syscall.Stat_t) string {
	d := dir.Sys().(*syscall.Stat_t)
	switch m := dir.Mode(); {
	case m&0o002 != 0:
		return "everybody"
	case isOthers(d.Uid) && d.Uid != f.Uid:
		return fmt.Sprintf("user %d", d.Uid)
	case m&0o020 == 0, d.Gid == f.Gid && file.Mode()&0o040 != 0, isPrivate(d.Gid, d.Uid):
		return ""
	default:
		return fmt.Sprintf("group %d", d.Gid)
	}
}

// isPrivate knows the group that a user has alone, by its name.
func isPrivate(gid, uid uint32) bool {
	u, err1 := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	g, err2 := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10))
	return err1 == nil && err2 == nil && u.Username == g.Name
}
