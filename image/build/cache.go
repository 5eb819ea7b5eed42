package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/durable"
)

// cache is a directory of what builds made:
//
//	blobs/DIGEST   layers, and what imported images consist of
//	steps/KEY      which layer a step made
//	images/KEY     which blobs an imported file has
//	plain/KEY      which blob is a layer's tar without its compression
//	contexts/KEY   digests of a context's files
//	pools/KEY      name of a ZFS dataset that has files of steps
//	work/          of builds that run
//	mounts/KEY     what RUN --mount=type=cache keeps, in data/
//	lock           held shared by builds, exclusively by Prune
//
// A file appears whole, by rename(2), and is never changed, so that several
// builds can use one cache at once and a crash leaves nothing half.
type cache struct {
	dir     string
	lock    *os.File
	cleanUp CleanUp
}

// cacheVersion is part of every key: it changes with what a step makes.
const cacheVersion = 1

var cacheDirs = []string{"blobs", "steps", "images", "contexts", "plain", "pools", "work", "mounts"}

func openCache(ctx context.Context, dir string) (*cache, error) {
	c, err := lockCache(ctx, dir, syscall.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return c, nil
}

func lockCache(ctx context.Context, dir string, how int) (*cache, error) {
	dir, err := ownDir(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range cacheDirs {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, err
		}
	}
	f, err := lockFile(ctx, filepath.Join(dir, "lock"), how)
	if err != nil {
		return nil, err
	}
	return &cache{dir: dir, lock: f}, nil
}

// ownDir makes a directory, and refuses one that somebody else could change: what
// is in a cache is taken for what builds have made. The path has no links.
func ownDir(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		fi, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		shared := fi.Mode()&0o002 != 0 && (at == dir || fi.Mode()&fs.ModeSticky == 0)
		st, ok := fi.Sys().(*syscall.Stat_t)
		if shared || ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return "", fmt.Errorf("%s can be changed by others (owner %d, mode %04o): give a directory of your own",
				at, st.Uid, fi.Mode().Perm())
		}
		if at == filepath.Dir(at) {
			return dir, nil
		}
	}
}

// lockFile takes a lock that lasts until the file is closed, and waits for it no
// longer than the context lasts.
func lockFile(ctx context.Context, name string, how int) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || how&syscall.LOCK_NB != 0 {
			break
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(20 * time.Millisecond): // flock(2) itself cannot be ended
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// close gives the lock back, and keeps the cache within its bounds if nobody
// else uses it and the build was not cancelled. That this fails is told to warn: a
// build is as good as without it.
func (c *cache) close(ctx context.Context, warn func(format string, a ...any)) error {
	err := syscall.Flock(int(c.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		_, err = c.prune(ctx, DefaultCacheAge, DefaultCacheBytes)
	}
	if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && ctx.Err() == nil { // else a later build does it
		warn("the cache is not pruned: %v", err)
	}
	return c.lock.Close()
}

func (c *cache) workDir() string { return filepath.Join(c.dir, "work") }

func (c *cache) blob(d digest.Digest) string { return filepath.Join(c.dir, "blobs", d.Encoded()) }

func (c *cache) openBlob(d digest.Digest) (*os.File, error) { return os.Open(c.blob(d)) }

func (c *cache) contextFile(dir string) string {
	return filepath.Join(c.dir, "contexts", keyOf(dir))
}

// keyOf is a digest of values that JSON can write.
func keyOf(v ...any) string {
	sum := sha256.New()
	enc := json.NewEncoder(sum)
	for _, x := range append([]any{cacheVersion}, v...) {
		if err := enc.Encode(x); err != nil {
			panic(err) // of a type that is no value
		}
		notText(sum, reflect.ValueOf(x))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// notText writes those strings of a value that JSON does not tell apart, as they are not UTF-8: a file may have such a
// name.
func notText(w io.Writer, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if !utf8.ValidString(v.String()) {
			fmt.Fprintf(w, "%q", v.String())
		}
	case reflect.Pointer, reflect.Interface:
		notText(w, v.Elem()) // of nil it has no kind
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			notText(w, v.Index(i))
		}
	case reflect.Map:
		var each []string
		for k, e := range v.Seq2() {
			var b strings.Builder
			notText(&b, e)
			if key := fmt.Sprint(k); b.Len() > 0 || !utf8.ValidString(key) {
				each = append(each, fmt.Sprintf("%q: %s", key, &b))
			}
		}
		slices.Sort(each)
		fmt.Fprint(w, strings.Join(each, ", "))
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				notText(w, v.Field(i))
			}
		}
	}
}

// record reads a small file of the cache and makes it the last used one. False
// is that there is none, or none that can be read.
func (c *cache) record(dir, key string, v any) bool {
	file := filepath.Join(c.dir, dir, key)
	b, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(b, v) != nil {
		return false
	}
	now := time.Now()
	_ = os.Chtimes(file, now, now) // at worst it is pruned too early
	return true
}

