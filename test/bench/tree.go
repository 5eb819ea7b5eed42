package main

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"time"
)

// The tree is like a FreeBSD base system: many small files, some large ones,
// and content that gzip makes 2.5 times smaller, as it does programs.
const (
	treeFiles   = 7000
	treeFolders = 400
	treeBytes   = 250e6
	medianSize  = 4 << 10
	sizeSpread  = 1.9      // sigma of the logarithm of the sizes
	maxFileSize = 24 << 20 // before all are made to fit treeBytes
	codeWords   = 1 << 14
)

// baseTree writes the tree as a tar archive, the same at every call.
func baseTree(w io.Writer) error {
	tw := tar.NewWriter(w)
	random := rand.New(rand.NewChaCha8([32]byte{1}))
	sizes := fileSizes(random)
	code := newCode(random)
	at := time.Unix(1_700_000_000, 0)
	name := func(d int) string { return fmt.Sprintf("usr/d%d/d%d", d%20, d) }
	for d := range 20 {
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/d%d/", d), Typeflag: tar.TypeDir, Mode: 0o755,
			ModTime: at}); err != nil {
			return err
		}
	}
	for i, size := range sizes {
		d := i * treeFolders / treeFiles
		if i*treeFolders%treeFiles < treeFolders {
			if err := tw.WriteHeader(&tar.Header{Name: name(d) + "/", Typeflag: tar.TypeDir, Mode: 0o755,
				ModTime: at}); err != nil {
				return err
			}
		}
		h := &tar.Header{Name: fmt.Sprintf("%s/f%d", name(d), i), Mode: 0o644 | int64(i%3/2)*0o111, Size: int64(size),
			ModTime: at, Uid: i % 50 / 49 * 65534}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(code.next(size)); err != nil {
			return err
		}
		if i%20 == 0 {
			link := &tar.Header{Name: fmt.Sprintf("%s/l%d", name(d), i), Typeflag: tar.TypeSymlink,
				Linkname: fmt.Sprintf("f%d", i), Mode: 0o777, ModTime: at}
			if i%40 == 0 {
				link.Typeflag, link.Linkname, link.Mode = tar.TypeLink, h.Name, h.Mode
			}
			if err := tw.WriteHeader(link); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}

// fileSizes are of a log-normal distribution.
func fileSizes(random *rand.Rand) []int {
	sizes, sum := make([]int, treeFiles), 0.0
	for i := range sizes {
		s := min(medianSize*math.Exp(random.NormFloat64()*sizeSpread), maxFileSize)
		sizes[i] = int(s)
		sum += s
	}
	for i := range sizes {
		sizes[i] = int(float64(sizes[i]) * treeBytes / sum)
	}
	return sizes
}

// code makes content that is to a compressor what machine code is: words of
// which some are much more frequent than others, with numbers between them, and
// repeated pieces.
type code struct {
	random *rand.Rand
	words  [][]byte
	pick   *rand.Zipf
	buf    []byte
}

func newCode(random *rand.Rand) *code {
	c := &code{random: random, pick: rand.NewZipf(random, 1.2, 4, codeWords-1)}
	for range codeWords {
		w := make([]byte, 3+random.IntN(12))
		for i := range w {
			w[i] = byte(random.Uint32())
		}
		c.words = append(c.words, w)
	}
	return c
}

// next is valid until the next call.
func (c *code) next(size int) []byte {
	c.buf = c.buf[:0]
	for len(c.buf) < size {
		c.buf = append(c.buf, c.words[c.pick.Uint64()]...)
		switch n := c.random.Uint64(); n % 16 {
		case 0, 1, 2, 3:
			c.buf = append(c.buf, byte(n>>32))
		case 4:
			c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(n>>32))
		case 5:
			c.buf = append(c.buf, 0, 0, 0, 0, 0, 0)
		case 6:
			if back := len(c.buf) - int(n>>32%30000); back >= 0 {
				c.buf = append(c.buf, c.buf[back:min(back+16+int(n>>8%64), len(c.buf))]...)
			}
		}
	}
	return c.buf[:size]
}
