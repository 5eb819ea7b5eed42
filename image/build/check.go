package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image"
)

// maxFindings keeps a hostile image from flooding a terminal.
const maxFindings = 200

// checker looks for what would go wrong on a host.
type checker struct {
	ctx      context.Context
	layout   *image.Layout
	img      *image.Image
	view     *view
	findings []error
}

// Check names what is wrong with an image beyond what opening it has verified: content that differs from its DiffID, entries that unpacking
// refuses, and a user, a program or directories that are not in it. The error is
// for what could not be read at all.
func Check(ctx context.Context, l *image.Layout, img *image.Image) (findings []error, err error) {
	c := &checker{ctx: ctx, layout: l, img: img, view: newView()}
	for i := range img.Layers {
		if err := c.layer(i); err != nil {
			return c.findings, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	c.config()
	if err := c.user(); err != nil {
		return c.findings, err
	}
	return c.findings, nil
}

func (c *checker) found(format string, a ...any) {
	switch n := len(c.findings); {
	case n < maxFindings:
		c.findings = append(c.findings, fmt.Errorf(format, a...))
	case n == maxFindings:
		c.findings = append(c.findings, errors.New("and more"))
	}
}

func (c *checker) layer(i int) (err error) {
	r, err := c.layout.OpenLayer(c.ctx, c.img.Layers[i])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	sum := sha256.New()
	all := io.TeeReader(r, sum)
	c.view.layer++
	if err := c.entries(i, all); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, all); err != nil { // padding counts too
		return err
	}
	if got, want := digest.NewDigest(digest.SHA256, sum), c.img.Config.RootFS.DiffIDs[i]; got != want {
		c.found("layer %d: its content has the digest %s, the config says %s", i+1, got, want)
	}
	return nil
}

func (c *checker) entries(i int, r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			c.found("layer %d: %w", i+1, err)
			return nil
		}
		err = checkEntry(h)
		if err == nil {
			err = c.view.applyEntry(h, tr)
		}
		if err != nil {
			c.found("layer %d: entry %q: %w", i+1, h.Name, err)
		}
	}
}

// checkEntry refuses what unpacking refuses and the view does not look at.
func checkEntry(h *tar.Header) error {
	if _, err := inside(h.Name); err != nil {
		return err
	}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return fmt.Errorf("the owner %d:%d is no valid one", h.Uid, h.Gid)
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if strings.Contains("/"+path.Dir(name), "/"+whiteoutPrefix) {
		return errors.New("a whiteout cannot be a directory")
	}
	if name == "" && h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeXGlobalHeader {
		return errors.New("the root itself can only be a directory")
	}
	return nil
}

func (c *checker) config() {
	cfg, m := c.img.Config, c.img.Manifest
	if cfg.OS != "freebsd" && cfg.OS != "linux" {
		c.found("config: os %q is neither freebsd nor linux", cfg.OS)
	}
	if cfg.Architecture == "" {
		c.found("config: no architecture is named")
	}
	if argv := append(append([]string{}, cfg.Config.Entrypoint...), cfg.Config.Cmd...); len(argv) > 0 {
		c.program(argv[0])
	}
	c.directory("config: WorkingDir", cfg.Config.WorkingDir, true)
	for i, v := range m.Volumes {
		c.directory(fmt.Sprintf("manifest: volumes[%d].path", i), v.Path, false)
	}
	for i, w := range m.Writable {
		c.directory(fmt.Sprintf("manifest: writable[%d]", i), w, false)
	}
	for i, r := range m.Requires.Mounts {
		c.directory(fmt.Sprintf("manifest: requires.mounts[%d].target", i), r.Target, false)
	}
}

func (c *checker) directory(what, p string, must bool) {
	if p == "" {
		return
	}
	_, n, missing, err := c.view.walk(p, true)
	switch {
	case err != nil:
		c.found("%s: %w", what, err)
	case len(missing) > 0 && must:
		c.found("%s: there is no %s in the image", what, p)
	case len(missing) == 0 && n.kind != tar.TypeDir:
		c.found("%s: %s is no directory in the image", what, p)
	}
}

// program looks for what is started, by PATH where it has no slash.
func (c *checker) program(name string) {
	candidates := []string{path.Join("/", c.img.Config.Config.WorkingDir, name)}
	if path.IsAbs(name) {
		candidates[0] = name
	}
	if !strings.Contains(name, "/") {
		search := defaultPath
		for _, kv := range c.img.Config.Config.Env {
			if v, ok := strings.CutPrefix(kv, "PATH="); ok {
				search = v
			}
		}
		candidates = nil
		for dir := range strings.SplitSeq(search, ":") {
			candidates = append(candidates, path.Join("/", dir, name))
		}
	}
	reason := "is not in the image"
	for _, p := range candidates {
		_, n, missing, err := c.view.walk(p, true)
		switch {
		case err != nil || len(missing) > 0:
		case n.kind != tar.TypeReg || n.mode&0o111 == 0:
			reason = "is no executable file in the image"
		default:
			return
		}
	}
	c.found("config: the program %q %s", name, reason)
}

// user looks the user up as a host will, among the image's own.
func (c *checker) user() error {
	dir, err := os.MkdirTemp("", "freejail-check-")
	if err != nil {
		return err
	}
	b := &builder{dir: dir, view: c.view}
	if _, _, err := b.owner(c.img.Config.Config.User); err != nil {
		c.found("config: User: %w", err)
	}
	return os.RemoveAll(dir)
}
