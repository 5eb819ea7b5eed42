package build

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// cachedBuild is a context that is built again and again with one cache.
type cachedBuild struct {
	*testing.T
	dir, cache string
	options    Options
	said       []string
}

func newCachedBuild(t *testing.T, context files) *cachedBuild {
	c := &cachedBuild{T: t, dir: t.TempDir(), cache: t.TempDir()}
	context.write(t, c.dir)
	return c
}

// build gives the image and which lines came from the cache.
func (c *cachedBuild) build(lines string) (img *image.Image, hits []int) {
	c.Helper()
	check(c, os.WriteFile(filepath.Join(c.dir, "Jailfile"), []byte(lines), 0o644))
	o := c.options
	o.Context, o.Output, o.Cache, c.said = c.dir, filepath.Join(c.TempDir(), "image.tar"), c.cache, nil
	if o.Platform.OS == "" {
		o.Platform = freebsd
	}
	o.Progress = func(text string) {
		c.said = append(c.said, text)
		var line int
		if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 && strings.HasSuffix(text, "(cached)") {
			hits = append(hits, line)
		}
	}
	img, err := Build(c.Context(), o)
	check(c, err)
	if left, err := os.ReadDir(filepath.Join(c.cache, "work")); err != nil || len(left) > 0 {
		c.Errorf("the build left %v: %v", left, err)
	}
	return img, hits
}

// try builds and wants the lines that came from the cache, and the same image
// as without a cache.
func (c *cachedBuild) want(lines string, want ...int) {
	c.Helper()
	img, hits := c.build(lines)
	if !slices.Equal(hits, want) {
		c.Errorf("lines %d came from the cache, want %d:\n%s", hits, want, strings.Join(c.said, "\n"))
	}
	o := c.options
	o.Context, o.Output = c.dir, filepath.Join(c.TempDir(), "image.tar")
	if o.Platform.OS == "" {
		o.Platform = freebsd
	}
	plain, err := Build(c.Context(), o)
	check(c, err)
	if plain.Digest != img.Digest {
		c.Errorf("with the cache the image is %s, without it %s", img.Digest, plain.Digest)
	}
}

const cacheFile = "FROM scratch\nCOPY a /a/\nADD x.tar /opt/\nWORKDIR /w\nCOPY b .\n"

func cacheFiles(t *testing.T) files {
	return files{"a/f": "1", "a/g": "#!2", "b": "3", "x.tar": tarOf(t, someTar...)}
}

func TestCache(t *testing.T) {
	c := newCachedBuild(t, cacheFiles(t))
	c.want(cacheFile)
	c.want(cacheFile, 2, 3, 4, 5)
	// What only describes the image does not touch its files.
	c.want("FROM scratch\nCOPY a /a/\nADD x.tar /opt/\nENV A=b\nWORKDIR /w\nCOPY b .\nPORT http 80\n", 2, 3, 5, 6)
	c.want("FROM scratch\nCOPY a /a/\nADD x.tar /opt/\nWORKDIR /v\nCOPY b .\n", 2, 3)
	c.want("FROM scratch\nCOPY --chmod=0600 a /a/\nADD x.tar /opt/\n")
}

// A layer of files that are the same is not made again because of what was before it. What it has does depend on that
// where files of the same name go elsewhere, or have other owners.
func TestCacheOfCopies(t *testing.T) {
	linked := tarOf(t, tar.Header{Name: "l/one", Linkname: "text"}, tar.Header{Name: "l/two", Typeflag: tar.TypeLink,
		Linkname: "l/one"}, tar.Header{Name: "l/three", Typeflag: tar.TypeSymlink, Linkname: "one"})
	c := newCachedBuild(t, files{"first": "1", "d/f": "2", "d/g": "#!3", "d/h": "-> g", "links.tar": linked,
		"passwd": "u:*:5:6::/:/bin/sh\n"})
	const lines = `FROM scratch AS linked
ADD links.tar /
FROM scratch AS other
COPY first /first
COPY --from=linked /l /l/
COPY passwd /etc/passwd
COPY --chown=u d /d
FROM scratch
COPY --from=other /l/two /l/one /m/
COPY --from=other /d /d/
COPY --from=other /etc /etc
COPY --chown=u d /e
`
	made := func(want int) {
		t.Helper()
		n := 0
		for _, text := range c.said {
			if strings.Contains(text, "has made the same layer") {
				n++
			}
		}
		if n != want {
			t.Errorf("%d layers were of an earlier build, want %d:\n%s", n, want, strings.Join(c.said, "\n"))
		}
	}
	change := func(name, text string) { check(t, os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o644)) }
	c.want(lines)
	made(0)
	change("first", "another")
	c.want(lines, 2, 12)
	made(2)
	change("passwd", "u:*:7:8::/:/bin/sh\n")
	c.want(lines, 2, 4, 5)
	made(0)
	change("first", "a third")
	c.want(lines, 2, 12)
	made(2)
	c.options.Epoch = time.Unix(1e9, 0)
	c.want(lines)
	made(0)

	c = newCachedBuild(t, files{"d/f": "1"})
	c.want("FROM scratch\nWORKDIR /a/d\nCOPY d /a/\n")
	made(0)
	c.want("FROM scratch\nWORKDIR /b\nCOPY d /a/\n")
	made(0)
	c.want("FROM scratch\nWORKDIR /a\nWORKDIR /b\nCOPY d /a/\n")
	made(1)
	check(t, os.Symlink("/b", filepath.Join(c.dir, "link")))
	c.want("FROM scratch\nWORKDIR /b\nCOPY . /\nCOPY d /link/\n", 2)
	made(0)
	c.want("FROM scratch\nWORKDIR /b\nCOPY d /b/\n", 2)
	made(1)
}

