package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/testoci"
)

// Layers in order, each with what it does to the tree of those below.
func TestLayersAreAppliedInOrder(t *testing.T) {
	base := []item{dir("a"), file("a/one", "1"), file("a/two", "2"), dir("a/sub"), file("a/sub/x", "x"),
		file("top", "t"), symlink("link", "a")}
	for name, c := range map[string]struct {
		upper []item
		want  string // names in the tree, with the contents of files
	}{
		"nothing":            {nil, "a/one=1 a/sub/x=x a/two=2 link>a top=t"},
		"a file changed":     {[]item{file("a/one", "new")}, "a/one=new a/sub/x=x a/two=2 link>a top=t"},
		"whiteout of a file": {[]item{file("a/.wh.one", "")}, "a/sub/x=x a/two=2 link>a top=t"},
		"whiteout of a tree": {[]item{file(".wh.a", "")}, "link>a top=t"},
		"whiteout of what is not": {[]item{file("no/where/.wh.x", ""), file(".wh.none", "")},
			"a/one=1 a/sub/x=x a/two=2 link>a top=t"},
		"whiteout before the new one": {[]item{file(".wh.a", ""), dir("a"), file("a/new", "n")},
			"a/new=n link>a top=t"},
		"whiteout after the new one": {[]item{dir("a"), file("a/new", "n"), file(".wh.a", "")},
			"a/new=n link>a top=t"},
		"whiteout spares its layer": {[]item{file("top", "new"), file(".wh.top", "")},
			"a/one=1 a/sub/x=x a/two=2 link>a top=new"},
		"opaque first": {[]item{dir("a"), file("a/.wh..wh..opq", ""), file("a/new", "n")},
			"a/new=n link>a top=t"},
		"opaque last": {[]item{dir("a"), file("a/new", "n"), file("a/.wh..wh..opq", "")},
			"a/new=n link>a top=t"},
		"opaque last, deeper": {[]item{dir("a"), dir("a/sub"), file("a/sub/new", "n"),
			file("a/.wh..wh..opq", "")}, "a/sub/new=n link>a top=t"},
		"opaque of the root":  {[]item{file("new", "n"), file(".wh..wh..opq", "")}, "new=n"},
		"directory by a file": {[]item{file("a", "f")}, "a=f link>a top=t"},
		"directory by a link": {[]item{symlink("a", "top")}, "a>top link>a top=t"},
		"file by a directory": {[]item{dir("top"), file("top/in", "i")},
			"a/one=1 a/sub/x=x a/two=2 link>a top/in=i"},
		"link by a directory": {[]item{dir("link"), file("link/in", "i")},
			"a/one=1 a/sub/x=x a/two=2 link/in=i top=t"},
		"file through a link":        {[]item{file("link/in", "i")}, "a/in=i a/one=1 a/sub/x=x a/two=2 link>a top=t"},
		"same link twice":            {[]item{symlink("link", "top")}, "a/one=1 a/sub/x=x a/two=2 link>top top=t"},
		"hard link over a file":      {[]item{hardlink("top", "a/one")}, "a/one=1 a/sub/x=x a/two=2 link>a top=1"},
		"hard link to a lower layer": {[]item{hardlink("h", "a/one")}, "a/one=1 a/sub/x=x a/two=2 h=1 link>a top=t"},
		"hard link by absolute name": {[]item{hardlink("h", "/a/one")}, "a/one=1 a/sub/x=x a/two=2 h=1 link>a top=t"},
		"hard link through a link": {[]item{hardlink("h", "link/one")},
			"a/one=1 a/sub/x=x a/two=2 h=1 link>a top=t"},
		"one side of a hard link": {[]item{hardlink("h", "a/one"), file("h", "other")},
			"a/one=1 a/sub/x=x a/two=2 h=other link>a top=t"},
		"names with ./ and / in front": {[]item{file("./a/one", "new"), file("/a/two", "new")},
			"a/one=new a/sub/x=x a/two=new link>a top=t"},
		"missing parents": {[]item{file("p/q/r", "r")}, "a/one=1 a/sub/x=x a/two=2 link>a p/q/r=r top=t"},
		"the same name twice": {[]item{file("n", "1"), file("n", "2")},
			"a/one=1 a/sub/x=x a/two=2 link>a n=2 top=t"},
		"a FIFO": {[]item{special(tar.TypeFifo, "a/one"), hardlink("again", "a/one")},
			"a/one| a/sub/x=x a/two=2 again| link>a top=t"},
		"a FIFO as a directory": {[]item{special(tar.TypeFifo, "a")}, "a| link>a top=t"},
		"devices of /dev": {[]item{dir("dev"), special(tar.TypeChar, "./dev/null"), special(tar.TypeBlock, "dev/x/sda"),
			file("dev/f", "f")}, "a/one=1 a/sub/x=x a/two=2 dev/f=f link>a top=t"},
		"files of aufs": {[]item{file("./.wh..wh.aufs", ""), dir(".wh..wh.orph"), file(".wh..wh.orph/x", "x"),
			dir(".wh..wh.plnk"), file(".wh..wh.plnk/12.3", "y"), hardlink("a/new", ".wh..wh.plnk/12.3"),
			special(tar.TypeChar, ".wh..wh.plnk/c"), file("n", "n")},
			"a/new=y a/one=1 a/sub/x=x a/two=2 link>a n=n top=t"},
		"a global comment": {[]item{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader,
			Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}}},
			"a/one=1 a/sub/x=x a/two=2 link>a top=t"},
	} {
		t.Run(name, func(t *testing.T) {
			root, err := unpackLayers(t, layerOf(t, base...), layerOf(t, c.upper...))
			if err != nil {
				t.Fatal(err)
			}
			if got := brief(t, root); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestModesAndTimes(t *testing.T) {
	old := syscall.Umask(0o077) // must not matter
	defer syscall.Umask(old)
	frac := file("frac", "")
	frac.ModTime, frac.Format = time.Unix(1_000_000_000, 250_000_000), tar.FormatPAX
	root, err := unpackLayers(t, layerOf(t, dir("./").WithMode(0o755), dir("ro").WithMode(0o555),
		file("ro/f", "x").WithMode(0o400), dir("tmp").WithMode(0o1777),
		file("implicit/f", "x"), dir("twice").WithMode(0o700), file("twice/f", ""), dir("twice").WithMode(0o711),
		symlink("l", "nowhere"), frac),
		layerOf(t, file("ro/later", "y"), file("ro/.wh.f", "")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // or only root could remove it
		if err := os.Chmod(filepath.Join(root, "ro"), 0o755); err != nil {
			t.Error(err)
		}
	})
	for name, want := range map[string]fs.FileMode{".": fs.ModeDir | 0o755, "ro": fs.ModeDir | 0o555, "ro/later": 0o644,
		"tmp":      fs.ModeDir | fs.ModeSticky | 0o777,
		"implicit": fs.ModeDir | 0o755, "twice": fs.ModeDir | 0o711} {
		fi, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != want {
			t.Errorf("%s has mode %s, want %s", name, fi.Mode(), want)
		}
	}
	// A directory's time survives what comes into it, in later layers too.
	for _, name := range []string{".", "ro", "ro/later", "tmp", "twice", "l"} {
		fi, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if !fi.ModTime().Equal(testoci.LongAgo) {
			t.Errorf("%s has the time %s, want %s", name, fi.ModTime().UTC(), testoci.LongAgo)
		}
	}
	if fi, err := os.Stat(filepath.Join(root, "frac")); err != nil ||
		fi.ModTime().UnixNano() != 1_000_000_000_250_000_000 {
		t.Errorf("a fraction of a second is lost: %v, %v", fi, err)
	}
}

func TestOwnersAndSetuid(t *testing.T) {
	needRoot(t)
	suid, sgid, d, l := file("suid", "x").WithMode(0o4755), file("sgid", "x").WithMode(0o2755),
		dir("d").WithMode(0o2775), symlink("l", "suid")
	for _, i := range []*item{&suid, &sgid, &d, &l} {
		i.Uid, i.Gid = 1234, 3_000_000_000
		i.Format = tar.FormatPAX
	}
	root, err := unpackLayers(t, layerOf(t, suid, sgid, d, l))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"suid": fs.ModeSetuid | 0o755, "sgid": fs.ModeSetgid | 0o755,
		"d": fs.ModeDir | fs.ModeSetgid | 0o775, "l": fs.ModeSymlink} {
		fi, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		if st.Uid != 1234 || st.Gid != 3_000_000_000 {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
		if name != "l" && fi.Mode() != want {
			t.Errorf("%s has mode %s, want %s", name, fi.Mode(), want)
		}
	}
}

func TestHardLinksShareAFile(t *testing.T) {
	root, err := unpackLayers(t, layerOf(t, file("d/a", "x"), hardlink("e/b", "d/a"), symlink("s", "d/a"),
		hardlink("s2", "s")))
	if err != nil {
		t.Fatal(err)
	}
	a, err1 := os.Stat(filepath.Join(root, "d/a"))
	b, err2 := os.Stat(filepath.Join(root, "e/b"))
	if err1 != nil || err2 != nil || !os.SameFile(a, b) {
		t.Errorf("they are two files: %v %v", err1, err2)
	}
	if to, err := os.Readlink(filepath.Join(root, "s2")); err != nil || to != "d/a" {
		t.Errorf("a hard link to a link is %q, %v", to, err)
	}
}

func TestUnpackLimits(t *testing.T) {
	many := make([]item, 101)
	for i := range many {
		many[i] = file(fmt.Sprint("f", i), "")
	}
	half := strings.Repeat("x", 600<<10)
	for name, c := range map[string]struct {
		limits image.Limits
		layers [][]byte
		want   string
	}{
		"a large file": {image.Limits{LayerBytes: 1 << 20},
			[][]byte{layerOf(t, file("f", strings.Repeat("x", 1<<20+1)))}, "limit of 1048576 bytes"},
		"many files": {image.Limits{LayerBytes: 1 << 20},
			[][]byte{layerOf(t, file("f", half), file("g", half))}, "limit of 1048576 bytes"},
		"several layers": {image.Limits{ImageBytes: 1 << 20}, [][]byte{layerOf(t, file("f", half)),
			layerOf(t, file("g", half))}, "layer 2"},
		"entries": {image.Limits{Entries: 100}, [][]byte{layerOf(t, many...)}, "limit of 100 entries"},
		"entries of layers": {image.Limits{Entries: 150}, [][]byte{layerOf(t, many...), layerOf(t, many...)},
			"layer 2"},
		"implied entries": {image.Limits{Entries: 20},
			[][]byte{layerOf(t, file("d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/f", ""))}, "limit of 20 entries"},
		"zeros after the end": {image.Limits{LayerBytes: 1 << 20},
			[][]byte{append(layerOf(t, file("f", "")), make([]byte, 1<<20)...)}, "limit of 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, c.limits)
			root := t.TempDir()
			err := Image(context.Background(), s, putLayers(t, s, "test", c.layers...), root, nil)
			wantError(t, err, c.want, "limits {")
			if used := diskUse(t, root); used > 1<<20 {
				t.Errorf("%d bytes were written", used)
			}
		})
	}
}

func diskUse(t *testing.T, root string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			sum += fi.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// zeros is a layer of one file, without holding it in memory.
func zerosLayer(t *testing.T, size int64) []byte {
	t.Helper()
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Size: size, Mode: 0o644,
		Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	return head.Bytes()
}

func TestTenGigabytesOfZerosAreRefused(t *testing.T) {
	const limit = 1 << 20
	head := zerosLayer(t, 10<<30)
	// The header may lie as well: then the stream goes on after the file's end.
	small := zerosLayer(t, 512)
	for name, h := range map[string][]byte{"one file": head, "behind a small file": small} {
		t.Run(name, func(t *testing.T) {
			// 64 MiB of zeros stand for the rest: what counts is that no
			// more than the limit is read or written.
			layer := append(bytes.Clone(h), make([]byte, 64<<20)...)
			for kind, blob := range map[string][]byte{ocispec.MediaTypeImageLayerGzip: gz(t, layer),
				ocispec.MediaTypeImageLayerZstd: zst(t, layer)} {
				s := newStore(t, image.Limits{LayerBytes: limit})
				d, err := s.Add(context.Background(), kind, bytes.NewReader(blob))
				if err != nil {
					t.Fatal(err)
				}
				img, err := s.Put(context.Background(), "bomb", hostConfig(digest.FromBytes(layer)),
					[]ocispec.Descriptor{d}, nil)
				if err != nil {
					t.Fatal(err)
				}
				root := t.TempDir()
				wantError(t, Image(context.Background(), s, img, root, nil), "limit of 1048576 bytes", "layer_size")
				if used := diskUse(t, root); used > limit {
					t.Errorf("%s: %d bytes were written", kind, used)
				}
			}
		})
	}
}

// A sparse file of a few bytes unpacks to any size that its header says.
func TestSparseFilesCountInFull(t *testing.T) {
	layer, err := os.ReadFile("testdata/sparse.tar") // 8 GiB, one block of data
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t, image.Limits{LayerBytes: 1 << 20})
	root := t.TempDir()
	wantError(t, Image(context.Background(), s, putLayers(t, s, "sparse", layer), root, nil), "limit of 1048576 bytes",
		`entry "sparse"`)
	if used := diskUse(t, root); used > 0 {
		t.Errorf("%d bytes were written", used)
	}
}

func TestWrongDiffID(t *testing.T) {
	s := newStore(t, image.Limits{})
	layer := layerOf(t, file("f", "x"))
	d, err := s.Add(context.Background(), ocispec.MediaTypeImageLayer, bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Put(context.Background(), "x", hostConfig(digest.FromString("other")), []ocispec.Descriptor{d}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, Image(context.Background(), s, img, t.TempDir(), nil), "layer 1", digest.FromBytes(layer).String(),
		digest.FromString("other").String())
}

func TestDamagedLayers(t *testing.T) {
	body := make([]byte, 3<<20) // more than one chunk
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	layer := layerOf(t, file("f", string(body)))
	for name, c := range map[string]struct {
		kind string
		blob []byte
		want string
	}{
		"tar cut off":   {ocispec.MediaTypeImageLayer, layer[:1<<20], "truncated"},
		"gzip cut off":  {ocispec.MediaTypeImageLayerGzip, gz(t, layer)[:2<<20], "truncated"},
		"zstd cut off":  {ocispec.MediaTypeImageLayerZstd, zst(t, layer)[:2<<20], "truncated"},
		"gzip empty":    {ocispec.MediaTypeImageLayerGzip, nil, "its content has the digest"},
		"no tar":        {ocispec.MediaTypeImageLayer, bytes.Repeat([]byte("no tar"), 1000), "invalid tar header"},
		"another layer": {ocispec.MediaTypeImageLayer, layerOf(t, file("g", "")), "its content has the digest"},
		"after its end": {ocispec.MediaTypeImageLayer, append(bytes.Clone(layer), 1), "its content has the digest"},
		"gzip of others": {ocispec.MediaTypeImageLayerGzip, append(gz(t, layer), gz(t, []byte("x"))...),
			"its content has the digest"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, image.Limits{})
			d, err := s.Add(context.Background(), c.kind, bytes.NewReader(c.blob))
			if err != nil {
				t.Fatal(err)
			}
			img, err := s.Put(context.Background(), "x", hostConfig(digest.FromBytes(layer)), []ocispec.Descriptor{d},
				nil)
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, Image(context.Background(), s, img, t.TempDir(), nil), "layer 1", c.want)
		})
	}
}

