// Package mirror gives images of this host's store to other hosts, as a mirror of the registries that they came from:
// by their digests alone, and only those that the host's configuration names.
//
// There are two processes. One, as root, opens the blobs that may be given. The other has no rights, answers whoever
// asks, and gets descriptors from the first: nothing else of the host.
package mirror

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/regular"
)

// question is for one blob, as a client has named it.
type question struct {
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	Manifest   bool          `json:"manifest"`
}

// reply goes with a descriptor where Found.
type reply struct {
	Found bool   `json:"found"`
	Type  string `json:"type,omitempty"` // of a manifest
	Size  int64  `json:"size"`
	Error string `json:"error,omitempty"`
}

// known is what the store has of a blob.
type known struct {
	mediaType string // of a manifest; else empty
	size      int64
}

// share is what of a store may be given.
type share struct {
	dir  string
	fits func(name string) bool

	layout *layout.Layout
	id     regular.ID // of the index that was read last
	blobs  map[string]map[digest.Digest]known
}

// refresh reads the store's index where it has changed. A store that is not there yet has nothing.
func (s *share) refresh() error {
	index := filepath.Join(s.dir, "index.json")
	fi, err := os.Stat(index)
	if errors.Is(err, fs.ErrNotExist) {
		s.blobs, s.id = nil, regular.ID{}
		return nil
	}
	if err != nil {
		return err
	}
	id := regular.IDOf(index, fi)
	if id == s.id {
		return nil
	}
	l, err := layout.Open(s.dir) // which may be another directory than before
	if err != nil {
		return err
	}
	if err := s.close(); err != nil {
		return errors.Join(err, l.Close())
	}
	s.layout = l
	list, err := l.Shared(s.fits)
	if err != nil {
		return err
	}
	s.blobs = map[string]map[digest.Digest]known{}
	for _, img := range list {
		ref, err := registry.ParseReference(img.Name)
		if err != nil {
			continue // it fits nothing
		}
		for _, repository := range []string{ref.Repository, ref.Identity()} {
			all := s.blobs[repository]
			if all == nil {
				all = map[digest.Digest]known{}
				s.blobs[repository] = all
			}
			for _, b := range img.Blobs {
				all[b.Digest] = known{size: b.Size}
			}
			all[img.Manifest.Digest] = known{img.Manifest.MediaType, img.Manifest.Size}
		}
	}
	s.id = id
	return nil
}

// open opens what was asked for, if it is there and may be given. The file is nil where not. What the file has is not
// verified: who gets it does.
func (s *share) open(q question) (*os.File, reply) {
	if err := s.refresh(); err != nil {
		return nil, reply{Error: err.Error()}
	}
	b, ok := s.blobs[q.Repository][q.Digest]
	if !ok || q.Manifest != (b.mediaType != "") {
		return nil, reply{}
	}
	f, err := s.layout.OpenBlob(q.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, reply{}
	}
	if err != nil {
		return nil, reply{Error: err.Error()}
	}
	fi, err := f.Stat()
	if err != nil || fi.Size() != b.size {
		return nil, reply{Error: errors.Join(err, f.Close(), errors.New("the blob "+q.Digest.String()+
			" has not the size that its manifest says: `freejail images rm` its image, and pull it again")).Error()}
	}
	return f, reply{Found: true, Type: b.mediaType, Size: b.size}
}

// close lets go of the store.
func (s *share) close() error {
	if s.layout == nil {
		return nil
	}
	return s.layout.Close()
}
