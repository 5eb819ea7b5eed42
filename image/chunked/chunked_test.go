package chunked

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/internal/testoci"
)

// noise does not compress, and is the same each time.
func noise(seed int64, n int) string {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return string(b)
}

func tarOf(t testing.TB, items ...testoci.Item) []byte { return testoci.Tar(t, items...) }

// written compresses a tar, in writes of different sizes.
func written(t testing.TB, b []byte) ([]byte, ocispec.Descriptor) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; len(b) > 0; i = i*7%100_003 + 1 {
		n := min(i, len(b))
		if _, err := w.Write(b[:n]); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Size: int64(out.Len()),
		Digest: digest.FromBytes(out.Bytes()), Annotations: w.Annotations()}
}

func piecesOf(t testing.TB, layer []byte, d ocispec.Descriptor) (out []Piece) {
	t.Helper()
	table, ok := TableOf(d)
	if !ok {
		t.Fatalf("no table is told by %v", d.Annotations)
	}
	err := table.Pieces(layer[table.Offset:][:table.Size], func(p Piece) error { out = append(out, p); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func plain(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tree() []testoci.Item {
	items := []testoci.Item{testoci.Dir("usr"), testoci.File("usr/empty", ""), testoci.Symlink("usr/link", "empty"),
		testoci.Hardlink("usr/hard", "usr/empty"), testoci.File("usr/large", noise(1, 9<<20)),
		testoci.File("usr/"+strings.Repeat("long/", 50)+"f", "x")}
	for i := range 100 {
		items = append(items, testoci.File(fmt.Sprint("usr/", i), noise(int64(i), i*517)))
	}
	return items
}

// What is written unpacks to the tar, in parts that its table tells, each of which is zstd by itself; and is the same
// another time.
func TestWriter(t *testing.T) {
	b := tarOf(t, tree()...)
	layer, d := written(t, b)
	if !bytes.Equal(plain(t, layer), b) {
		t.Fatal("it unpacks to something else")
	}
	if again, _ := written(t, b); !bytes.Equal(again, layer) {
		t.Error("it is another one the second time")
	}
	table, _ := TableOf(d)
	var all []byte
	at, content := int64(0), 0
	for _, p := range piecesOf(t, layer, d) {
		if p.Offset != at {
			t.Fatalf("a piece begins at %d, the one before it ended at %d", p.Offset, at)
		}
		at += p.Size
		if p.Content {
			content++
		}
		all = append(all, plain(t, layer[p.Offset:at])...)
	}
	if at != table.Begin() || !bytes.Equal(all, b) {
		t.Errorf("the pieces end at %d, the files at %d; or are something else", at, table.Begin())
	}
	if content < 103 { // the large file is several
		t.Errorf("there are %d pieces of files", content)
	}
}

// What two layers have in common has the same keys and the same bytes: all but what was changed.
func TestPiecesInCommon(t *testing.T) {
	old, changed := tree(), tree()
	changed[20] = testoci.File("usr/14", "changed")
	large := noise(1, 9<<20)
	changed[4] = testoci.File("usr/large", large[:5<<20]+"some more"+large[5<<20:])
	a, da := written(t, tarOf(t, old...))
	b, db := written(t, tarOf(t, changed...))
	have := map[[16]byte][]byte{}
	for _, p := range piecesOf(t, a, da) {
		have[p.Key] = a[p.Offset : p.Offset+p.Size]
	}
	other := int64(0)
	for _, p := range piecesOf(t, b, db) {
		piece, ok := have[p.Key]
		switch {
		case !ok:
			other += p.Size
		case !bytes.Equal(piece, b[p.Offset:p.Offset+p.Size]):
			t.Errorf("the pieces at %d with the same key differ", p.Offset)
		}
	}
	if other == 0 || other > 5<<20 {
		t.Errorf("%d bytes of %d are not in common", other, len(b))
	}
}

// Whatever a table says, it is bounded, and what is made of it lies within the layer.
func TestHostileTables(t *testing.T) {
	file := func(name string, at, end int64) entry {
		return entry{Type: "reg", Name: name, Size: 10, Digest: digest.FromString(name).String(), Offset: at, EndOffset: end}
	}
	chunk := func(at int64) entry { return entry{Type: "chunk", Offset: at, ChunkSize: 1} }
	many := make([]entry, MaxEntries+1)
	for name, c := range map[string]struct {
		table any
		want  string // empty: it is good
	}{
		"good":                 {[]entry{file("a", 10, 20), file("b", 30, 40)}, ""},
		"nothing":              {[]entry{}, ""},
		"before the last":      {[]entry{file("a", 10, 20), file("b", 5, 40)}, "do not rise"},
		"overlapping":          {[]entry{file("a", 10, 20), file("b", 19, 40)}, "do not rise"},
		"ends before":          {[]entry{file("a", 10, 9)}, "do not rise"},
		"negative":             {[]entry{file("a", -10, 20)}, "do not rise"},
		"negative end":         {[]entry{file("a", 10, -20)}, "do not rise"},
		"behind the layer":     {[]entry{file("a", 10, 1001)}, "within the layer"},
		"far behind it":        {[]entry{file("a", 10, 1<<63-1)}, "within the layer"},
		"chunk of none":        {[]entry{chunk(10)}, "of no file"},
		"chunk before":         {[]entry{file("a", 10, 20), chunk(9)}, "do not rise"},
		"chunk behind":         {[]entry{file("a", 10, 20), chunk(21)}, "do not rise"},
		"too many":             {many, "more than"},
		"no list":              {"x", "should be"},
		"another list":         {json.RawMessage(`[],"entries":[]`), "two lists"},
		"a text of a megabyte": {[]entry{{Name: strings.Repeat("x", maxEntry+1)}}, "too large"},
		"another value":        {json.RawMessage(`[{"offset":"x"}]`), "offset"},
		"cut off":              {json.RawMessage(`[`), "EOF"},
	} {
		text, err := json.Marshal(c.table)
		if raw, ok := c.table.(json.RawMessage); ok {
			text, err = raw, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		text = append([]byte(`{"version":1,"entries":`), text...)
		if name != "cut off" {
			text = append(text, '}')
		}
		err = tableIn(t, text, 1000)
		if c.want == "" && err == nil || c.want != "" && err != nil && strings.Contains(err.Error(), c.want) {
			continue
		}
		t.Errorf("%s: want %q, got %v", name, c.want, err)
	}
	// More text than the annotation says.
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := z.EncodeAll([]byte(`{"entries":[]}`), nil)
	less := Table{Digest: digest.FromBytes(b), Offset: 100, Size: int64(len(b)), Plain: 5}
	if less.Pieces(b, func(Piece) error { return nil }) == nil {
		t.Error("a table of more text than is said was read")
	}
	// A megabyte of zeros in some bytes, and no JSON at all.
	if err := tableIn(t, bytes.Repeat([]byte{' '}, MaxPlain), 1000); err == nil {
		t.Error("blanks without end were taken for a table")
	}
	if err := tableIn(t, []byte(`{"x":[`), 1000); err == nil {
		t.Error("half a document was taken for a table")
	}
}

// tableIn reads a table of a layer of so many bytes, and looks at the pieces.
func tableIn(t *testing.T, text []byte, layer int64) error {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := z.EncodeAll(text, nil)
	table := Table{Digest: digest.FromBytes(b), Offset: layer + frameHeader, Size: int64(len(b)),
		Plain: int64(min(len(text), MaxPlain))}
	at := int64(0)
	err = table.Pieces(b, func(p Piece) error {
		if p.Offset != at || p.Size <= 0 {
			t.Errorf("a piece is at %d of %d bytes, after %d", p.Offset, p.Size, at)
		}
		at += p.Size
		return nil
	})
	if err == nil && at != layer {
		t.Errorf("the pieces have %d bytes together", at)
	}
	other := table
	other.Digest = digest.FromString("other")
	if other.Pieces(b, func(Piece) error { return errors.New("x") }) == nil {
		t.Error("a table with another digest was read")
	}
	return err
}

// Annotations of both spellings are read, and only those that can be true.
func TestTableOf(t *testing.T) {
	sum := digest.FromString("x").String()
	for where, want := range map[string]bool{
		"100:50:900:1": true, "9:50:900:1": true, "100:900:900:1": true, "100:901:900:1": false, "8:50:900:1": false,
		"-100:50:900:1": false, "100:-50:900:1": false, "100:0:0:1": false, "1000:1:1:1": false, "100:50:900:2": false,
		"100:50:0:1": false, "100:50:-1:1": false, "100:50:67108865:1": false, "100:50:x:1": false,
		"100:50:900": false, "100:50:900:1:1": false, "x:50:900:1": false, "": false,
		"9223372036854775807:9223372036854775807:1:1": false, "100:9223372036854775807:1:1": false,
	} {
		for _, p := range []string{prefix, oldPrefix} {
			d := ocispec.Descriptor{Size: 1000, Annotations: map[string]string{p + position: where, p + checksum: sum}}
			if table, ok := TableOf(d); ok != want || ok && table.Begin() <= 0 {
				t.Errorf("%s%s: %t, %+v", p, where, ok, table)
			}
			d.Annotations[p+checksum] = "sha256:x"
			if _, ok := TableOf(d); ok {
				t.Errorf("%s: a table without a digest", where)
			}
		}
	}
	d := ocispec.Descriptor{Size: 1 << 40, Annotations: map[string]string{prefix + position: "100:50:900:1",
		prefix + checksum: sum}}
	if _, ok := TableOf(d); ok {
		t.Error("a table with much behind it")
	}
}

// A tar that is cut off is no layer, and who writes it hears of it.
func TestWriterOfWhatIsNoTar(t *testing.T) {
	b := tarOf(t, testoci.File("f", noise(1, 100_000)))
	for name, in := range map[string][]byte{"cut off": b[:50_000], "text": bytes.Repeat([]byte("text"), 1000)} {
		w, err := NewWriter(io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(in)
		if err = errors.Join(err, w.Close()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What cannot be written ends it.
func TestWriterToAFullDisk(t *testing.T) {
	full := errors.New("full")
	w, err := NewWriter(writerFunc(func([]byte) (int, error) { return 0, full }))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(tarOf(t, testoci.File("f", noise(1, 1_000_000))))
	if err := errors.Join(err, w.Close()); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Headers that the table does not tell in full are told apart by what they are made of.
func TestHeadersDiffer(t *testing.T) {
	of := func(change func(*testoci.Item)) [16]byte {
		f := testoci.File("f", "x")
		f.ModTime, f.Format = time.Unix(1e9, 0), tar.FormatPAX
		change(&f)
		b, d := written(t, tarOf(t, f))
		return piecesOf(t, b, d)[0].Key
	}
	same := of(func(*testoci.Item) {})
	for name, change := range map[string]func(*testoci.Item){
		"mode": func(f *testoci.Item) { f.Mode = 0o600 }, "owner": func(f *testoci.Item) { f.Uid = 5 },
		"time":  func(f *testoci.Item) { f.ModTime = time.Unix(1e9+1, 0) },
		"name":  func(f *testoci.Item) { f.Name = "g" },
		"xattr": func(f *testoci.Item) { f.PAXRecords = map[string]string{paxXattr + "user.x": "y"} },
	} {
		if of(change) == same {
			t.Errorf("headers that differ by the %s have the same key", name)
		}
	}
}

// Whatever a table is, reading it ends, and its pieces lie within the layer, one after the other.
func FuzzPieces(f *testing.F) {
	b, d := written(f, tarOf(f, testoci.File("f", "x"), testoci.Dir("d"), testoci.File("g", noise(1, 1000))))
	table, _ := TableOf(d)
	f.Add(plain(f, b[table.Offset:][:table.Size]))
	f.Add([]byte(`{"version":1,"entries":[{"type":"reg","offset":10,"endOffset":30},{"type":"chunk","offset":20}]}`))
	z, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		b := z.EncodeAll(text, nil)
		at := int64(0)
		table := Table{Digest: digest.FromBytes(b), Offset: 100 + frameHeader, Size: int64(len(b)),
			Plain: int64(min(len(text), MaxPlain))}
		err := table.Pieces(b, func(p Piece) error {
			if p.Offset != at || p.Size <= 0 {
				t.Errorf("a piece is at %d of %d bytes, after %d", p.Offset, p.Size, at)
			}
			at += p.Size
			return nil
		})
		if at > 100 || err == nil && at != 100 {
			t.Errorf("the pieces have %d bytes together", at)
		}
	})
}
