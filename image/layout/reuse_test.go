package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/chunked"
	"github.com/freejail/freejail/internal/testoci"
)

// parts is an Origin in memory that gives parts of layers, counts what it gives, and can fail.
type parts struct {
	*testoci.Layout
	mu     sync.Mutex
	whole  int   // layers that were asked for as such
	given  int64 // bytes of layers
	ranges int   // parts that were asked for
	answer func(offset, n int64) error
	short  int // from this part on they lack a byte; 0 is none
}

// cut is the end of a part that was asked for again and again.
type cut struct{}

func (cut) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type countingReader struct {
	io.Reader
	p *parts
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.given += int64(n)
	return n, err
}

func (c countingReader) Close() error { return nil }

func (p *parts) Open(_ context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	b := p.Files[path.Join(blobDir, d.Digest.Encoded())]
	if !strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer") {
		return io.NopCloser(bytes.NewReader(b[offset:])), offset, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole++
	return countingReader{bytes.NewReader(b[offset:]), p}, offset, nil
}

func (p *parts) OpenRange(_ context.Context, d ocispec.Descriptor, offset, n int64) (io.ReadCloser, int64, error) {
	b := p.Files[path.Join(blobDir, d.Digest.Encoded())]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ranges++
	if p.answer != nil {
		if err := p.answer(offset, n); err != nil {
			return nil, 0, err
		}
	}
	if p.short > 0 && p.ranges >= p.short {
		return countingReader{io.MultiReader(bytes.NewReader(b[offset:offset+n-1]), cut{}), p}, offset, nil
	}
	return countingReader{bytes.NewReader(b[offset : offset+n]), p}, offset, nil
}

