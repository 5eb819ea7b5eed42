package image

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestExposed(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "80/tcp": "80=80/tcp", "80": "80=80/tcp", "53/udp": "53-udp=53/udp", "443/TCP": "443=443/tcp",
		"53/tcp 53/udp 8080": "53=53/tcp 53-udp=53/udp 8080=8080/tcp", "80 80/tcp": "80=80/tcp",
		"8000-8002":     "8000=8000/tcp 8001=8001/tcp 8002=8002/tcp",
		"8001-8002/udp": "8001-udp=8001/udp 8002-udp=8002/udp",
		"x 80/x 0 65536 70000/udp 2-1 -1 1- 9/sctp 7": "7=7/tcp; 0 1- -1 2-1 65536 70000/udp 80/x 9/sctp x",
		"8000-8001 7999-8000 8000-8000":               "7999=7999/tcp 8000=8000/tcp 8001=8001/tcp",
		"1-65535":                                     "", "1-65535/udp 1-65535": "",
	} {
		ports := map[string]struct{}{}
		for _, p := range strings.Fields(text) {
			ports[p] = struct{}{}
		}
		list, odd := Exposed(ports)
		if strings.Contains(text, "1-65535") {
			if len(list) != maxExposed || len(odd) != 1 {
				t.Errorf("%s: %d ports, %v", text, len(list), odd)
			}
			continue
		}
		var got []string
		for _, p := range list {
			got = append(got, fmt.Sprintf("%s=%d/%s", p.Name, p.Port, p.Protocol))
		}
		wantPorts, wantOdd, _ := strings.Cut(want, "; ")
		slices.Sort(odd)
		wanted := strings.Fields(wantOdd)
		slices.Sort(wanted)
		if strings.Join(got, " ") != wantPorts || !slices.Equal(odd, wanted) {
			t.Errorf("%q: %v, %v; want %s", text, got, odd, want)
		}
	}
}

// Wide ranges, and many of them, are not counted out; that is so on each reading.
func TestExposedIsBounded(t *testing.T) {
	ports := map[string]struct{}{}
	for n := range 30_000 {
		ports[fmt.Sprintf("%d-65535", n+1)] = struct{}{}
		ports[fmt.Sprintf("%d-65535/udp", n+1)] = struct{}{}
	}
	result := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			if list, odd := Exposed(ports); len(list) != maxExposed || len(odd) != 1 || list[1].Name != "1-udp" {
				b.Fatal(list, odd)
			}
		}
	})
	if n := result.AllocedBytesPerOp(); n > 16<<20 {
		t.Errorf("a reading takes %d bytes", n)
	}
}

// What an image with a manifest exposes is what the manifest says.
func TestExposedBesideAManifest(t *testing.T) {
	c := ocispec.Image{Config: ocispec.ImageConfig{ExposedPorts: map[string]struct{}{"80/tcp": {}}}}
	img, err := newImage(c, nil)
	if err != nil || len(img.Manifest.Ports) != 1 || img.Manifest.Ports[0].Name != "80" {
		t.Errorf("%v %+v", err, img)
	}
	c.Config.Labels = map[string]string{ManifestLabel: `{"schemaVersion":1}`}
	if img, err = newImage(c, nil); err != nil || len(img.Manifest.Ports) != 0 {
		t.Errorf("%v %+v", err, img)
	}
}