// Names and texts that are no UTF-8 are told apart as all others are.
func TestCacheOfWhatIsNoText(t *testing.T) {
	c := newCachedBuild(t, files{"d/f": "1"})
	for _, x := range []string{"\xff", "\xfe", "\xff\xfe"} {
		name := filepath.Join(c.dir, "d", "name"+x)
		if err := os.WriteFile(name, nil, 0o644); err != nil { // some file systems have only UTF-8
			t.Skip(err)
		}
		c.want("FROM scratch\nCOPY d /d/\n")
		check(t, os.Remove(name))
		check(t, os.Symlink(x, filepath.Join(c.dir, "d", "link")))
		c.want("FROM scratch\nCOPY d /d/\n")
		check(t, os.Remove(filepath.Join(c.dir, "d", "link")))
		c.want("FROM scratch\nCOPY d/f /" + x + "\nCOPY <<END /text\n" + x + "\nEND\n")
	}
	type values struct {
		Map   map[string]any
		Slice []string
		At    *values
	}
	same := map[string]any{}
	for _, v := range []any{
		values{Map: map[string]any{"a": "\xff", "b": "\xfe"}}, values{Map: map[string]any{"a": "\xfe", "b": "\xff"}},
		values{Map: map[string]any{"\xff": 1}}, values{Map: map[string]any{"\xfe": 1}},
		values{Slice: []string{"\xff", "\xfe"}}, values{Slice: []string{"\xfe", "\xff"}},
		values{At: &values{Slice: []string{"\xff"}}}, values{At: &values{Slice: []string{"\xfe"}}},
	} {
		key := keyOf(v)
		if other, ok := same[key]; ok {
			t.Errorf("%q has the key of %q", v, other)
		}
		same[key] = v
		if keyOf(v) != key {
			t.Errorf("%q has several keys", v)
		}
	}
}

// Everything that a layer depends on is part of its key.
func TestCacheMisses(t *testing.T) {
	for name, change := range map[string]func(c *cachedBuild){
		"content": func(c *cachedBuild) { check(c, os.WriteFile(c.dir+"/b", []byte("4"), 0o644)) },
		"content of the same size and time": func(c *cachedBuild) {
			fi, err := os.Stat(c.dir + "/b")
			check(c, err)
			check(c, os.WriteFile(c.dir+"/b", []byte("5"), 0o644))
			check(c, os.Chtimes(c.dir+"/b", fi.ModTime(), fi.ModTime()))
		},
		"mode": func(c *cachedBuild) { check(c, os.Chmod(c.dir+"/b", 0o755)) },
		"link": func(c *cachedBuild) {
			check(c, os.Remove(c.dir+"/b"))
			check(c, os.WriteFile(c.dir+"/b2", []byte("#!x"), 0o755))
			check(c, os.Symlink("b2", c.dir+"/b"))
		},
	} {
		c := newCachedBuild(t, cacheFiles(t))
		c.build(cacheFile)
		change(c)
		t.Log(name)
		c.want(cacheFile, 2, 3, 4)
	}
	for name, change := range map[string]func(c *cachedBuild){
		"epoch": func(c *cachedBuild) { c.options.Epoch = time.Unix(1e9, 0) },
		"platform": func(c *cachedBuild) {
			c.options.Platform = ocispec.Platform{OS: "freebsd",
				Architecture: "arm64"}
		},
		"new file": func(c *cachedBuild) { check(c, os.WriteFile(c.dir+"/a/h", nil, 0o644)) },
		"name":     func(c *cachedBuild) { check(c, os.Rename(c.dir+"/a/f", c.dir+"/a/f2")) },
		"ignored":  func(c *cachedBuild) { check(c, os.WriteFile(c.dir+"/.jailignore", []byte("a/f\n"), 0o644)) },
		"pruned": func(c *cachedBuild) {
			freed, err := Prune(c.Context(), c.cache, 0, 0, nil)
			if err != nil || freed == 0 {
				c.Error(freed, err)
			}
		},
		"lost blobs": func(c *cachedBuild) { check(c, os.RemoveAll(c.cache+"/blobs")) },
		"torn records": func(c *cachedBuild) {
			list, err := filepath.Glob(c.cache + "/steps/*")
			check(c, err)
			for _, f := range list {
				check(c, os.Truncate(f, 10))
			}
		},
	} {
		c := newCachedBuild(t, cacheFiles(t))
		c.build(cacheFile)
		change(c)
		t.Log(name)
		c.want(cacheFile)
	}
}