func TestUnpackWantsAnEmptyDirectory(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "x", layerOf(t, file("f", "x")))
	root := t.TempDir()
	if err := Image(context.Background(), s, img, root, nil); err != nil {
		t.Fatal(err)
	}
	wantError(t, Image(context.Background(), s, img, root, nil), "not empty")
	if err := Image(context.Background(), s, img, filepath.Join(root, "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory gives %v", err)
	}
}

func TestUnpackStopsWhenCancelled(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "x", layerOf(t, file("f", strings.Repeat("x", 8<<20))))
	ctx, cancel := context.WithCancel(context.Background())
	err := Image(ctx, s, img, t.TempDir(), func(image.Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// In a plain archive a name like a whiteout's is a name.
func TestArchive(t *testing.T) {
	root := t.TempDir()
	archive := gz(t, layerOf(t, file("a/.wh.b", "x"), file("a/b", "y"), symlink("l", "..")))
	if err := Archive(context.Background(), bytes.NewReader(archive), root, image.Limits{}); err != nil {
		t.Fatal(err)
	}
	if got := brief(t, root); got != "a/.wh.b=x a/b=y l>.." {
		t.Errorf("got %s", got)
	}
	err := Archive(context.Background(), bytes.NewReader(layerOf(t, file("../x", ""))), root, image.Limits{})
	wantError(t, err, "leads out")
}

// How a layer is compressed is told by its bytes, whatever its type says.
func TestMislabelledLayers(t *testing.T) {
	layer := layerOf(t, file("f", "x"))
	skippable := append([]byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}, zst(t, layer)...)
	packed := map[string][]byte{"tar": layer, "gzip": gz(t, layer), "zstd": zst(t, layer), "skippable": skippable}
	for _, mediaType := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip,
		ocispec.MediaTypeImageLayerZstd, document.DockerLayer + ".gzip", document.DockerLayer + ".zstd",
		document.DockerForeign + ".gzip", "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"} {
		for how, b := range packed {
			s := newStore(t, image.Limits{})
			d, err := s.Add(ctx, mediaType, bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			img, err := s.Put(ctx, "x", hostConfig(digest.FromBytes(layer)), []ocispec.Descriptor{d}, nil)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			if err := Image(ctx, s, img, root, nil); err != nil || brief(t, root) != "f=x" {
				t.Errorf("%s as %s: %v", how, mediaType, err)
			}
		}
	}
}

func TestFIFOs(t *testing.T) {
	needRoot(t)
	old := syscall.Umask(0o077) // must not matter
	defer syscall.Umask(old)
	ok := special(tar.TypeFifo, "supervise/ok").WithMode(0o622)
	ok.Uid, ok.Gid = 7, 8
	root, err := unpackLayers(t, layerOf(t, ok))
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Lstat(filepath.Join(root, "supervise/ok"))
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if fi.Mode() != fs.ModeNamedPipe|0o622 || st.Uid != 7 || st.Gid != 8 || !fi.ModTime().Equal(testoci.LongAgo) {
		t.Errorf("%s %d:%d %s", fi.Mode(), st.Uid, st.Gid, fi.ModTime())
	}
}

// What a layer unpacks to is compared with its DiffID, and the size of its blob: of another blob with the same in it
// nothing else is unpacked.
func TestBlobsWithTheSameContent(t *testing.T) {
	s := newStore(t, image.Limits{})
	layer := gz(t, layerOf(t, file("f", "x")))
	d, err := s.Add(context.Background(), ocispec.MediaTypeImageLayerGzip, bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Put(context.Background(), "x", hostConfig(digest.FromBytes(layerOf(t, file("f", "x")))),
		[]ocispec.Descriptor{d}, nil)
	if err != nil {
		t.Fatal(err)
	}
	same := bytes.Clone(layer)
	same[9] ^= 1 // the system that has compressed it
	for _, c := range []struct {
		blob []byte
		want string
	}{{same, ""}, {gz(t, layerOf(t, file("f", "y"))), "its content has the digest"},
		{append(gz(t, nil), layer...), "its descriptor says"}} {
		if err := os.WriteFile(filepath.Join(s.Dir(), "blobs", "sha256", d.Digest.Encoded()), c.blob, 0o600); err != nil {
			t.Fatal(err)
		}
		err := Image(context.Background(), s, img, t.TempDir(), nil)
		if c.want == "" && err != nil {
			t.Error(err)
		} else if c.want != "" {
			wantError(t, err, "layer 1", c.want)
		}
	}
}
