package layout

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/testoci"
)

// saved is what docker save writes, of which a test can spoil each part.
type saved struct {
	manifest string
	config   []byte
	layers   [2][]byte
	id       digest.Digest
	items    []item // beside the manifest.json
}

func newSaved(t testing.TB) *saved {
	t.Helper()
	s := &saved{layers: [2][]byte{layerOf(t, file("f", "1")), layerOf(t, file("g", "2"))}}
	c := testoci.HostConfig(digest.FromBytes(s.layers[0]), digest.FromBytes(s.layers[1]))
	c.Config.Cmd = []string{"/f"}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	// Fields of docker's own are kept: the ID is that of the whole.
	s.config = bytes.Replace(b, []byte(`{"`), []byte(`{"docker_version":"24","container_config":{"Cmd":null},"`), 1)
	s.id = digest.FromBytes(s.config)
	s.manifest = `[{"Config":"` + s.id.Encoded() + `.json","RepoTags":["docker.io/library/web:1.0"],` +
		`"Layers":["a/layer.tar","b/layer.tar"]}]`
	s.items = []item{file(s.id.Encoded()+".json", string(s.config)), testoci.Dir("a"), file("a/VERSION", "1.0"),
		file("a/json", "{}"), file("a/layer.tar", string(s.layers[0])), file("b/layer.tar", string(s.layers[1])),
		file("repositories", "{}")}
	return s
}

func (s *saved) all() []item { return append(s.items, file("manifest.json", s.manifest)) }

// write gives archives and directories of one set of files, by what they are.
func write(t *testing.T, items []item) map[string]string {
	t.Helper()
	in := func(folder string) []item {
		var out []item
		for _, i := range items {
			i.Name = folder + i.Name
			out = append(out, i)
		}
		return out
	}
	plain := layerOf(t, items...)
	reversed := []item{}
	for _, i := range items {
		reversed = append([]item{i}, reversed...)
	}
	d := t.TempDir()
	for _, i := range items {
		p := filepath.Join(d, i.Name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case err != nil || i.Typeflag == '5':
		case i.Linkname != "":
			err = os.Symlink(i.Linkname, p)
		default:
			err = os.WriteFile(p, []byte(i.Body), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return map[string]string{"tar": writeTemp(t, plain), "gzip": writeTemp(t, gz(t, plain)),
		"zstd": writeTemp(t, zst(t, plain)), "with ./": writeTemp(t, layerOf(t, in("./")...)),
		"in a folder":   writeTemp(t, layerOf(t, append([]item{testoci.Dir("x/")}, in("x/")...)...)),
		"in ./folder":   writeTemp(t, layerOf(t, in("./some image/")...)),
		"from its end":  writeTemp(t, layerOf(t, reversed...)),
		"a directory":   d,
		"beside others": writeTemp(t, layerOf(t, append([]item{file("x/index.json", "junk")}, items...)...)),
	}
}

func TestDockerArchives(t *testing.T) {
	s := newSaved(t)
	linked := newSaved(t) // as podman and newer dockers write them
	linked.items = []item{file(s.id.Encoded()+".json", string(s.config)), file("1.tar", string(s.layers[0])),
		file("2.tar", string(s.layers[1])), symlink("a/layer.tar", "../1.tar"), symlink("b/layer.tar", "../2.tar")}
	packed := newSaved(t) // as jib and crane do
	packed.items = []item{file("sha256:"+s.id.Encoded(), string(s.config)),
		file("1.tar.gz", string(gz(t, s.layers[0]))), file("2.tar.gz", string(zst(t, s.layers[1])))}
	packed.manifest = `[{"Config":"sha256:` + s.id.Encoded() + `","RepoTags":["web:1.0"],` +
		`"Layers":["1.tar.gz","2.tar.gz"]}]`
	for kind, items := range map[string][]item{"plain": s.all(), "linked": linked.all(), "packed": packed.all()} {
		digests := map[digest.Digest]bool{}
		for how, p := range write(t, items) {
			store := newStore(t, image.Limits{})
			img, err := store.Import(ctx, p, "", nil)
			if err != nil {
				t.Errorf("%s, %s: %v", kind, how, err)
				continue
			}
			digests[img.Digest] = true
			m, config, err := store.Description(img)
			if err != nil || !bytes.Equal(config, s.config) {
				t.Errorf("%s, %s: the config is %s, %v\n%s", kind, how, config, err, m)
			}
			if !strings.HasSuffix(img.Name, "web:1.0") || len(img.Layers) != 2 || img.Config.Config.Cmd[0] != "/f" {
				t.Errorf("%s, %s: %+v", kind, how, img)
			}
			e, err := examine(t, p)
			if err != nil || len(e.List) > 0 || len(e.Images) != 1 {
				t.Errorf("%s, %s: %v %+v", kind, how, err, e)
			}
		}
		if len(digests) != 1 {
			t.Errorf("%s: one image has the digests %v", kind, digests)
		}
	}
}

// What newer dockers save is a layout too. The two must tell of the same images.
func TestDockerArchivesThatAreLayouts(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "x"))).Seal(t)
	config := l.Manifest.Config.Digest.Encoded()
	l.Index.Manifests = []ocispec.Descriptor{ // of two platforms, one of which is here, and in an index
		l.JSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: l.Index.Versioned,
			MediaType: ocispec.MediaTypeImageIndex,
			Manifests: append(l.Index.Manifests, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest,
				Digest: digest.FromString("absent"), Size: 6, Platform: &ocispec.Platform{OS: "linux",
					Architecture: "riscv64"}})})}
	l.Reindex(t)
	other := testoci.HostConfig(digest.FromString("x"))
	text, err := json.Marshal(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"blobs/sha256/" + config: "", "link": "", "copy.json": "", "other.json": "is of no image in index.json",
		"link2": "is of no image in index.json", "gone": "missing in the archive",
		"../x": "leads out of the archive",
	} {
		items := []item{file("copy.json", string(l.Files["blobs/sha256/"+config])), file("other.json", string(text)),
			symlink("link", "blobs/sha256/"+config), symlink("link2", "other.json"),
			file("manifest.json", `[{"Config":"`+name+`","RepoTags":["web:1.0"],"Layers":["a"],"LayerSources":{}}]`)}
		for name, b := range l.Files {
			items = append(items, file(name, string(b)))
		}
		for _, folder := range []string{"", "x/"} {
			var in []item
			for _, i := range items {
				i.Name = folder + i.Name
				in = append(in, i)
			}
			p := writeTemp(t, layerOf(t, in...))
			_, err := newStore(t, image.Limits{}).Import(ctx, p, "", nil)
			e, eerr := examine(t, p)
			if eerr != nil || (e.Errors() > 0) != (want != "") {
				t.Errorf("%s%s: %v %+v", folder, name, eerr, e)
			}
			if want != "" {
				wantError(t, err, want)
			} else if err != nil {
				t.Errorf("%s%s: %v", folder, name, err)
			}
		}
	}
}

