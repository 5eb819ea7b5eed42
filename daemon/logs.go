package daemon

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

func (t *task) logFile(stream string) string { return filepath.Join(t.journal.dir, stream+".log") }

// logFiles are the files that hold a task's output, oldest first: the daemon's
// own, or those that Nomad writes beside its FIFO .TASK.STREAM.fifo.
func (t *task) logFiles(stream string) ([]string, error) {
	path := t.info.Spec.Stdout
	if stream == "stderr" {
		path = t.info.Spec.Stderr
	}
	if path == "" {
		return []string{t.logFile(stream) + ".1", t.logFile(stream)}, nil
	}
	name, isFifo := strings.CutSuffix(filepath.Base(path), ".fifo")
	if !isFifo {
		return []string{path}, nil
	}
	prefix := filepath.Join(filepath.Dir(path), strings.TrimPrefix(name, ".")) + "."
	files, err := filepath.Glob(prefix + "[0-9]*")
	slices.SortFunc(files, func(a, b string) int {
		na, _ := strconv.Atoi(strings.TrimPrefix(a, prefix)) // not a number: first
		nb, _ := strconv.Atoi(strings.TrimPrefix(b, prefix))
		return na - nb
	})
	return files, err
}

func (d *Daemon) handleLogs(w http.ResponseWriter, r *http.Request) {
	t, err := d.find(r.PathValue("id"))
	stream := r.FormValue("stream")
	if err == nil && stream != "stdout" && stream != "stderr" {
		err = invalid("stream %q is neither stdout nor stderr", stream)
	}
	tail, terr := strconv.Atoi(r.FormValue("tail"))
	if err == nil && terr != nil {
		err = invalid("tail: %v", terr)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := d.copyLogs(w, r, t, stream, tail); err != nil && r.Context().Err() == nil {
		d.log.Warn("logs", "task", t.id(), "error", err)
	}
}

// copyLogs reads file after file; following, it looks for more until the task
// has ended and nothing is left.
func (d *Daemon) copyLogs(w http.ResponseWriter, r *http.Request, t *task, stream string, tail int) error {
	files, err := t.logFiles(stream)
	if err != nil {
		return err
	}
	var f *os.File
	current := ""
	for i, path := range files {
		next, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if f != nil {
			f.Close()
		}
		f, current = next, path
		if tail >= 0 {
			if i < len(files)-1 {
				continue
			}
			if err := seekTail(f, tail); err != nil {
				return err
			}
		}
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
	}
	if f != nil {
		defer func() { f.Close() }()
	}
	for follow := r.FormValue("follow") == "true"; follow; {
		w.(http.Flusher).Flush()
		select {
		case <-t.done:
			follow = false
		case <-r.Context().Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
		if f, current, err = followLog(w, t, stream, f, current); err != nil {
			return err
		}
	}
	return nil
}

func followLog(w io.Writer, t *task, stream string, f *os.File, current string) (*os.File, string, error) {
	if f != nil {
		pos, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return f, current, err
		}
		if fi, err := f.Stat(); err == nil && fi.Size() < pos { // trimmed
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return f, current, err
			}
		}
		if _, err := io.Copy(w, f); err != nil {
			return f, current, err
		}
	}
	files, err := t.logFiles(stream)
	if err != nil || len(files) == 0 || files[len(files)-1] == current {
		return f, current, err
	}
	next, err := os.Open(files[len(files)-1])
	if errors.Is(err, fs.ErrNotExist) {
		return f, current, nil
	}
	if err != nil {
		return f, current, err
	}
	if f != nil {
		f.Close()
	}
	_, err = io.Copy(w, next)
	return next, files[len(files)-1], err
}

// seekTail places f before its last n lines, looking at 1 MiB at the most.
func seekTail(f *os.File, n int) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	start := max(0, fi.Size()-1<<20)
	b := make([]byte, fi.Size()-start)
	if _, err := f.ReadAt(b, start); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	end := len(bytes.TrimSuffix(b, []byte("\n")))
	for i := 0; i < n && end >= 0; i++ {
		end = bytes.LastIndexByte(b[:end], '\n')
	}
	if n == 0 {
		end = len(b) - 1
	}
	_, err = f.Seek(start+int64(end)+1, io.SeekStart)
	return err
}

// trimLogs keeps the daemon's own log of a task to two files of log_size: the
// file is copied and cut, since the process holds it open to append.
func (d *Daemon) trimLogs(t *task) error {
	limit, err := size(d.cfg.Limits.LogSize)
	if err != nil || t.state() == client.Exited {
		return err
	}
	for _, stream := range []string{"stdout", "stderr"} {
		path := t.logFile(stream)
		fi, err := os.Stat(path)
		if err != nil || fi.Size() <= limit {
			continue
		}
		if err := copyFile(path, path+".1"); err != nil {
			return err
		}
		if err := os.Truncate(path, 0); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
