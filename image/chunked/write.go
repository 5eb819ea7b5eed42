package chunked

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Writer compresses a tar to zstd:chunked. Equal tars give equal bytes, as long as the version of the compressor in
// go.mod is the same.
type Writer struct {
	in   *bufio.Writer // to the pipe
	pipe *io.PipeWriter
	over chan struct{}
	err  error
	s    *writing
}

// NewWriter writes to w. Close must be called.
func NewWriter(w io.Writer) (*Writer, error) {
	s, err := newWriting(w)
	if err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	out := &Writer{in: bufio.NewWriterSize(pw, pipeSize), pipe: pw, over: make(chan struct{}), s: s}
	go func() {
		defer close(out.over)
		out.err = s.layer(bufio.NewReaderSize(pr, pipeSize))
		pr.CloseWithError(out.err) // never fails: see its documentation
	}()
	return out, nil
}

// pipeSize is how many bytes go from one goroutine to the other at once.
const pipeSize = 1 << 18

// Write takes more of the tar.
func (w *Writer) Write(b []byte) (int, error) { return w.in.Write(b) }

// Close writes the table; the tar must be complete.
func (w *Writer) Close() error {
	err := w.in.Flush()
	w.pipe.Close() // never fails: see its documentation
	<-w.over
	if w.err != nil { // which is why
		return w.err
	}
	return err
}

// Annotations are those of the layer's descriptor, after Close.
func (w *Writer) Annotations() map[string]string { return maps.Clone(w.s.annotations) }

// How files are cut. A change of these gives other layers.
const (
	level       = zstd.SpeedDefault
	maxHeaders  = 1 << 20 // bytes of headers in a frame, about
	smallChunk  = 256 << 10
	largeChunk  = 4 << 20
	chunkMask   = 1<<20 - 1 // a chunk ends where these bits of the sum of what is before are 0
	tarSplitKey = prefix + "tarsplit-position"
)

// gear spreads the bytes of a file over the bits of a sum.
var gear = func() (g [256]uint64) {
	for i := range g {
		sum := sha256.Sum256([]byte{byte(i)})
		g[i] = binary.BigEndian.Uint64(sum[:])
	}
	return g
}()

// writing is a layer that is written.
type writing struct {
	out         io.Writer
	at          int64
	z           *zstd.Encoder
	head        bytes.Buffer // headers and padding that are not written yet
	marked      int          // of those, what the split has
	record      bool         // what is read of the tar is of that
	chunk       []byte
	toc, split  *part
	position    int  // in the split
	some        bool // there is an entry in the table
	annotations map[string]string
}

// part is a document that is compressed as it is written.
type part struct {
	compressed bytes.Buffer
	z          *zstd.Encoder
	size       int64
}

func newPart() (*part, error) {
	p := &part{}
	z, err := encoder(&p.compressed)
	p.z = z
	return p, err
}

func (p *part) Write(b []byte) (int, error) {
	p.size += int64(len(b))
	return p.z.Write(b)
}

func encoder(w io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
		zstd.WithAllLitEntropyCompression(true)) // files that repeat nothing are smaller too
}

func newWriting(w io.Writer) (*writing, error) {
	z, bad := encoder(nil)
	toc, worse := newPart()
	split, worst := newPart()
	return &writing{out: w, z: z, toc: toc, split: split, record: true}, errors.Join(bad, worse, worst)
}

func (s *writing) layer(tarred io.Reader) error {
	raw := io.TeeReader(tarred, recorder{s})
	tr := tar.NewReader(raw)
	if _, err := io.WriteString(s.toc, `{"version":1,"entries":[`); err != nil {
		return err
	}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		if err := s.member(h, tr); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, raw); err != nil { // what is behind its end
		return err
	}
	return errors.Join(s.segment(), s.headers(), s.finish())
}

type recorder struct{ s *writing }

func (r recorder) Write(b []byte) (int, error) {
	if r.s.record {
		return r.s.head.Write(b)
	}
	return len(b), nil
}

// member writes one of the tar, whose header was read.
func (s *writing) member(h *tar.Header, r io.Reader) error {
	err := s.segment()
	e, known := entryOf(h)
	if err != nil || !known {
		return err
	}
	sum := crc64.New(crc64.MakeTable(crc64.ISO))
	switch {
	case sparse(h):
		return fmt.Errorf("%s: a sparse file is not supported", h.Name)
	case h.Typeflag == tar.TypeReg && h.Size > 0:
		if err := s.headers(); err != nil {
			return err
		}
		s.record = false
		entries, err := s.file(e, io.TeeReader(r, sum))
		s.record = true
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if err := s.entries(entries...); err != nil {
			return err
		}
	case s.head.Len() >= maxHeaders:
		err = s.headers()
		fallthrough
	default:
		if err = errors.Join(err, s.entries(e)); err != nil {
			return err
		}
	}
	note := splitEntry{Type: splitFile, Name: h.Name, Size: h.Size}
	if h.Size > 0 {
		note.Payload = sum.Sum(nil)
	}
	return s.note(note)
}

func sparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// file cuts a file into chunks, the same wherever in it they are, and gives its entries.
func (s *writing) file(e entry, r io.Reader) (out []entry, err error) {
	e.Offset = s.at
	whole, done := sha256.New(), int64(0)
	out = append(out, e)
	for s.chunk = s.chunk[:0]; done < e.Size; {
		n, err := s.nextChunk(r, e.Size-done)
		if err != nil {
			return nil, err
		}
		now := s.chunk[:n]
		whole.Write(now)
		if done > 0 {
			out = append(out, entry{Type: typeChunk, Name: e.Name, Offset: s.at, ChunkOffset: done})
		}
		last := &out[len(out)-1]
		last.ChunkSize, last.ChunkDigest = int64(n), digest.FromBytes(now).String()
		if err := s.frame(now); err != nil {
			return nil, err
		}
		done += int64(n)
		s.chunk = append(s.chunk[:0], s.chunk[n:]...)
	}
	out[0].Digest, out[0].EndOffset = digest.NewDigest(digest.SHA256, whole).String(), s.at
	if len(out) == 1 {
		out[0].ChunkSize, out[0].ChunkDigest = 0, ""
	}
	return out, nil
}

// nextChunk has the next chunk of a file be the first bytes of s.chunk, of which left are still to come in all.
func (s *writing) nextChunk(r io.Reader, left int64) (n int, err error) {
	for sum := uint64(0); ; n++ {
		if n == len(s.chunk) {
			if int64(n) == left || n == largeChunk {
				return n, nil
			}
			more := int(min(left, largeChunk, int64(n+1<<16)))
			s.chunk = slices.Grow(s.chunk, more-n)[:more]
			if _, err := io.ReadFull(r, s.chunk[n:]); err != nil {
				return 0, err
			}
		}
		if sum = sum<<1 + gear[s.chunk[n]]; n >= smallChunk && sum>>44&chunkMask == 0 {
			return n, nil
		}
	}
}

// segment tells the split of what was read of headers.
func (s *writing) segment() error {
	b := s.head.Bytes()[s.marked:]
	if s.marked = s.head.Len(); len(b) == 0 {
		return nil
	}
	return s.note(splitEntry{Type: splitSegment, Payload: b})
}

// headers writes those that are not written yet.
func (s *writing) headers() error {
	for b := s.head.Bytes(); len(b) > 0; {
		n := min(len(b), maxHeaders)
		if err := s.frame(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	s.head.Reset()
	s.marked = 0
	return nil
}

func (s *writing) frame(b []byte) error { return s.write(s.z.EncodeAll(b, nil)) }

func (s *writing) write(b []byte) error {
	n, err := s.out.Write(b)
	s.at += int64(n)
	return err
}

// entries puts some into the table.
func (s *writing) entries(list ...entry) error {
	for _, e := range list {
		b, err := json.Marshal(e)
		if err == nil && s.some {
			b = append([]byte(","), b...)
		}
		s.some = true
		if _, werr := s.toc.Write(b); err != nil || werr != nil {
			return errors.Join(err, werr)
		}
	}
	return nil
}

// splitEntry is of a tar-split: what is needed beside the files to make the tar again.
type splitEntry struct {
	Type     int    `json:"type"`
	Name     string `json:"name,omitempty"`
	Size     int64  `json:"size,omitempty"`
	Payload  []byte `json:"payload"` // a segment of the tar, or the CRC-64 of a file
	Position int    `json:"position"`
}

const (
	splitFile    = 1
	splitSegment = 2
)

func (s *writing) note(e splitEntry) error {
	e.Position = s.position
	s.position++
	return json.NewEncoder(s.split).Encode(e)
}

// finish writes what is behind the files: the table, the split and where they are.
func (s *writing) finish() error {
	err := s.split.z.Close()
	split := s.split.compressed.Bytes()
	_, werr := fmt.Fprintf(s.toc, `],"tarSplitDigest":"%s"}`, digest.FromBytes(split))
	if err = errors.Join(err, werr, s.toc.z.Close()); err != nil {
		return err
	}
	table := s.toc.compressed.Bytes()
	if n := frameHeader*3 + len(table) + len(split) + len(footerMagic); n > MaxTail {
		s.annotations = nil // it is zstd all the same
		return nil
	}
	at, splitAt := s.at+frameHeader, s.at+2*frameHeader+int64(len(table))
	s.annotations = map[string]string{
		prefix + checksum: digest.FromBytes(table).String(),
		prefix + position: fmt.Sprintf("%d:%d:%d:%s", at, len(table), s.toc.size, tableType),
		tarSplitKey:       fmt.Sprintf("%d:%d:%d", splitAt, len(split), s.split.size),
	}
	var footer []byte
	for _, n := range []int64{at, int64(len(table)), s.toc.size, 1, splitAt, int64(len(split)), s.split.size} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(n))
	}
	return errors.Join(s.skippable(table), s.skippable(split), s.skippable(append(footer, footerMagic...)))
}

const footerMagic = "GNUlInUx"

// skippable writes what decoders pass over: RFC 8878, 3.1.2.
func (s *writing) skippable(b []byte) error {
	head := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(len(b)))
	return s.write(append(head, b...))
}

var typeNames = map[byte]string{tar.TypeReg: "reg", tar.TypeLink: "hardlink", tar.TypeChar: "char",
	tar.TypeBlock: "block", tar.TypeDir: "dir", tar.TypeFifo: "fifo", tar.TypeSymlink: "symlink"}

const paxXattr = "SCHILY.xattr."

func entryOf(h *tar.Header) (e entry, known bool) {
	kind, known := typeNames[h.Typeflag]
	e = entry{Type: kind, Name: h.Name, Linkname: h.Linkname, Mode: h.Mode, Size: h.Size, UID: int64(h.Uid),
		GID: int64(h.Gid), Devmajor: h.Devmajor, Devminor: h.Devminor, ModTime: stamp(h.ModTime),
		AccessTime: stamp(h.AccessTime), ChangeTime: stamp(h.ChangeTime)}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxXattr); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = base64.StdEncoding.EncodeToString([]byte(v))
		}
	}
	return e, known
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