func TestDockerArchiveOfSeveral(t *testing.T) {
	s := newSaved(t)
	other := newSaved(t)
	other.config = bytes.Replace(s.config, []byte("/f"), []byte("/g"), 1)
	hex := digest.FromBytes(other.config).Encoded()
	s.items = append(s.items, file(hex+".json", string(other.config)))
	s.manifest = strings.TrimSuffix(s.manifest, "]") + `,{"Config":"` + hex +
		`.json","RepoTags":["b:1","b:2"],"Layers":["a/layer.tar","b/layer.tar"]}]`
	p := writeTemp(t, layerOf(t, s.all()...))
	store := newStore(t, image.Limits{})
	_, err := store.Import(ctx, p, "", nil)
	wantError(t, err, "several images", "b:1", "b:2", "docker.io/library/web:1.0")
	for name, cmd := range map[string]string{"b:2": "/g", "docker.io/library/web:1.0": "/f"} {
		img, err := store.Import(ctx, p, name, nil)
		if err != nil || img.Config.Config.Cmd[0] != cmd || img.Name != name {
			t.Errorf("%s: %v, %+v", name, err, img)
		}
	}
	e, err := examine(t, p)
	if err != nil || e.Errors() > 0 || len(e.Images) != 2 {
		t.Errorf("%v %+v", err, e)
	}
}

