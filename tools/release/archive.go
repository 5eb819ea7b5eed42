package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"time"
)

// writeArchive packs sorted entries below one directory. There are no entries of directories but for those that are
// freejail's alone: tar would give the host's own other modes and times.
func writeArchive(file, top string, date time.Time, list []entry) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression) // its header has neither name nor time
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	made := map[string]bool{}
	for _, e := range list {
		for _, dir := range ownDirs(e.name) {
			if !made[dir] {
				made[dir] = true
				h := &tar.Header{Typeflag: tar.TypeDir, Name: top + "/" + dir + "/", Mode: 0o755, ModTime: date}
				if err := w.WriteHeader(h); err != nil {
					return err
				}
			}
		}
		if err := e.write(w, top, date); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), z.Close())
}

// ownDirs are the directories of a name that nothing else than freejail has.
func ownDirs(name string) (dirs []string) {
	if !strings.HasPrefix(name, docs) {
		return nil
	}
	for i := len(docs); ; {
		dirs = append(dirs, name[:i-1])
		next := strings.IndexByte(name[i:], '/')
		if next < 0 {
			return dirs
		}
		i += next + 1
	}
}

func (e entry) write(w *tar.Writer, top string, date time.Time) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: top + "/" + e.name, Mode: 0o644, ModTime: date}
	if e.link != "" {
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o755
		return w.WriteHeader(h)
	}
	if e.run {
		h.Mode = 0o755
	}
	f, err := os.Open(e.from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
