// Package build makes images from Jailfiles.
//
// Equal input gives an equal image, whatever the host, the clock, the umask and
// the order of a directory: entries are sorted, their owners and modes do not
// come from the checkout, and no time is later than Options.Epoch.
package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/remove"
)

// Names of recipes in their context.
const (
	DefaultFile  = "Jailfile"
	BastilleFile = "Bastillefile"
)

// Formats of recipes.
const (
	FormatJailfile      = "jailfile"
	FormatContainerfile = "containerfile" // Dockerfiles too
	FormatBastille      = "bastille"
)

// Stdin in the place of a Jailfile's path is the standard input.
const Stdin = "-"

// Options of a build. Only Context is needed, and Output or Store.
type Options struct {
	Context string // the directory that COPY and ADD take from
	// File is the Jailfile, which may lie outside of the context; Stdin is the
	// standard input. Default: Jailfile in the context, or Containerfile,
	// Dockerfile, Bastillefile.
	File string
	// Format is what the file is, whatever its name is: one of Format*; empty: by
	// its name, and what says neither is a Jailfile where it has an instruction
	// that only these have.
	Format string
	// From is what a Bastillefile, which has no FROM, builds on: a path, relative to
	// the current directory, or a name as in FROM.
	From string
	// Output is where the image goes: an oci-archive, or, where it ends in a
	// slash or is a directory, an OCI layout, for which it must be empty.
	Output string
	// Inputs are files that other options were read from, which Output must not replace.
	Inputs []string
	// Compression of the layers that are made, one of Compressions; default: gzip. Those of a base stay as they are.
	Compression string
	// Store keeps the image under its name and is where FROM looks for names.
	// Without one, FROM takes archives and layout directories.
	Store *layout.Store
	// Tag is the image's name; default: what NAME says.
	Tag string
	// Platform that the image is for; default: the base's, or the host's. From
	// a base with images for several platforms it chooses.
	Platform ocispec.Platform
	Args     map[string]string // values for ARG
	Target   string            // the stage that is wanted, by name or number; default: the last
	Secrets  map[string]Secret // for RUN --mount=type=secret, by id
	Network  string            // of RUN: NetworkHost (default) or NetworkNone
	// Permit decides whether a RUN may have the jail parameters that its options
	// ask for; the error says why not. nil: it may have none.
	Permit func(params map[string]string) error
	// UnknownParameters are accepted although this program does not know them: those of
	// newer kernels, and of modules. Permissions are without "allow.".
	UnknownParameters []string
	// Pull gets an image that FROM or --from names and that is neither a path
	// nor in the store; nil: there is no other place to look. The image must be
	// in the store when it returns: Store, or the one it is given.
	Pull func(ctx context.Context, into *layout.Store, ref string, p ocispec.Platform) (*image.Image, error)
	// Cache is a directory of what earlier builds made, see Prune; empty: every
	// step is executed. Several builds may use one at once.
	Cache string
	// ZFSDataset is for the files that RUN works on; it needs a mount point. Each
	// step is a clone then, and costs what it changes; what Cache is for stays
	// there too. Empty: they are unpacked into a directory.
	ZFSDataset string
	// Epoch is the image's time, and no file in it is newer; the zero time is
	// 1970. Programs take it from SOURCE_DATE_EPOCH: see EpochFromEnv.
	Epoch time.Time
	// Runner gives what executes RUN, with its state in a directory of the build's
	// that it makes. It is called once, if there is a RUN; nil: RUN is an error.
	Runner func(state string) (Runner, error)
	// CleanUp takes from the host what the Runner of a build that was killed has
	// left. It may be nil.
	CleanUp CleanUp
	Log     io.Writer // what the commands of RUN say; nil: nobody hears it
	// Progress is told each step; it may be nil.
	Progress func(text string)
	// Bytes is told how far a part of a step is, of a total that is 0 where it is not
	// known. It may be nil, and is called often, from several goroutines.
	Bytes func(what string, done, total int64)
	// Warn is told what of a recipe means nothing in an image; it may be nil.
	Warn func(text string)
	// TempDir is for what is worked on; default: the cache, or os.TempDir().
	TempDir string
}

// EpochFromEnv reads SOURCE_DATE_EPOCH, seconds since 1970; unset is 1970.
func EpochFromEnv() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	t, err := parseEpoch(text)
	if err != nil {
		return t, fmt.Errorf("SOURCE_DATE_EPOCH=%s: want the seconds since 1970", text)
	}
	return t, nil
}

type builder struct {
	opts    Options
	dir     string // for what is worked on; private, removed at the end
	epoch   time.Time
	context *os.Root
	// standing is what the output would replace; nil is nothing.
	standing fs.FileInfo
	recipe   string // the path of the file that is built
	names    bool   // what does not look like a path is an image's name, as in a Containerfile
	ignore   *ignorer
	store    *layout.Store
	cache    *cache   // nil without
	pool     *pool    // nil without ZFS
	temp     []string // names in the store that are the build's own
	runner   Runner
	network  string
	built    map[*stage]*work
	fetches  map[string]*fetched // by URL
	hashes   *hashes             // of the context's files
	seen     *looks              // at the context
	// includes reads what the recipe includes.
	includes *includer
	// anywhere: the files were named by whoever builds, and are no context's.
	anywhere bool
	// complete may add to the image's config when all layers are there.
	complete func(ctx context.Context, w *work, c *ocispec.Image) error
}

