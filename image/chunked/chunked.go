// Package chunked knows layers in zstd:chunked: streams of zstd in which every file, every chunk of a large one and
// every run of headers between them is a frame of its own, with a table of contents behind them. Equal input gives an
// equal frame, so that what two layers have in common is found by their tables.
package chunked

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations of a layer's descriptor tell where its table is: by these prefixes, the newer first.
const (
	prefix    = "io.github.containers.zstd-chunked."
	oldPrefix = "io.containers.zstd-chunked."
	checksum  = "manifest-checksum"
	position  = "manifest-position"
)

// frameHeader is what a skippable frame, such as the table is in, has before its content, in bytes: RFC 8878, 3.1.2.
const frameHeader = 8

// Bounds of a table. A layer whose table has more is one without a table.
const (
	MaxTail    = 16 << 20 // bytes of the layer from the table on, which are held in memory
	MaxPlain   = 64 << 20 // bytes of the table's text
	MaxEntries = 200_000
	maxEntry   = 1 << 20  // bytes of the text of one entry, about
	maxWindow  = 32 << 20 // of the best compression of the library that writes most of them
)

// tableType is the only type of tables that there is.
const tableType = "1"

// Table is where a layer's table of contents is. Nothing of it was verified.
type Table struct {
	Digest digest.Digest // of the compressed table
	Offset int64         // of the compressed table in the layer
	Size   int64         // of the compressed table
	Plain  int64         // of its text, at most
}

// TableOf reads a layer's annotations. ok is false of those of a layer without a table, or with one that is too large
// or not within the layer.
func TableOf(layer ocispec.Descriptor) (t Table, ok bool) {
	for _, p := range []string{prefix, oldPrefix} {
		where := strings.Split(layer.Annotations[p+position], ":")
		t.Digest = digest.Digest(layer.Annotations[p+checksum])
		if len(where) != 4 || where[3] != tableType || t.Digest.Validate() != nil ||
			t.Digest.Algorithm() != digest.SHA256 {
			continue
		}
		var bad, worse, worst error
		t.Offset, bad = strconv.ParseInt(where[0], 10, 64)
		t.Size, worse = strconv.ParseInt(where[1], 10, 64)
		t.Plain, worst = strconv.ParseInt(where[2], 10, 64)
		if errors.Join(bad, worse, worst) == nil && t.Size > 0 && t.Plain > 0 && t.Plain <= MaxPlain &&
			t.Offset > frameHeader &&
			t.Offset <= layer.Size && t.Size <= layer.Size-t.Offset && layer.Size-t.Begin() <= MaxTail {
			return t, true
		}
	}
	return Table{}, false
}

// Begin is where what is behind the frames of files begins.
func (t Table) Begin() int64 { return t.Offset - frameHeader }

// Piece is a frame of a layer, or several. Of two layers of one writer pieces with the same key have the same bytes if
// they have the same size.
type Piece struct {
	Key     [16]byte
	Content bool  // of a file, or a chunk of one; else of headers
	Offset  int64 // in the layer
	Size    int64 // in the layer
}

// Pieces reads a compressed table, which is verified, and tells the pieces of the layer in their order; they cover it
// from its beginning to that of the table. An error of each ends it.
func (t Table) Pieces(compressed []byte, each func(Piece) error) error {
	if got := digest.FromBytes(compressed); got != t.Digest {
		return fmt.Errorf("the table of contents is %s, not %s as the manifest says", got, t.Digest)
	}
	err := t.pieces(compressed, each)
	if err != nil {
		return fmt.Errorf("the table of contents: %w", err)
	}
	return nil
}

func (t Table) pieces(compressed []byte, each func(Piece) error) error {
	z, err := zstd.NewReader(bytes.NewReader(compressed), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return err
	}
	defer z.Close()
	r := &bounded{r: z, left: t.Plain}
	s := splitter{end: t.Begin(), each: each}
	if err := eachEntry(r, func(e *entry) error { r.since = 0; return s.add(e) }); err != nil {
		return err
	}
	return s.finish()
}

// bounded reads at most left bytes, and at most maxEntry until somebody sets since to 0.
type bounded struct {
	r           io.Reader
	left, since int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.left -= int64(n)
	b.since += int64(n)
	if b.left < 0 || b.since > maxEntry {
		return 0, errors.New("it is too large")
	}
	return n, err
}