// A touched file is read again, and what it holds decides.
func TestCacheGoesByContent(t *testing.T) {
	c := newCachedBuild(t, cacheFiles(t))
	c.build(cacheFile)
	check(t, os.Remove(c.dir+"/b"))
	check(t, os.WriteFile(c.dir+"/b", []byte("3"), 0o644))
	c.want(cacheFile, 2, 3, 4, 5)
}

func TestCacheOfStagesAndBases(t *testing.T) {
	c := newCachedBuild(t, cacheFiles(t))
	from := base(t, files{"f": "base"}, "FROM scratch\nCOPY f /\n")
	old := time.Now().Add(-time.Hour)
	check(t, os.Chtimes(from, old, old))
	time.Sleep(settled + 100*time.Millisecond) // the archive's time of change must lie back too
	text := "FROM scratch AS one\nCOPY a /a/\nFROM " + from + "\nCOPY --from=one /a/f /b\nCOPY b /\n"
	c.want(text)
	if list, err := filepath.Glob(c.cache + "/images/*"); err != nil || len(list) != 1 {
		t.Error(list, err)
	}
	c.want(text, 2, 4, 5)
	check(t, os.WriteFile(c.dir+"/a/g", []byte("x"), 0o644))
	c.want(text, 5) // the copied file is the same, so the next step is too
	// A cache that is torn is never used.
	check(t, os.Remove(c.cache+"/blobs/"+imageBlob(t, c.cache)))
	c.want(text, 2, 4, 5)
}

// imageBlob is the last blob of the image that the cache remembers: a layer.
func imageBlob(t *testing.T, dir string) string {
	list, err := filepath.Glob(dir + "/images/*")
	check(t, err)
	var r imageRecord
	c := &cache{dir: dir}
	if !c.record("images", filepath.Base(list[0]), &r) {
		t.Fatal("no record")
	}
	return r.Blobs[len(r.Blobs)-1].Digest.Encoded()
}

func TestBuildsAtOnceShareACache(t *testing.T) {
	cache := t.TempDir()
	dir := t.TempDir()
	cacheFiles(t).write(t, dir)
	files{"Jailfile": cacheFile}.write(t, dir)
	var digests sync.Map
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			img, err := Build(t.Context(), Options{Context: dir, Output: filepath.Join(t.TempDir(), "image.tar"),
				Cache: cache, Platform: freebsd})
			if err == nil && i%2 == 1 {
				_, err = Prune(t.Context(), cache, time.Hour, 0, nil)
			}
			if err != nil {
				t.Error(err)
				return
			}
			digests.Store(img.Digest, true)
		}()
	}
	wait.Wait()
	n := 0
	digests.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d images", n)
	}
}

func TestPruneKeepsTheLastUsed(t *testing.T) {
	c := newCachedBuild(t, files{"a": strings.Repeat("a", 100), "b": strings.Repeat("b", 100), "Jailfile": "x"})
	c.build("FROM scratch\nCOPY a /\n")
	steps, err := filepath.Glob(c.cache + "/steps/*")
	check(t, err)
	old := time.Now().Add(-time.Hour)
	check(t, os.Chtimes(steps[0], old, old))
	c.build("FROM scratch\nCOPY b /\n")
	check(t, os.MkdirAll(c.cache+"/work/left/over", 0o700)) // of a build that was killed
	blobs, err := os.ReadDir(c.cache + "/blobs")
	check(t, err)
	fi, err := blobs[0].Info()
	check(t, err)
	freed, err := Prune(t.Context(), c.cache, 2*time.Hour, fi.Size()+10, nil)
	if err != nil || freed == 0 {
		t.Error(freed, err)
	}
	c.want("FROM scratch\nCOPY b /\n", 2)
	c.want("FROM scratch\nCOPY a /\n")
	if _, err := os.Stat(c.cache + "/work/left"); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := Prune(t.Context(), c.cache, 0, 1<<40, nil); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(c.cache + "/blobs"); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

func TestMasker(t *testing.T) {
	for _, chunk := range []int{1, 2, 3, 7, 100} {
		var out bytes.Buffer
		m := newMasker(&out, []SecretFile{{Value: Secret("hunter2\n")}, {Value: Secret("hunter2-longer")},
			{Value: Secret("line one\nline two\n")}, {Value: Secret("abc")}})
		text := []byte("a hunter2 b hunter2-longer hunter hunterhunter2 xabc\nline two\nline ")
		for part := range slices.Chunk(text, chunk) {
			_, err := m.Write(part)
			check(t, err)
		}
		check(t, m.Flush())
		if want := "a (secret) b (secret) hunter hunter(secret) xabc\n(secret)\nline "; out.String() != want {
			t.Errorf("%d: %q", chunk, out.String())
		}
	}
	if text := fmt.Sprintf("%v %s %#v %+v", Secret("x1"), Secret("x1"), Secret("x1"),
		struct{ S Secret }{Secret("x1")}); strings.Contains(text, "x1") || strings.Contains(text, "120") {
		t.Error(text)
	}
}