// Build makes the image that a Jailfile describes. Mistakes in the Jailfile are
// all named, each an *Error with its line, before anything is built; the image
// appears at its output whole or not at all.
func Build(ctx context.Context, o Options) (_ *image.Image, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	b := newBuilder(o)
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	file, err := b.readRecipe(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.spareContext(); err != nil {
		return nil, err
	}
	if b.ignore, err = b.readIgnore(ctx, file.container, b.outputInContext()...); err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	b.names = file.container
	p := &planner{file: file, platform: o.Platform, given: o.Args, goal: o.Target, secrets: o.Secrets, permit: o.Permit,
		accepted: o.UnknownParameters}
	p.follow = b.includes.follow
	p.base = func(ref string, wanted ocispec.Platform) (*image.Image, error) { return b.from(ctx, ref, wanted) }
	if err := p.plan(ctx); err != nil {
		return nil, err
	}
	for _, w := range p.warnings {
		if o.Warn != nil {
			o.Warn(w.Error())
		}
	}
	return b.build(ctx, p)
}

func newBuilder(o Options) *builder {
	b := &builder{opts: o, epoch: o.Epoch.UTC().Truncate(time.Second), network: o.Network,
		ignore: &ignorer{}, built: map[*stage]*work{}, seen: newLooks()}
	if b.network == "" {
		b.network = NetworkHost
	}
	if o.Epoch.IsZero() {
		b.epoch = time.Unix(0, 0).UTC()
	}
	return b
}

func (b *builder) open(ctx context.Context) (err error) {
	temp := b.opts.TempDir
	if b.opts.Cache != "" {
		if b.cache, err = openCache(ctx, b.opts.Cache); err != nil {
			return err
		}
		b.cache.cleanUp = b.opts.CleanUp
		if temp == "" {
			temp = b.cache.workDir()
		}
	}
	if b.dir, err = os.MkdirTemp(temp, "freejail-build-"); err != nil {
		return err
	}
	if b.opts.ZFSDataset != "" {
		if b.pool, err = openPool(ctx, b.opts.ZFSDataset, syscall.LOCK_SH); err != nil {
			return err
		}
		if why := b.pool.noDevice; why != nil {
			b.progress("the whole tree is read after each step, as the kernel cannot be asked for what changed: %v",
				why)
		}
		if err = b.cache.keepPool(b.opts.ZFSDataset); err != nil {
			return err
		}
	}
	// With the dot it is a directory, or an error: a FIFO would make us wait.
	if b.context, err = os.OpenRoot(b.opts.Context + "/."); err != nil {
		if at := (*fs.PathError)(nil); errors.As(err, &at) {
			at.Path = b.opts.Context // without it
		}
		return fmt.Errorf("context: %w", err)
	}
	if err = b.lookAtOutput(); err != nil {
		return err
	}
	b.hashes = newHashes(b.context, b.cache, b.opts.Context)
	if b.store = b.opts.Store; b.store == nil {
		b.store, err = layout.OpenStore(filepath.Join(b.dir, "store"), image.Limits{})
	}
	return err
}

// outputInContext keeps an earlier build's image out of the next.
func (b *builder) outputInContext() []string {
	if b.opts.Output == "" {
		return nil
	}
	if name, ok := b.inContext(b.opts.Output); ok {
		return []string{name}
	}
	return nil
}

// inContext gives the path in the context of a file that lies there, as it is
// written or by the links of the directories above it.
func (b *builder) inContext(file string) (name string, ok bool) {
	if name, ok = below(b.opts.Context, file); ok {
		return name, true
	}
	file = filepath.Clean(file)
	dir, err1 := filepath.EvalSymlinks(b.opts.Context)
	parent, err2 := filepath.EvalSymlinks(filepath.Dir(file))
	if err1 != nil || err2 != nil {
		return "", false
	}
	return below(dir, filepath.Join(parent, filepath.Base(file)))
}

func below(dir, file string) (string, bool) {
	dir, err1 := filepath.Abs(dir)
	file, err2 := filepath.Abs(file)
	rel, err3 := filepath.Rel(dir, file)
	if err1 != nil || err2 != nil || err3 != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return filepath.ToSlash(rel), true
}

func (b *builder) close(ctx context.Context) (err error) {
	for _, name := range b.temp {
		err = errors.Join(err, b.store.Remove(name))
	}
	if b.store != nil && b.store != b.opts.Store {
		err = errors.Join(err, b.store.Close())
	}
	if b.context != nil {
		err = errors.Join(err, b.context.Close())
	}
	for _, w := range b.built {
		err = errors.Join(err, w.drop())
	}
	if b.dir != "" {
		err = errors.Join(err, remove.Tree(b.dir))
	}
	if b.pool != nil {
		err = errors.Join(err, b.pool.close())
	}
	if b.cache != nil {
		err = errors.Join(err, b.cache.close(ctx, b.warn))
	}
	return err
}

// title is for progress: one line.
func (in Instruction) title() string {
	in.Verb = cmp.Or(in.word, in.Verb)
	line, _, more := strings.Cut(in.String(), "\n")
	if len(line) > 100 {
		line, more = line[:100], true
	}
	if more {
		line += " ..."
	}
	return line
}

// String is the instruction as its line has it, options and text.
func (in Instruction) String() string {
	var b strings.Builder
	b.WriteString(in.Verb)
	for _, f := range in.Flags {
		fmt.Fprintf(&b, " --%s=%s", f.Name, f.Value)
	}
	switch {
	case in.Heredoc != nil:
		b.WriteString(" <<EOF\n" + *in.Heredoc + "EOF")
	case in.Text != "":
		b.WriteString(" " + in.Text)
	}
	return b.String()
}
