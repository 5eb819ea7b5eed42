package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/image/pkgbase"
)

// packageFlags are those of packages of the base system.
type packageFlags struct {
	names        []string
	fingerprints string
}

// are tells packages, or a directory of them, from other archives.
func (f *packageFlags) are(args []string) bool {
	if len(f.names) > 0 || f.fingerprints != "" {
		return true
	}
	fi, err := os.Stat(args[0])
	return strings.HasSuffix(args[0], pkgbase.Ending) || err == nil && fi.IsDir()
}

func (f *packageFlags) open(ctx context.Context, args []string) (*pkgbase.Repository, error) {
	if strings.HasSuffix(args[0], pkgbase.Ending) {
		if len(f.names) > 0 || f.fingerprints != "" {
			return nil, app.Usagef("--packages and --fingerprints are of a repository, and %s is a package", args[0])
		}
		return pkgbase.OpenFiles(ctx, args)
	}
	if len(args) > 1 {
		return nil, app.Usagef("packages come from one repository: %s is another", args[1])
	}
	return pkgbase.Open(ctx, args[0], f.fingerprints)
}

// merge writes packages as one archive in dir.
func (f *packageFlags) merge(ctx context.Context, args []string, dir string,
	o build.Options) (_ []build.Set, err error) {
	repo, err := f.open(ctx, args)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repo.Close()) }()
	chosen, err := repo.Choose(f.names, cmp.Or(o.Platform.Architecture, runtime.GOARCH))
	if err != nil {
		return nil, err
	}
	for _, what := range chosen.Missing {
		o.Warn("not there: " + what)
	}
	if !repo.Signed {
		o.Warn("no signature was verified: of a signed repository --fingerprints does that")
	}
	set := build.Set{File: filepath.Join(dir, "FreeBSD-packages.tar")}
	file, err := os.OpenFile(set.File, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(file, 1<<20)
	done, err := repo.Merge(ctx, chosen, w)
	if err := errors.Join(err, w.Flush(), file.Close()); err != nil {
		return nil, err
	}
	if o.Progress != nil {
		o.Progress(fmt.Sprintf("%d packages: %s", len(done.Packages), strings.Join(done.Packages, " ")))
	}
	if len(done.Scripts) > 0 {
		o.Warn("scripts of packages are not run, what they make is missing: " + strings.Join(done.Scripts, ", "))
	}
	return []build.Set{set}, nil
}
