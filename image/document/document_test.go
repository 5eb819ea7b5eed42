package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	blob   = `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:0","size":1}`
	layers = `"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:1","size":2}]`
	man    = `{"schemaVersion":2,"config":` + blob + `,` + layers + `}`
	idx    = `{"schemaVersion":2,"manifests":[` + blob + `]}`
)

// with adds fields to a document.
func with(doc, fields string) string { return strings.TrimSuffix(doc, "}") + "," + fields + "}" }

func typed(doc, mediaType string) string { return with(doc, `"mediaType":"`+mediaType+`"`) }

func TestDocumentsOfTheWorldAreRead(t *testing.T) {
	for name, c := range map[string]struct{ text, mediaType string }{
		"manifest without a type": {man, ocispec.MediaTypeImageManifest},
		"manifest":                {typed(man, ocispec.MediaTypeImageManifest), ocispec.MediaTypeImageManifest},
		"Docker's manifest":       {typed(man, DockerManifest), DockerManifest},
		"index without a type":    {idx, ocispec.MediaTypeImageIndex},
		"index":                   {typed(idx, ocispec.MediaTypeImageIndex), ocispec.MediaTypeImageIndex},
		"Docker's list":           {typed(idx, DockerList), DockerList},
		"index of nothing":        {`{"schemaVersion":2,"manifests":null}`, ocispec.MediaTypeImageIndex},
		"manifest without layers": {`{"schemaVersion":2,"config":` + blob + `,"layers":null}`,
			ocispec.MediaTypeImageManifest},
		"index with annotations": {with(idx, `"annotations":{"a":"b","A":"c"},"subject":`+blob+
			`,"artifactType":"x/y"`), ocispec.MediaTypeImageIndex},
		"what is not known": {with(man, `"x-other":{"layers":[1]}`), ocispec.MediaTypeImageManifest},
		"descriptor with more fields": {`{"schemaVersion":2,"manifests":[` + with(blob,
			`"newField":1,"platform":{"os":"linux","architecture":"arm64","features":["sse4"]}`) + `]}`, DockerList},
		"artifact": {`{"schemaVersion":2,"artifactType":"application/vnd.example","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44","size":2,"data":"e30="},` +
			layers + `,"subject":` + blob +
			`,"annotations":{"org.opencontainers.image.created":"2024-01-01T00:00:00Z"}}`,
			ocispec.MediaTypeImageManifest},
	} {
		if err := Check([]byte(c.text), c.mediaType); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"lower case": `{"architecture":"amd64","os":"freebsd","os.version":"14.2","config":{"cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":[]}}`,
		"Docker's": `{"architecture":"amd64","os":"linux","config":{"Hostname":"","Env":["A=b"],"Image":"sha256:1","Labels":{"Name":"x","name":"y"},"OnBuild":null,"Healthcheck":{"Test":["CMD"]}},
			"container":"00","container_config":{"Labels":{"Version":"1","version":"2"}},"docker_version":"20","history":[{"created":"2024-01-01T00:00:00Z","empty_layer":true}],"rootfs":{"type":"layers","diff_ids":[]}}`,
	} {
		if c, err := ReadConfig([]byte(text), DockerConfig); err != nil || c.OS == "" {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func TestNoDocumentIsTwo(t *testing.T) {
	for name, c := range map[string]struct{ text, mediaType, want string }{
		"manifest with manifests":     {with(man, `"manifests":[]`), ocispec.MediaTypeImageManifest, "manifests"},
		"manifest with null for some": {with(man, `"manifests":null`), ocispec.MediaTypeImageManifest, "manifests"},
		"manifest with Manifests": {with(man, `"Manifests":[]`), ocispec.MediaTypeImageManifest,
			`for "manifests"`},
		"index with layers":             {with(idx, layers), ocispec.MediaTypeImageIndex, "layers"},
		"index with Layers":             {with(idx, `"Layers":[]`), ocispec.MediaTypeImageIndex, `for "layers"`},
		"index with a config":           {with(idx, `"config":`+blob), DockerList, "config"},
		"manifest of the first kind":    {with(man, `"fsLayers":[],"history":[]`), DockerManifest, "history"},
		"manifest that is a config":     {with(man, `"rootfs":{}`), DockerManifest, "rootfs"},
		"manifest that was an artifact": {with(man, `"blobs":[]`), DockerManifest, "blobs"},
		"layers and Layers":             {with(man, `"Layers":[]`), ocispec.MediaTypeImageManifest, `for "layers"`},
		"layers twice":                  {with(man, layers), ocispec.MediaTypeImageManifest, "layers: duplicate key"},
		"a digest twice": {`{"schemaVersion":2,"manifests":[` + with(blob, `"digest":"sha256:2"`) +
			`]}`, ocispec.MediaTypeImageIndex, "manifests[0].digest: duplicate key"},
		"a Digest": {`{"schemaVersion":2,"manifests":[` + with(blob, `"Digest":"sha256:2"`) +
			`]}`, ocispec.MediaTypeImageIndex, `for "digest"`},
		"an annotation twice": {with(idx, `"annotations":{"a":"1","a":"2"}`), ocispec.MediaTypeImageIndex,
			"annotations.a: duplicate key"},
		"manifest by name, index by type": {man, ocispec.MediaTypeImageIndex, "config"},
		"index by name, manifest by type": {idx, ocispec.MediaTypeImageManifest, "manifests"},
		"says that it is an index": {typed(man, ocispec.MediaTypeImageIndex), ocispec.MediaTypeImageManifest,
			"the document says"},
		"says that it is Docker's": {typed(man, DockerManifest), ocispec.MediaTypeImageManifest,
			"the document says"},
		"says that it is OCI's":     {typed(idx, ocispec.MediaTypeImageIndex), DockerList, "the document says"},
		"says that it is something": {typed(idx, "text/html"), DockerList, "the document says"},
		"is called something":       {man, "text/html", "not the type of"},
		"another version": {strings.Replace(man, "2", "1", 1), ocispec.MediaTypeImageManifest,
			"schemaVersion"},
		"no version": {strings.Replace(idx, `"schemaVersion":2,`, "", 1),
			ocispec.MediaTypeImageIndex, "schemaVersion"},
		"no config": {`{"schemaVersion":2,` + layers + `}`, ocispec.MediaTypeImageManifest,
			"config"},
		"elements of nothing": {`{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", 1<<17) + `{}]}`,
			ocispec.MediaTypeImageIndex, "values"},
		"too long": {man + strings.Repeat(" ", MaxBytes), ocispec.MediaTypeImageManifest,
			"limit"},
	} {
		if err := Check([]byte(c.text), c.mediaType); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want %q", name, err, c.want)
		}
	}
	for name, text := range map[string]string{
		"config that is a manifest": man,
		"config with layers":        `{"os":"linux","layers":[]}`,
		"config with manifests":     `{"os":"linux","Manifests":[]}`,
		"two commands":              `{"config":{"Cmd":["a"],"cmd":["b"]}}`,
		"another type":              `{"mediaType":"application/vnd.oci.image.manifest.v1+json"}`,
	} {
		if _, err := ReadConfig([]byte(text), ocispec.MediaTypeImageConfig); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	if err := Check([]byte(typed(man, DockerManifest)), ocispec.MediaTypeImageManifest); !errors.Is(err, ErrMediaType) {
		t.Errorf("the error is %v", err)
	}
}

// What is read as a document of one kind is none of the others, and is what a
// decoder makes of it that knows no kinds.
func FuzzDocumentsAreOfOneKind(f *testing.F) {
	for _, s := range []string{man, idx, with(man, `"manifests":[`+blob+`]`), with(idx, layers),
		typed(man, DockerManifest), typed(idx, DockerList),
		`{"architecture":"amd64","os":"freebsd","config":{"cmd":["/bin/sh"],"Env":["a"]},"rootfs":{"type":"layers","diff_ids":["sha256:1"]},"history":[{}]}`,
		with(man, `"Layers":[],"subject":{"digest":"x"}`)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var kinds []string
		for _, mediaType := range []string{ocispec.MediaTypeImageManifest, DockerManifest} {
			if m, err := ReadManifest(b, mediaType); err == nil {
				kinds = append(kinds, "manifest")
				same(t, b, m)
				break
			}
		}
		for _, mediaType := range []string{ocispec.MediaTypeImageIndex, DockerList} {
			if x, err := ReadIndex(b, mediaType); err == nil {
				kinds = append(kinds, "index")
				same(t, b, x)
				break
			}
		}
		if _, err := ReadConfig(b, ""); err == nil {
			kinds = append(kinds, "config")
		}
		if len(kinds) > 1 {
			t.Errorf("it is %v", kinds)
		}
	})
}

// same compares what was read with the document, by way of a generic decoder
// that keeps names as they are.
func same[T any](t *testing.T, b []byte, got T) {
	t.Helper()
	var fields map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&fields); err != nil {
		t.Fatalf("others cannot read it: %v", err)
	}
	known := map[string]any{}
	for _, name := range []string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests",
		"subject", "annotations"} {
		if v, ok := fields[name]; ok {
			known[name] = v
		}
	}
	text, err := json.Marshal(known)
	if err != nil {
		t.Fatal(err)
	}
	var want T
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatalf("its fields cannot be read: %v", err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("it is read as %+v, its fields say %+v", got, want)
	}
}

// Beside reading a document in the one way, what encoding/json takes for it.
func BenchmarkRead(b *testing.B) {
	list := strings.Repeat(`{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:`+
		strings.Repeat("0", 64)+`","size":12345678,"annotations":{"a":"b"}},`, 20)
	text := []byte(`{"schemaVersion":2,"config":` + blob + `,"layers":[` + strings.TrimSuffix(list, ",") + `]}`)
	b.Run("strict", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			if _, err := ReadManifest(text, ocispec.MediaTypeImageManifest); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			var m ocispec.Manifest
			if err := json.Unmarshal(text, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
