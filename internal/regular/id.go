package regular

import (
	"io/fs"
	"syscall"
	"time"
)

// ID tells files apart. It changes whenever a file's content can have changed.
type ID struct {
	Path     string
	dev, ino uint64
	size     int64
	mtime    time.Time
	ctime    syscall.Timespec
}

// IDOf is the ID of a file by what stat(2) tells of it. The path is part of it.
func IDOf(path string, fi fs.FileInfo) ID {
	st := fi.Sys().(*syscall.Stat_t) // nothing else, where freejail runs
	return ID{path, uint64(st.Dev), uint64(st.Ino), st.Size, fi.ModTime(), changeTime(st)}
}