// entry is one of a table.
type entry struct {
	Type       string            `json:"type"`
	Name       string            `json:"name"`
	Linkname   string            `json:"linkName,omitempty"`
	Mode       int64             `json:"mode,omitempty"`
	Size       int64             `json:"size,omitempty"`
	UID        int64             `json:"uid,omitempty"`
	GID        int64             `json:"gid,omitempty"`
	ModTime    string            `json:"modtime,omitempty"`
	AccessTime string            `json:"accesstime,omitempty"`
	ChangeTime string            `json:"changetime,omitempty"`
	Devmajor   int64             `json:"devMajor,omitempty"`
	Devminor   int64             `json:"devMinor,omitempty"`
	Xattrs     map[string]string `json:"xattrs,omitempty"`
	Digest     string            `json:"digest,omitempty"`
	Offset     int64             `json:"offset,omitempty"`
	EndOffset  int64             `json:"endOffset,omitempty"`
	// Of a chunk: the first is in the file's own entry.
	ChunkSize   int64  `json:"chunkSize,omitempty"`
	ChunkOffset int64  `json:"chunkOffset,omitempty"`
	ChunkDigest string `json:"chunkDigest,omitempty"`
	ChunkType   string `json:"chunkType,omitempty"`
}

const typeChunk = "chunk" // of the file before it, but for its first

// eachEntry reads the entries of a table one by one.
func eachEntry(r io.Reader, each func(*entry) error) error {
	d := json.NewDecoder(r)
	if err := expect(d, '{'); err != nil {
		return err
	}
	found := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if key != "entries" {
			var other json.RawMessage
			if err := d.Decode(&other); err != nil {
				return err
			}
			continue
		}
		if found {
			return errors.New("there are two lists of entries")
		}
		found = true
		if err := entries(d, each); err != nil {
			return err
		}
	}
	if !found {
		return errors.New("it has no entries")
	}
	return expect(d, '}')
}

func entries(d *json.Decoder, each func(*entry) error) error {
	if err := expect(d, '['); err != nil {
		return err
	}
	for n := 0; d.More(); n++ {
		if n == MaxEntries {
			return fmt.Errorf("it has more than %d entries", MaxEntries)
		}
		var e entry
		if err := d.Decode(&e); err != nil {
			return err
		}
		if err := each(&e); err != nil {
			return err
		}
	}
	return expect(d, ']')
}

func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err == nil && got != want {
		err = fmt.Errorf("there is %.40q where %v should be", fmt.Sprint(got), want)
	}
	return err
}

// splitter makes pieces of entries.
type splitter struct {
	end  int64 // of the pieces
	each func(Piece) error

	at      int64  // where the next piece begins
	headers []byte // a hash of those since the last content
	before  int64  // the size of that content, after which there is padding
	file    entry  // whose chunks are being read; without a type it is none
	chunk   entry  // the last of them
}

func (s *splitter) add(e *entry) error {
	if e.Type == typeChunk {
		if s.file.Type == "" {
			return errors.New("a chunk is of no file")
		}
		err := s.content(e.Offset)
		s.chunk = *e
		return err
	}
	if err := s.close(); err != nil {
		return err
	}
	if err := s.header(*e); err != nil || e.EndOffset == 0 {
		return err
	}
	if err := s.gap(e.Offset); err != nil {
		return err
	}
	s.file, s.chunk = *e, *e
	return nil
}

// header takes in what a header is made of.
func (s *splitter) header(e entry) error {
	e.Digest, e.Offset, e.EndOffset = "", 0, 0
	e.ChunkSize, e.ChunkOffset, e.ChunkDigest, e.ChunkType = 0, 0, "", ""
	text, err := json.Marshal(e)
	sum := sha256.Sum256(append(s.headers, text...))
	s.headers = sum[:]
	return err
}

// gap ends a run of headers.
func (s *splitter) gap(end int64) error {
	k := key("headers", string(s.headers), strconv.FormatInt(s.before, 10))
	s.headers, s.before = nil, 0
	return s.piece(Piece{Key: k, Size: end - s.at})
}

// content ends a chunk, or a file of one.
func (s *splitter) content(end int64) error {
	c := s.chunk
	k := key(c.ChunkDigest, strconv.FormatInt(c.ChunkSize, 10))
	switch whole := c.Type != typeChunk && (c.ChunkSize == 0 || c.ChunkSize == c.Size); {
	case whole:
		k = key(c.Digest, strconv.FormatInt(c.Size, 10))
	case c.ChunkDigest == "":
		k = key(s.file.Digest, strconv.FormatInt(c.ChunkOffset, 10), strconv.FormatInt(c.ChunkSize, 10))
	}
	return s.piece(Piece{Key: k, Content: true, Size: end - s.at})
}

// close ends a file.
func (s *splitter) close() error {
	if s.file.Type == "" {
		return nil
	}
	err := s.content(s.file.EndOffset)
	s.before, s.file = s.file.Size, entry{}
	return err
}

func (s *splitter) finish() error {
	if err := s.close(); err != nil {
		return err
	}
	return s.gap(s.end)
}

func (s *splitter) piece(p Piece) error {
	if p.Size < 0 || p.Size > s.end-s.at {
		return errors.New("its offsets do not rise, or are not within the layer")
	}
	if p.Offset = s.at; p.Size == 0 {
		return nil
	}
	s.at += p.Size
	return s.each(p)
}

func key(parts ...string) (k [16]byte) {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	copy(k[:], sum[:])
	return k
}