func (c *cache) keepRecord(dir, key string, v any) error {
	return durable.Replace(filepath.Join(c.dir, dir, key), 0o600,
		func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
}

// has tells whether a blob is there, as far as its size tells.
func (c *cache) has(d ocispec.Descriptor) bool {
	fi, err := os.Stat(c.blob(d.Digest))
	return d.Digest.Validate() == nil && err == nil && fi.Size() == d.Size
}

// keepBlob takes a blob of a store into the cache.
func (c *cache) keepBlob(ctx context.Context, s *layout.Store, d ocispec.Descriptor) error {
	if c.has(d) {
		return nil
	}
	return s.CopyBlob(ctx, d, c.blob(d.Digest))
}

// stepRecord is what a step made: a layer, or none.
type stepRecord struct {
	Layer  *ocispec.Descriptor
	DiffID digest.Digest
}

// stepKey names a step and all that its layer depends on: the files before it,
// the platform, the image's time, and what the step itself tells.
func (b *work) stepKey(ctx context.Context, s step) (string, error) {
	own, err := s.key(ctx, b)
	if err != nil || b.cache == nil {
		return "", err
	}
	return b.opts.keyOfLayer("step", fmt.Sprintf("%T", s), b.config.RootFS.DiffIDs, b.config.Platform, b.epoch.Unix(),
		own), nil
}

// cached takes a step's layer from the cache, if it is there.
func (b *work) cached(ctx context.Context, key string) (bool, error) {
	var r stepRecord
	if b.cache == nil || !b.cache.record("steps", key, &r) || r.Layer != nil &&
		(!b.cache.has(*r.Layer) || r.DiffID.Validate() != nil) {
		return false, nil
	}
	if r.Layer == nil {
		return true, nil
	}
	if err := b.store.AddFile(ctx, b.cache.blob(r.Layer.Digest), *r.Layer); err != nil {
		return false, err
	}
	b.layers = append(b.layers, *r.Layer)
	b.config.RootFS.DiffIDs = append(b.config.RootFS.DiffIDs, r.DiffID)
	return true, nil
}

// keepStep remembers what a step made since there were so many layers.
func (b *work) keepStep(ctx context.Context, key string, before int) error {
	if b.cache == nil {
		return nil
	}
	var r stepRecord
	if len(b.layers) > before {
		r.Layer, r.DiffID = &b.layers[before], b.config.RootFS.DiffIDs[before]
		if err := b.cache.keepBlob(ctx, b.store, *r.Layer); err != nil {
			return fmt.Errorf("cache: %w", err)
		}
	}
	if err := b.cache.keepRecord("steps", key, r); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}

// importKey names an archive by its file, and a layout by its index, which it
// gives too; empty is for what cannot be told from what it will be next.
func (c *cache) importKey(in *layout.Input, wanted ocispec.Platform) (key string, index []byte) {
	if c == nil {
		return "", nil
	}
	fi := in.Info()
	if fi.IsDir() {
		index, err := in.Index()
		if err != nil {
			return "", nil // the import tells why
		}
		return keyOf("layout", string(index), wanted), index
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || time.Since(changeTime(st)) < settled || time.Since(fi.ModTime()) < settled {
		return "", nil
	}
	return keyOf("archive", uint64(st.Dev), st.Ino, fi.Size(), fi.ModTime().UnixNano(), changeTime(st).UnixNano(),
		wanted), nil
}

// keepPool remembers a dataset, so that pruning looks after it.
func (c *cache) keepPool(name string) error {
	if c == nil {
		return nil
	}
	return c.keepRecord("pools", keyOf(name), name)
}

// imageRecord has the blobs of an image: manifest, config, layers.
type imageRecord struct{ Blobs []ocispec.Descriptor }

// image brings an image that was imported before into a store; nil is that the
// cache has none.
func (c *cache) image(ctx context.Context, s *layout.Store, key, name string) (*image.Image, error) {
	var r imageRecord
	if key == "" || !c.record("images", key, &r) || len(r.Blobs) < 2 {
		return nil, nil
	}
	for _, d := range r.Blobs {
		if !c.has(d) {
			return nil, nil
		}
	}
	for _, d := range r.Blobs {
		if err := s.AddFile(ctx, c.blob(d.Digest), d); err != nil {
			return nil, err
		}
	}
	return s.Adopt(name, r.Blobs[0])
}

func (c *cache) keepImage(ctx context.Context, s *layout.Store, key, name string) error {
	if key == "" {
		return nil
	}
	blobs, err := s.BlobsOf(name)
	for _, d := range blobs {
		if err == nil {
			err = c.keepBlob(ctx, s, d)
		}
	}
	if err == nil {
		err = c.keepRecord("images", key, imageRecord{blobs})
	}
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}
