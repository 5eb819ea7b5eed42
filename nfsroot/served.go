package nfsroot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// Served is the server that serves a directory of roots, where that is not this host: Dir is where this host has it
// mounted. Such servers are Amazon's EFS and storage appliances.
type Served struct {
	By      Server  // the zero value is this host
	Options Options // to read from it
}

func (s Served) elsewhere() bool { return s.By != Server{} }

// begin makes sure that what is written below Dir is what clients get.
func (e *Exporter) begin() error {
	over, err := overNFS(e.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("nfs: export: %s: %w", e.cfg.Dir, err)
	}
	switch {
	case e.cfg.Served.elsewhere() && err != nil:
		return fmt.Errorf("nfs: export: %w: make it on %s, of which this host has a mount", err, e.cfg.Served.By)
	case e.cfg.Served.elsewhere() && !over:
		return fmt.Errorf("nfs: export: %s is no NFS mount, so %s (served_by) does not serve what is written there: "+
			"mount it first", e.cfg.Dir, e.cfg.Served.By)
	case e.cfg.Served.elsewhere():
		return nil
	case over:
		return fmt.Errorf("nfs: export: %s is mounted by NFS, and this host cannot export that again: name its server "+
			"with served_by", e.cfg.Dir)
	}
	return e.prepare()
}

// end has clients get what was written.
func (e *Exporter) end() error {
	if e.cfg.Served.elsewhere() {
		return nil
	}
	return e.publish()
}

// Serving tells why clients cannot have the roots, and what to do about it; empty if they can.
func (e *Exporter) Serving() (problem, fix string) {
	if !e.cfg.Served.elsewhere() {
		return e.serving()
	}
	if err := e.asServed(context.Background()); err != nil {
		return err.Error(), "mount what " + e.cfg.Served.By.String() + " names on " + e.cfg.Dir +
			"; its port 2049 has to be reachable"
	}
	return "", ""
}

// asServed compares the index with what the server gives: clients take its word. The server is asked first, with a
// deadline, as the kernel would wait for it without one.
func (e *Exporter) asServed(ctx context.Context) error {
	s, o := e.cfg.Served.By, e.cfg.Served.Options
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	r, _, err := s.open(ctx, o)
	if err != nil {
		return fmt.Errorf("%s: %w", s, s.explain(ctx, o, err))
	}
	defer r.close()
	theirs, err := r.readFile(path.Join(s.Path, indexFile), maxMeta)
	none := errors.Is(err, fs.ErrNotExist)
	if err != nil && !none {
		return fmt.Errorf("%s: %s: %w", s, indexFile, s.explain(ctx, o, err))
	}
	if err := e.begin(); err != nil {
		return err
	}
	own, err := os.ReadFile(filepath.Join(e.cfg.Dir, indexFile))
	if errors.Is(err, fs.ErrNotExist) && none {
		return nil // nothing was exported yet
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(own, theirs) {
		return fmt.Errorf("%s has another %s than %s: that is another directory", s, indexFile, e.cfg.Dir)
	}
	return nil
}
