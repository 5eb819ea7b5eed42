package build

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testoci"
)

// baseWith has one ONBUILD, as another builder would write it.
func baseWith(t *testing.T, trigger string) string {
	t.Helper()
	l := testoci.NewLayout(testoci.Tar(t, testoci.File("f", "x")))
	l.Config.Platform = freebsd
	b, err := json.Marshal(l.Config)
	check(t, err)
	var config map[string]any
	check(t, json.Unmarshal(b, &config))
	config["config"] = map[string]any{"OnBuild": []string{trigger}}
	l.Manifest.Config = l.JSON(t, ocispec.MediaTypeImageConfig, config)
	return l.Seal(t).Dir(t)
}

// What a base does to those who build on it is told, and has neither their files but
// the context, nor their secrets, privileges and names.
func TestOnbuildOfAHostileBase(t *testing.T) {
	private := base(t, files{"topsecret": "pw"}, "FROM scratch\nCOPY topsecret /\n")
	layer := testoci.NewLayout(testoci.Tar(t, testoci.File("topsecret", "pw"))).Seal(t).Dir(t)
	below := strings.TrimPrefix(private, "/")
	errPull := errors.New("pulled")
	for trigger, want := range map[string]string{
		"COPY --from=oci:" + layer + " / /x":                       "reads no path of the host",
		"COPY --from=oci-archive:" + private + " / /x":             "reads no path of the host",
		"COPY --from=" + private + " / /x":                         "reads no path of the host",
		"COPY --from=../x / /x":                                    "reads no path of the host",
		"COPY --from=r.example/" + up + below + " / /x":            "reads no path of the host",
		"COPY --from=docker://r.example/" + up + below + " / /x":   "reads no path of the host",
		"COPY --from=docker-daemon:x / /x":                         "reads no path of the host",
		"COPY --from=r.example/" + up + layer[1:] + " / /x":        "pulled",
		"COPY --from=beside / /x":                                  "pulled",
		"COPY --from=docker://docker:///beside / /x":               "pulled",
		"RUN --mount=type=bind,from=oci:" + layer + ",target=/x x": "reads no path of the host",
		"RUN --mount=from=" + private + ",target=/x x":             "reads no path of the host",
		"RUN --mount=type=secret,id=tok x":                         "has no secrets",
		"RUN --mount=target=/x,id=tok,type=secret x":               "has no secrets",
		"RUN --allow=raw_sockets x":                                "has no privileges",
		"RUN --sysvipc=shm x":                                      "has no privileges",
		"NAME corp/prod:1":                                         "NAME is not supported in ONBUILD",
		"ALLOW raw_sockets":                                        "ALLOW is not supported in ONBUILD",
		"VNET":                                                     "VNET is not supported in ONBUILD",
		"devfs path mem unhide":                                    "DEVFS is not supported in ONBUILD",
		"INCLUDE x":                                                "INCLUDE is not supported in ONBUILD",
		"FROM scratch":                                             "FROM is not supported in ONBUILD",
		"ONBUILD RUN x":                                            "ONBUILD is not supported in ONBUILD",
		"COPY .. /x":                                               "leads out of the context",
	} {
		for _, name := range []string{"Jailfile", ContainerFile} {
			_, err := try(t, nil, "", func(o *Options) {
				check(t, os.Remove(filepath.Join(o.Context, "Jailfile")))
				files{name: "FROM " + baseWith(t, trigger) + "\n", "beside/f": ""}.write(t, o.Context)
				o.Secrets = map[string]Secret{"tok": Secret("s3cr3t")}
				o.Permit = func(map[string]string) error { return nil }
				o.Pull = func(context.Context, *layout.Store, string, ocispec.Platform) (*image.Image, error) {
					return nil, errPull
				}
			})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s: %v, want %s", name, trigger, err, want)
			}
		}
	}
}

const up = "../../../../../../../../../../../../"

func TestOnbuildIsTold(t *testing.T) {
	m, warned, err := container(t, files{"f": "x"}, "FROM "+baseWith(t, "COPY --chmod=0600 f /g")+"\n", nil)
	check(t, err)
	m.has("g", "x")
	if len(warned) != 1 || !strings.HasSuffix(warned[0], ":1: FROM: ONBUILD of the base: COPY --chmod=0600 f /g") {
		t.Errorf("%q", warned)
	}
}

// Without a network no instruction has one.
func TestNoNetworkIsForAll(t *testing.T) {
	b := &work{builder: newBuilder(Options{Network: NetworkNone})}
	if n := (&runStep{network: NetworkHost}).on(b); n != NetworkNone {
		t.Error(n)
	}
}