// What is wrong with a docker-archive is told, and nothing outside is touched or read.
func TestHostileDockerArchives(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*saved)
		want  string
	}{
		"layer missing":   {func(s *saved) { s.items = append(s.items[:4], s.items[5:]...) }, "a/layer.tar\" is missing"},
		"config missing":  {func(s *saved) { s.items = s.items[1:] }, "is missing"},
		"no images":       {func(s *saved) { s.manifest = "[]" }, "names 0 images"},
		"no JSON":         {func(s *saved) { s.manifest = "[" }, "manifest.json: unexpected end"},
		"no config named": {func(s *saved) { s.manifest = `[{"Layers":[]}]` }, "Config is missing"},
		"twice a name":    {func(s *saved) { s.manifest = `[{"Config":"a","Config":"b"}]` }, "duplicate key"},
		"fewer layers": {func(s *saved) { s.manifest = strings.Replace(s.manifest, `"a/layer.tar",`, "", 1) },
			"1 layers, its config names 2"},
		"layers swapped": {func(s *saved) {
			s.manifest = strings.Replace(s.manifest, `"a/layer.tar","b/layer.tar"`, `"b/layer.tar","a/layer.tar"`, 1)
		}, "layer 1: its content has the digest"},
		"another config": {func(s *saved) { s.items[0].Body = strings.Replace(s.items[0].Body, "/f", "/x", 1) },
			"digest mismatch"},
		"layer changed": {func(s *saved) { s.items[4].Body = strings.Replace(s.items[4].Body, "1", "2", 1) },
			"layer 1: its content has the digest"},
		"layer twice":    {func(s *saved) { s.items = append(s.items, s.items[4]) }, "a/layer.tar: duplicate entry"},
		"manifest twice": {func(s *saved) { s.items = append(s.items, file("manifest.json", "[]")) }, "duplicate entry"},
		"file and link": {func(s *saved) { s.items = append(s.items, symlink("a/layer.tar", "../b/layer.tar")) },
			"duplicate entry"},
		"two links": {func(s *saved) {
			s.items[4] = symlink("a/layer.tar", "../b/layer.tar")
			s.items = append(s.items, symlink("a/layer.tar", "../c/layer.tar"))
		}, "duplicate entry"},
		"name upwards": {func(s *saved) { s.manifest = strings.Replace(s.manifest, "a/layer.tar", "../../etc/passwd", 1) },
			"leads out of the archive"},
		"absolute name": {func(s *saved) { s.manifest = strings.Replace(s.manifest, "a/layer.tar", "/etc/passwd", 1) },
			"leads out of the archive"},
		"link upwards":     {func(s *saved) { s.items[4] = symlink("a/layer.tar", "../../etc/passwd") }, "leads out"},
		"absolute link":    {func(s *saved) { s.items[4] = symlink("a/layer.tar", "/etc/passwd") }, "leads out"},
		"hard link":        {func(s *saved) { s.items[4] = hardlink("a/layer.tar", "../etc/passwd") }, "leads out"},
		"link to itself":   {func(s *saved) { s.items[4] = symlink("a/layer.tar", "layer.tar") }, "too many links"},
		"config by a link": {func(s *saved) { s.items[0] = symlink(s.id.Encoded()+".json", "/etc/passwd") }, "leads out"},
		"docker of before 1.10": {func(s *saved) {
			s.manifest, s.items = "[]", s.items[1:]
		}, "names 0 images"},
		"name for a terminal": {func(s *saved) { s.manifest = strings.Replace(s.manifest, "web:1.0", `web\u001b[2J`, 1) },
			"image name"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSaved(t)
			c.spoil(s)
			store := newStore(t, image.Limits{})
			before := listing(t, store.dir)
			p := writeTemp(t, layerOf(t, s.all()...))
			_, err := store.Import(ctx, p, "", nil)
			wantError(t, err, c.want)
			sameListing(t, "the store", listing(t, store.dir), before)
			e, err := examine(t, p)
			if err != nil || e.Errors() == 0 && name != "name for a terminal" {
				t.Errorf("examined: %v %+v", err, e)
			}
		})
	}
	old := newSaved(t)
	_, err := newStore(t, image.Limits{}).Import(ctx, writeTemp(t, layerOf(t, old.items...)), "", nil)
	wantError(t, err, "older than 1.10")
	_, err = newStore(t, image.Limits{ImageBytes: 4000}).Import(ctx, writeTemp(t, layerOf(t, old.all()...)), "", nil)
	wantError(t, err, "limit of 4000 bytes")
	_, err = newStore(t, image.Limits{Entries: 3}).Import(ctx, writeTemp(t, layerOf(t, old.all()...)), "", nil)
	wantError(t, err, "limit of 3 entries")
	two := layerOf(t, append(old.all(), file("x/manifest.json", "[]"))...)
	if _, err = newStore(t, image.Limits{}).Import(ctx, writeTemp(t, two), "", nil); err != nil {
		t.Errorf("a folder beside the image: %v", err)
	}
	two = layerOf(t, file("x/manifest.json", "[]"), file("y/manifest.json", "[]"))
	_, err = newStore(t, image.Limits{}).Import(ctx, writeTemp(t, two), "", nil)
	wantError(t, err, `folder "x"`)
}