// chunkedImage is an image of a layer in zstd:chunked, which may be changed before it gets its digest.
func chunkedImage(t testing.TB, items []item, change func(b []byte) []byte) *parts {
	t.Helper()
	b := layerOf(t, items...)
	var out bytes.Buffer
	w, err := chunked.NewWriter(&out)
	if err == nil {
		_, err = w.Write(b)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	layer := out.Bytes()
	if change != nil {
		layer = change(layer)
	}
	l := newLayout(layer)
	l.Config.RootFS.DiffIDs = []digest.Digest{digest.FromBytes(b)}
	l.Manifest.Layers[0].MediaType = ocispec.MediaTypeImageLayerZstd
	l.Manifest.Layers[0].Annotations = w.Annotations()
	return &parts{Layout: l.Seal(t)}
}

func (p *parts) layer() ocispec.Descriptor { return p.Manifest.Layers[0] }

// bytesOf are of a file that does not compress.
func bytesOf(seed int64, n int) string {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return string(b)
}

func manyFiles(changed int64) (out []item) {
	for i := range 20 {
		seed := int64(i)
		if i == 10 {
			seed = changed
		}
		out = append(out, file(fmt.Sprint("f", i), bytesOf(seed, 50_000)))
	}
	return out
}

// fetched fetches an image, whose layer must be right, and tells what was told.
func fetched(t testing.TB, s *Store, p *parts, name string, o FetchOptions) (last image.Progress, told []string) {
	t.Helper()
	o.Progress = func(p image.Progress) { last = p }
	o.Tell = func(text string) { told = append(told, text) }
	p.given, p.whole, p.ranges = 0, 0, 0
	if _, err := s.Fetch(ctx, p, p.Index.Manifests[0], name, o); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	f, err := s.OpenBlob(p.layer().Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := digest.FromReader(f); err != nil || got != p.layer().Digest {
		t.Errorf("%s: the layer is %s, not %s: %v", name, got, p.layer().Digest, err)
	}
	if last.Done != p.layer().Size || last.Reused < 0 {
		t.Errorf("%s: of %d bytes; told was %+v", name, p.layer().Size, last)
	}
	allGivenBack(t, name)
	return last, told
}

func allGivenBack(t testing.TB, name string) {
	t.Helper()
	if !reuseMemory.TryAcquire(reuseAtOnce) {
		t.Errorf("%s: memory is not given back", name)
		return
	}
	reuseMemory.Release(reuseAtOnce)
}

// flip changes some bytes of the frames in the middle, which the table does not tell.
func flip(b []byte) []byte {
	b = bytes.Clone(b)
	for i := range 100 {
		b[500_000+i*7] ^= 1
	}
	return b
}

// What differs is fetched; all else is taken from what is here.
func TestFetchOfWhatDiffers(t *testing.T) {
	s := newStore(t, image.Limits{})
	fetched(t, s, chunkedImage(t, manyFiles(10), nil), "registry.example/web:1", FetchOptions{})
	for i, items := range [][]item{
		manyFiles(100), // one is another
		append([]item{file("new", "x")}, manyFiles(10)...),
		append(manyFiles(10), file("new", "x")),
		manyFiles(10)[:12],
		append(manyFiles(10)[10:], manyFiles(10)[:10]...), // in another order
	} {
		p := chunkedImage(t, items, nil)
		last, told := fetched(t, s, p, fmt.Sprint("registry.example/web:2.", i), FetchOptions{})
		if p.given > 70_000 || p.ranges > 4 || p.whole > 0 || last.Reused == 0 || len(told) > 0 {
			t.Errorf("%d: of %d bytes %d were given in %d parts; told were %+v, %v", i, p.layer().Size, p.given, p.ranges,
				last, told)
		}
	}
}

// Little that is here is not worth a request: all is fetched, and no byte twice.
func TestFetchOfWhatIsNearlyAllOther(t *testing.T) {
	s := newStore(t, image.Limits{})
	fetched(t, s, chunkedImage(t, manyFiles(10), nil), "registry.example/web:1", FetchOptions{})
	var items []item
	for i := range 20 {
		items = append(items, file(fmt.Sprint("g", i), bytesOf(int64(1000+i), 50_000)))
	}
	p := chunkedImage(t, append(items, manyFiles(10)[0]), nil)
	last, told := fetched(t, s, p, "registry.example/web:2", FetchOptions{})
	if p.given != p.layer().Size || p.ranges != 2 || last.Reused != 0 || len(told) > 0 {
		t.Errorf("of %d bytes %d were given in %d parts; told were %+v, %v", p.layer().Size, p.given, p.ranges, last, told)
	}
}

// A table that lies, of the layer or of one that is here, costs no more than the layer beside what was fetched by it,
// and the next one of the repository takes nothing from what misled.
func TestFetchMisled(t *testing.T) {
	for name, c := range map[string]struct{ old, now func([]byte) []byte }{
		"what is here is other":    {flip, nil},
		"what is fetched is other": {nil, flip},
	} {
		s := newStore(t, image.Limits{})
		fetched(t, s, chunkedImage(t, manyFiles(10), c.old), "registry.example/web:1", FetchOptions{})
		p := chunkedImage(t, manyFiles(100), c.now)
		last, told := fetched(t, s, p, "registry.example/web:2", FetchOptions{})
		if len(told) != 1 || p.whole != 1 || last.Reused != 0 || p.given > p.layer().Size+70_000 {
			t.Errorf("%s: of %d bytes %d were given; told were %+v, %v", name, p.layer().Size, p.given, last, told)
		}
		if s.Remove("registry.example/web:2") != nil {
			t.Fatal("it is not there")
		}
		p = chunkedImage(t, manyFiles(101), nil)
		if last, told := fetched(t, s, p, "registry.example/web:3", FetchOptions{}); last.Reused+int64(len(told)) > 0 {
			t.Errorf("%s: the next one: told were %+v, %v", name, last, told)
		}
	}
}

// A layer whose table is none, or is of something else, is fetched as a whole.
func TestFetchByHostileTables(t *testing.T) {
	entry := func(digest string, at, end int64) string {
		return fmt.Sprintf(`{"type":"reg","name":"f","size":50000,"digest":"%s","offset":%d,"endOffset":%d}`, digest, at, end)
	}
	sum := func(seed int64) string { return digest.FromString(bytesOf(seed, 50_000)).String() }
	old := chunkedImage(t, manyFiles(10), nil)
	for name, table := range map[string]string{
		"no table":         `x`,
		"bomb":             `{"entries":[` + strings.Repeat(" ", 100<<20),
		"too many entries": `{"entries":[` + strings.Repeat("{},", 200_001) + `{}]}`,
		"overlapping":      `{"entries":[` + entry(sum(1), 100, 50_100) + "," + entry(sum(2), 50_000, 100_000) + `]}`,
		"behind the blob":  `{"entries":[` + entry(sum(1), 100, 1<<60) + `]}`,
		"negative":         `{"entries":[` + entry(sum(1), -100, 5000) + `]}`,
		"one and the same": `{"entries":[` + strings.Join(sameEntries(t, old), ",") + `]}`,
	} {
		s := newStore(t, image.Limits{})
		fetched(t, s, old, "registry.example/web:1", FetchOptions{})
		frames := []byte(bytesOf(5, 1<<20))
		b := testoci.Zstd(t, []byte(table))
		at := len(frames) + 8
		l := newLayout(append(append(frames, "12345678"...), b...))
		l.Manifest.Layers[0].MediaType = ocispec.MediaTypeImageLayerZstd
		l.Manifest.Layers[0].Annotations = map[string]string{
			"io.containers.zstd-chunked.manifest-checksum": digest.FromBytes(b).String(),
			"io.containers.zstd-chunked.manifest-position": fmt.Sprintf("%d:%d:%d:1", at, len(b),
				min(len(table), chunked.MaxPlain)),
		}
		p := &parts{Layout: l.Seal(t)}
		last, told := fetched(t, s, p, "registry.example/web:2", FetchOptions{})
		if len(told) != 1 || last.Reused != 0 || p.given > 2*p.layer().Size {
			t.Errorf("%s: of %d bytes %d were given; told were %+v, %.300q", name, p.layer().Size, p.given, last, told)
		}
	}
}

// sameEntries say that a layer is one file of another again and again.
func sameEntries(t *testing.T, old *parts) (out []string) {
	table, _ := chunked.TableOf(old.layer())
	layer := old.Files[path.Join(blobDir, old.layer().Digest.Encoded())]
	size := int64(0)
	err := table.Pieces(layer[table.Offset:][:table.Size], func(p chunked.Piece) error {
		if p.Content {
			size = p.Size
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(0); at < 1_000_000; at += size {
		b, _ := json.Marshal(map[string]any{"type": "reg", "name": "f", "size": 50_000, "offset": at, "endOffset": at + size,
			"digest": digest.FromString(bytesOf(19, 50_000))})
		out = append(out, string(b))
	}
	return out
}

// What a job's own credentials have brought is told to no other registry, by what it is not asked for.
func TestFetchTellsNothingOfPrivateLayers(t *testing.T) {
	for name, want := range map[string]bool{"registry.example/team/web:2": true, "registry.example/other/web:2": false,
		"other.example/team/web:2": false} {
		s := newStore(t, image.Limits{})
		fetched(t, s, chunkedImage(t, manyFiles(10), nil), "registry.example/team/web:1", FetchOptions{Private: true})
		p := chunkedImage(t, manyFiles(100), nil)
		last, _ := fetched(t, s, p, name, FetchOptions{Private: true})
		if last.Reused > 0 != want || p.ranges > 0 != want {
			t.Errorf("%s: %d bytes were taken, %d parts asked for", name, last.Reused, p.ranges)
		}
	}
}

// A layer that could not be opened for once, as when gc takes it or no descriptor is left, gives again to the next.
func TestFetchOfWhatCouldNotBeOpened(t *testing.T) {
	s := newStore(t, image.Limits{})
	old := chunkedImage(t, manyFiles(10), nil)
	fetched(t, s, old, "registry.example/web:1", FetchOptions{})
	at := path.Join(s.Dir(), blobName(old.layer().Digest))
	if err := os.Rename(at, at+".away"); err != nil {
		t.Fatal(err)
	}
	if last, _ := fetched(t, s, chunkedImage(t, manyFiles(100), nil), "registry.example/web:2",
		FetchOptions{}); last.Reused != 0 {
		t.Errorf("%d bytes were taken from nowhere", last.Reused)
	}
	if err := errors.Join(s.Remove("registry.example/web:2"), os.Rename(at+".away", at)); err != nil {
		t.Fatal(err)
	}
	if last, _ := fetched(t, s, chunkedImage(t, manyFiles(101), nil), "registry.example/web:3",
		FetchOptions{}); last.Reused == 0 {
		t.Error("it is not looked at again")
	}
}

// Damage of what is here is no failure, nor is a lack of memory.
func TestFetchWithoutWhatIsHere(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, s *Store, old *parts) (undo func()){
		"damaged": func(t *testing.T, s *Store, old *parts) func() {
			change(t, s, old.layer(), func(f *os.File) error {
				_, err := f.WriteAt([]byte("damaged"), 100_000)
				return err
			})
			return func() {}
		},
		"its table damaged": func(t *testing.T, s *Store, old *parts) func() {
			change(t, s, old.layer(), func(f *os.File) error {
				table, _ := chunked.TableOf(old.layer())
				_, err := f.WriteAt([]byte("damaged"), table.Offset+10)
				return err
			})
			return func() {}
		},
		"cut off": func(t *testing.T, s *Store, old *parts) func() {
			change(t, s, old.layer(), func(f *os.File) error { return f.Truncate(100_000) })
			return func() {}
		},
		"a directory": func(t *testing.T, s *Store, old *parts) func() {
			at := path.Join(s.Dir(), blobName(old.layer().Digest))
			if err := errors.Join(os.Remove(at), os.Mkdir(at, 0o700)); err != nil {
				t.Fatal(err)
			}
			return func() {}
		},
		"no memory": func(t *testing.T, s *Store, old *parts) func() {
			if !reuseMemory.TryAcquire(reuseAtOnce) {
				t.Fatal("it is taken")
			}
			return func() { reuseMemory.Release(reuseAtOnce) }
		},
	} {
		s := newStore(t, image.Limits{})
		old := chunkedImage(t, manyFiles(10), nil)
		fetched(t, s, old, "registry.example/web:1", FetchOptions{})
		undo := harm(t, s, old)
		p := chunkedImage(t, manyFiles(100), nil)
		var last image.Progress
		_, err := s.Fetch(ctx, p, p.Index.Manifests[0], "registry.example/web:2",
			FetchOptions{Progress: func(p image.Progress) { last = p }})
		undo()
		if err != nil || last.Reused != 0 || last.Done != p.layer().Size || p.whole != 1 {
			t.Errorf("%s: %v; told was %+v", name, err, last)
		}
		allGivenBack(t, name)
	}
}

func change(t *testing.T, s *Store, d ocispec.Descriptor, f func(*os.File) error) {
	t.Helper()
	file, err := os.OpenFile(path.Join(s.Dir(), blobName(d.Digest)), os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(f(file), file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What has broken off goes on where it was, at any byte, and what is here is gone while it is read does not matter.
func TestFetchOfWhatDiffersGoesOn(t *testing.T) {
	items := append(manyFiles(100), append(manyFiles(10), manyFiles(101)[9:12]...)...)
	for _, after := range []int64{1, 2, 3, 4} {
		s := newStore(t, image.Limits{})
		fetched(t, s, chunkedImage(t, manyFiles(10), nil), "registry.example/web:1", FetchOptions{})
		p := chunkedImage(t, items, nil)
		p.answer = func(offset, n int64) error {
			if int64(p.ranges) == after {
				return errBroken
			}
			return nil
		}
		_, err := s.Fetch(ctx, p, p.Index.Manifests[0], "registry.example/web:2", FetchOptions{})
		if err != nil && !errors.Is(err, errBroken) || err == nil && after < 4 {
			t.Errorf("it broke at part %d: %v", after, err)
		}
		allGivenBack(t, "broken")
		p.answer = nil
		if last, told := fetched(t, s, p, "registry.example/web:2", FetchOptions{}); len(told) > 0 {
			t.Errorf("after part %d: told were %+v, %v", after, last, told)
		}
	}
}

// Parts that are refused amid a plan are had with the whole, of which what came already is passed over.
func TestFetchOfWhatDiffersWithoutMoreParts(t *testing.T) {
	items := append(manyFiles(100), append(manyFiles(10), manyFiles(101)[9:12]...)...)
	for after := 1; after < 4; after++ {
		s := newStore(t, image.Limits{})
		fetched(t, s, chunkedImage(t, manyFiles(10), nil), "registry.example/web:1", FetchOptions{})
		p := chunkedImage(t, items, nil)
		p.answer = func(offset, n int64) error {
			if p.ranges >= after {
				return fmt.Errorf("%w: no more", ErrNoRanges)
			}
			return nil
		}
		last, told := fetched(t, s, p, "registry.example/web:2", FetchOptions{})
		if len(told) != 1 || !strings.Contains(told[0], "no more") || p.whole != 1 {
			t.Errorf("after part %d: told were %+v, %v", after, last, told)
		}
	}
}

// Parts that are always a byte short are no failure: a server that counts so gives the rest as it gives that of a
// download that broke.
func TestFetchOfPartsThatAreShort(t *testing.T) {
	for after := range 2 {
		s := newStore(t, image.Limits{})
		fetched(t, s, chunkedImage(t, manyFiles(10), nil), "registry.example/web:1", FetchOptions{})
		p := chunkedImage(t, manyFiles(100), nil)
		p.short = after + 1
		last, told := fetched(t, s, p, "registry.example/web:2", FetchOptions{})
		if len(told) != 1 || p.whole != 1 || last.Reused > 0 != (after > 0) {
			t.Errorf("after part %d: told were %+v, %v", after, last, told)
		}
	}
}

// An image whose layers have more text in their tables than is read has the others fetched as they are.
func TestFetchOfManyTables(t *testing.T) {
	s := newStore(t, image.Limits{})
	r := s.reusing(chunkedImage(t, manyFiles(10), nil), "registry.example/web:1", nil, nil, nil)
	begun := 0
	for i := range 1000 {
		if r.begin(digest.FromString(fmt.Sprint(i)), chunked.Table{Plain: chunked.MaxPlain}) {
			begun++
		}
	}
	if begun != maxTables/chunked.MaxPlain {
		t.Errorf("the tables of %d layers are read", begun)
	}
}

// Who unpacks a layer while it is put together reads the same bytes.
func TestArrivingOfWhatDiffers(t *testing.T) {
	s := newStore(t, image.Limits{})
	fetched(t, s, chunkedImage(t, manyFiles(10), nil), "registry.example/web:1", FetchOptions{})
	p := chunkedImage(t, manyFiles(100), nil)
	var got digest.Digest
	var rerr error
	over := make(chan struct{})
	last, _ := fetched(t, s, p, "registry.example/web:2", FetchOptions{Arriving: func(_ *image.Image, a *Arriving) {
		go func() {
			defer close(over)
			r, _, err := a.Open(ctx, p.layer(), 0)
			if rerr = err; err == nil {
				got, rerr = digest.FromReader(r)
				rerr = errors.Join(rerr, r.Close())
			}
		}()
	}})
	if <-over; rerr != nil || got != p.layer().Digest || last.Reused == 0 {
		t.Errorf("got %s, %v; told was %+v", got, rerr, last)
	}
}

// The end of a pull ends what was asked for.
func TestFetchOfWhatDiffersEnds(t *testing.T) {
	s := newStore(t, image.Limits{})
	fetched(t, s, chunkedImage(t, manyFiles(10), nil), "registry.example/web:1", FetchOptions{})
	p := chunkedImage(t, manyFiles(100), nil)
	within, cancel := context.WithCancel(ctx)
	_, err := s.Fetch(within, p, p.Index.Manifests[0], "registry.example/web:2", FetchOptions{
		Progress: func(p image.Progress) {
			if p.Reused > 0 {
				cancel()
			}
		}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	allGivenBack(t, "ended")
}

// However a layer is mixed of what is here and what is not, its parts cover it, and are not many.
func TestPlans(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for range 200 {
		d := &donor{pieces: map[[16]byte]span{}}
		var pieces []chunked.Piece
		at, size := int64(0), int64(1+random.Intn(200_000))
		for i := range 1 + random.Intn(2000) {
			p := chunked.Piece{Key: [16]byte{byte(i), byte(i >> 8)}, Content: i%2 > 0, Offset: at, Size: 1 + random.Int63n(size)}
			if at += p.Size; random.Intn(3) > 0 {
				d.pieces[p.Key] = span{random.Int63n(1 << 30), p.Size}
			}
			pieces = append(pieces, p)
		}
		donors := alike(pieces, []*donor{d})
		if len(donors) != 1 {
			t.Fatal("the donor is not taken")
		}
		all, fetched, here := int64(0), 0, int64(0)
		for _, p := range longRuns(match(pieces, donors)) {
			if p.from == nil {
				fetched++
				if p.offset != all {
					t.Fatalf("a part is of byte %d, after %d", p.offset, all)
				}
			} else {
				here += p.size
			}
			all += p.size
		}
		if all != at || fetched > maxRuns+1 {
			t.Errorf("of %d bytes the parts have %d; %d of them are fetched", at, all, fetched)
		}
		d.pieces[pieces[0].Key] = span{0, pieces[0].Size + 1}
		if pieces[0].Content = true; len(alike(pieces, []*donor{d})) > 0 {
			t.Error("a donor that was compressed in another way is taken")
		}
	}
}
