package nfsroot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"strings"
	"syscall"

	"github.com/freejail/freejail/internal/strictjson"
)

// readChunk is how much of a file is asked for at once.
const readChunk = 1 << 16

// reader reads whole small files of a server. Its calls end with the context's
// deadline, since no kernel's mount is between.
type reader interface {
	readFile(name string, limit int) ([]byte, error)
	close()
}

// Source is an image as a server offers it.
type Source struct {
	Server Server
	Addr   net.IP // the address that answered
	Digest string
	// Name is what the server calls the image; empty if it has no name there.
	Name             string
	Manifest, Config []byte
}

// ErrNotExported means that a server answers and does not have the image.
var ErrNotExported = errors.New("the image is not exported by the server")

// Find asks the servers in their order for an image: by its name, its digest,
// or both as name@digest. The manifest is verified by the digest, and the
// config by the manifest. The time is bounded by the options' for each server.
func Find(ctx context.Context, servers []Server, name, digest string, o Options) (*Source, error) {
	var errs []error
	for _, s := range servers {
		src, err := s.find(ctx, name, digest, o)
		if err == nil {
			return src, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", s, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (s Server) find(ctx context.Context, name, digest string, o Options) (*Source, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	r, ip, err := s.open(ctx, o)
	if err != nil {
		return nil, s.explain(ctx, o, err)
	}
	defer r.close()
	src := &Source{Server: s, Addr: ip, Digest: digest}
	if err := src.read(r, name); err != nil {
		return nil, s.explain(ctx, o, err)
	}
	return src, nil
}

// read takes the index's word for names: who may say what a root holds may say
// what it is called.
func (src *Source) read(r reader, name string) error {
	var x index
	b, err := r.readFile(path.Join(src.Server.Path, indexFile), maxMeta)
	if err == nil {
		err = strictjson.Unmarshal(b, &x, metaRules)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", indexFile, err)
	}
	if src.Digest == "" {
		if src.Digest = x.digestOf(name); src.Digest == "" {
			return fmt.Errorf("%w: %q", ErrNotExported, name)
		}
	} else if has := x.digestOf(name); name != "" && has != src.Digest {
		if has == "" {
			has = "no image"
		}
		return fmt.Errorf("%w: there %q is %s, not %s", ErrNotExported, name, has, src.Digest)
	}
	src.Name = x.nameOf(src.Digest)
	if name != "" {
		src.Name = name
	}
	dir, err := dirName(src.Digest)
	if err != nil {
		return err
	}
	if src.Manifest, err = readVerified(r, path.Join(src.Server.Path, dir, manifestFile), src.Digest); err != nil {
		// Of version 3's mountd some refuse what is not there.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w: %s", ErrNotExported, src.Digest)
		}
		return err
	}
	var m struct {
		Config struct {
			Digest string `json:"digest"`
		} `json:"config"`
	}
	if err := strictjson.Unmarshal(src.Manifest, &m, metaRules); err != nil {
		return fmt.Errorf("image manifest %s: %w", src.Digest, err)
	}
	src.Config, err = readVerified(r, path.Join(src.Server.Path, dir, configFile), m.Config.Digest)
	return err
}

func readVerified(r reader, name, digest string) ([]byte, error) {
	b, err := r.readFile(name, maxDescription)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path.Base(name), err)
	}
	sum := sha256.Sum256(b)
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != digest {
		return nil, fmt.Errorf("%s has another content than %s: its digest is %s", path.Base(name), digest, got)
	}
	return b, nil
}

// open connects to the first of a server's addresses that answers.
func (s Server) open(ctx context.Context, o Options) (reader, net.IP, error) {
	ips, err := s.resolve(ctx)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, ip := range ips {
		var r reader
		if o.Version == 3 {
			r, err = openV3(ctx, ip, s)
		} else {
			r, err = openV4(ctx, ip, s, o)
		}
		if err == nil {
			return r, ip, nil
		}
		errs = append(errs, err)
	}
	return nil, nil, errors.Join(errs...)
}

// Ping makes sure that a server answers, as far as it needs no mount to tell.
func (s Server) Ping(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	r, _, err := s.open(ctx, o)
	if err == nil {
		_, err = r.readFile(path.Join(s.Path, indexFile), maxMeta)
		r.close()
	}
	if err != nil {
		return s.explain(ctx, o, err)
	}
	return nil
}

// ErrAway means that a server did not answer in time, or cannot be reached.
var ErrAway = errors.New("the server does not answer")

func (s Server) explain(ctx context.Context, o Options, err error) error {
	var network net.Error
	switch {
	case ctx.Err() != nil || errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("%w within %s", ErrAway, o.Timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nothing listens on its port %d", ErrAway, s.Port)
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTDOWN):
		return fmt.Errorf("%w: %v", ErrAway, err)
	}
	return err
}

// names are the elements of an absolute path.
func names(p string) []string { return strings.Split(strings.Trim(path.Clean(p), "/"), "/") }