// dirItems is what skopeo copies to dir:.
func dirItems(t testing.TB, m any, blobs map[string][]byte) []item {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out := []item{file("manifest.json", string(b)), file("version", "Directory Transport Version: 1.1\n")}
	for name, b := range blobs {
		out = append(out, file(strings.TrimPrefix(name, blobDir+"/"), string(b)))
	}
	return out
}

func TestDirs(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "1")), layerOf(t, file("g", "2"))).Seal(t)
	manifest := l.Index.Manifests[0].Digest
	delete(l.Files, blobName(manifest))
	delete(l.Files, "index.json")
	delete(l.Files, "oci-layout")
	for how, p := range write(t, dirItems(t, l.Manifest, l.Files)) {
		img, err := newStore(t, image.Limits{}).Import(ctx, p, "", nil)
		if err != nil || img.Digest != manifest || len(img.Layers) != 2 {
			t.Errorf("%s: %v %+v, want the digest %s", how, err, img, manifest)
		}
	}
	docker := l.Manifest
	docker.MediaType, docker.Config.MediaType = document.DockerManifest, document.DockerConfig
	d := l.JSON(t, docker.MediaType, docker)
	d.Platform = &l.Config.Platform
	absent := d
	absent.Digest, absent.Platform = digest.FromString("x"), &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	blobs := map[string][]byte{d.Digest.Encoded() + ".manifest.json": l.Files[blobName(d.Digest)]}
	delete(l.Files, blobName(d.Digest))
	for name, b := range l.Files {
		blobs[name] = b
	}
	list := newIndex(d, absent)
	list.MediaType = document.DockerList
	for how, p := range write(t, dirItems(t, list, blobs)) {
		img, err := newStore(t, image.Limits{}).Import(ctx, p, "x", nil)
		if err != nil || img.Digest != d.Digest {
			t.Errorf("all, %s: %v %+v, want the digest %s", how, err, img, d.Digest)
		}
	}
	layer := l.Manifest.Layers[0].Digest
	for name, c := range map[string]struct {
		manifest any
		body     string
		want     string
	}{
		"layer changed": {l.Manifest, "other", "blob " + layer.String()},
		"schema 1":      {map[string]any{"schemaVersion": 1, "fsLayers": []string{}}, "", "schema 1"},
		"anything":      {map[string]any{"a": 1}, "", "manifest.json: schemaVersion"},
	} {
		files := map[string][]byte{}
		for name, b := range l.Files {
			files[name] = b
		}
		files[blobName(layer)] = []byte(c.body)
		_, err := newStore(t, image.Limits{}).Import(ctx, writeTemp(t, layerOf(t, dirItems(t, c.manifest, files)...)), "",
			nil)
		t.Log(name)
		wantError(t, err, c.want)
	}
}

// A directory that is no layout gives nothing of what lies beside it.
func TestHostileDirectories(t *testing.T) {
	s := newSaved(t)
	secret := writeTemp(t, s.layers[0])
	for name, link := range map[string]string{"absolute": secret, "relative": "../../" + filepath.Base(secret)} {
		s := newSaved(t)
		s.items[4] = symlink("a/layer.tar", link)
		d := write(t, s.all())["a directory"]
		if err := os.WriteFile(filepath.Join(filepath.Dir(d), filepath.Base(secret)), s.layers[0], 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := newStore(t, image.Limits{}).Import(ctx, d, "", nil)
		t.Log(name)
		wantError(t, err, "leads out")
	}
}

// An OCI layout goes before what else an archive may be taken for.
func TestALayoutGoesFirst(t *testing.T) {
	l := newLayout(layerOf(t, file("f", "x"))).Seal(t)
	config, layer := blobName(l.Manifest.Config.Digest), blobName(l.Manifest.Layers[0].Digest)
	items := []item{file("repositories", "{}"),
		file("manifest.json", `[{"Config":"`+config+`","RepoTags":["other:1.0"],"Layers":["`+layer+`"]}]`)}
	for name, b := range l.Files {
		items = append(items, file(name, string(b)))
	}
	for how, p := range write(t, items) {
		img, err := newStore(t, image.Limits{}).Import(ctx, p, "", nil)
		if err != nil || img.Digest != l.Index.Manifests[0].Digest {
			t.Errorf("%s: %v %+v", how, err, img)
		}
	}
}
