package build

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/internal/signals"
)

// checker looks for what would go wrong on a host.
type checker struct {
	ctx    context.Context
	layout *layout.Layout
	img    *image.Image
	view   *view
	found  *image.Findings
	where  string
	seed   maphash.Seed // of the names of a layer, of which only hashes are kept
	left   int64        // bytes that the image may still unpack to
}

// Check names what is wrong with an image beyond what layout.Examine does:
// content that differs from its DiffID, entries that unpacking refuses, and a
// user, a program or directories that are not in it; and it notes what a host
// would treat with care. The error is for what could not be read at all.
func Check(ctx context.Context, l *layout.Layout, img *image.Image, where string, found *image.Findings) error {
	c := &checker{ctx: ctx, layout: l, img: img, view: newView(), found: found, where: where, seed: maphash.MakeSeed(),
		left: l.Limits().ImageBytes}
	for i := range img.Layers {
		if err := c.layer(i); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	c.config()
	return c.user()
}

func (c *checker) fault(code, where, format string, a ...any) {
	c.found.Add(image.Error, code, c.at(where), format, a...)
}

func (c *checker) at(where string) string {
	if c.where == "" {
		return where
	}
	return c.where + ", " + where
}

func (c *checker) layer(i int) (err error) {
	where := fmt.Sprintf("layer %d", i+1)
	r, err := unpack.OpenLayer(c.ctx, c.layout, c.img.Layers[i])
	if err != nil {
		c.fault("layer-malformed", where, "%v", err)
		return c.ctx.Err()
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	sum := sha256.New()
	all := io.TeeReader(r, sum)
	c.view.next()
	if !c.entries(where, all) {
		return c.ctx.Err()
	}
	if _, err := io.Copy(io.Discard, all); err != nil { // padding counts too
		c.fault("layer-malformed", where, "%v", err)
		return c.ctx.Err()
	}
	if got, want := digest.NewDigest(digest.SHA256, sum), c.img.Config.RootFS.DiffIDs[i]; got != want {
		c.fault("diff-id", where, "its content has the digest %s, the config says %s", got, want)
	}
	return nil
}

// entries is false where the archive cannot be read to its end.
func (c *checker) entries(where string, r io.Reader) bool {
	tr := tar.NewReader(r)
	seen := map[uint64]byte{}
	left := min(c.left, c.layout.Limits().LayerBytes)
	c.left -= left
	defer func() { c.left += left }()
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			c.view.end()
			return true
		}
		if err != nil {
			c.fault("layer-malformed", where, "%v", err)
			return false
		}
		if err := c.view.applyEntry(h, tr); err != nil {
			c.fault("layer-entry", where, "entry %q: %v", h.Name, err)
			continue
		}
		if left -= max(h.Size, 0); left < 0 { // sparse files are larger than what the layer has of them
			c.fault("layer-malformed", where,
				"the files unpack to more than the limit (limits { layer_size, image_size })")
			return false
		}
		c.notes(where, h, seen)
	}
}

// notes tells what is allowed and yet unusual.
func (c *checker) notes(where string, h *tar.Header, seen map[uint64]byte) {
	name := maphash.String(c.seed, path.Clean("/"+h.Name))
	if old, twice := seen[name]; twice && (old != tar.TypeDir || h.Typeflag != tar.TypeDir) {
		c.found.Add(image.Warning, "entry-twice", c.at(where), "duplicate entry %q: the last one counts", h.Name)
	}
	seen[name] = h.Typeflag
	if h.Typeflag == tar.TypeReg && h.Mode&0o6000 != 0 {
		c.found.Add(image.Note, "set-id", c.at(where), "entry %q runs as %s: mode %04o, owner %d:%d", h.Name,
			setID(h.Mode), h.Mode&0o7777, h.Uid, h.Gid)
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		c.found.Add(image.Note, "device", c.at(where),
			"entry %q is a device node, which is not unpacked: devices come from devfs", h.Name)
	}
	for key := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			c.found.Add(image.Note, "xattr", c.at(where),
				"entry %q has the extended attribute %q, which is not unpacked", h.Name, name)
		}
	}
}

func setID(mode int64) string {
	switch mode & 0o6000 {
	case 0o4000:
		return "its owner"
	case 0o2000:
		return "its group"
	}
	return "its owner and its group"
}

func (c *checker) config() {
	cfg, m := c.img.Config, c.img.Manifest
	switch {
	case cfg.OS == "":
		c.found.Add(image.Warning, "platform", c.at("config"), "no os is named: it is taken for the host's")
	case cfg.OS != "freebsd" && cfg.OS != "linux":
		c.fault("platform", "config", "os %q is neither freebsd nor linux", cfg.OS)
	case cfg.Architecture == "":
		c.fault("platform", "config", "no architecture is named")
	}
	if _, err := signals.Parse(cfg.Config.StopSignal, cfg.OS); cfg.Config.StopSignal != "" && err != nil {
		c.fault("stop-signal", "config: StopSignal", "%v", err)
	}
	if _, err := signals.Parse(m.Stop.Signal, cfg.OS); m.Stop.Signal != "" && err != nil {
		c.fault("stop-signal", "manifest: stop.signal", "%v", err)
	}
	if argv := append(append([]string{}, cfg.Config.Entrypoint...), cfg.Config.Cmd...); len(argv) > 0 {
		c.program(argv[0])
	}
	c.directory("config: WorkingDir", cfg.Config.WorkingDir, true)
	volumes, err := image.Volumes(cfg.Config)
	if err != nil {
		c.fault("volumes", "config", "%v", err)
	}
	for _, v := range volumes {
		c.directory("config: Volumes", v, false)
	}
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
		c.fault("directory", what, "%v", err)
	case len(missing) > 0 && must:
		c.fault("directory", what, "no such directory in the image: %s", p)
	case len(missing) == 0 && n.kind != tar.TypeDir:
		c.fault("directory", what, "not a directory in the image: %s", p)
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
			reason = "is not an executable file in the image"
		default:
			return
		}
	}
	c.fault("program", "config", "the program %q %s", name, reason)
}

// user looks the user up as a host will, among the image's own.
func (c *checker) user() error {
	dir, err := os.MkdirTemp("", "freejail-check-")
	if err != nil {
		return err
	}
	if _, _, err := c.view.owner(dir, c.img.Config.Config.User); err != nil {
		c.fault("user", "config: User", "%v", err)
	}
	return os.RemoveAll(dir)
}
