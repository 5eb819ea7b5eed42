package buildjail_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/testimage"
)

// A RUN is executed once; later builds take its layer, and go on from it.
func TestRunIsCached(t *testing.T) {
	f := setup(t, build.NetworkHost)
	f.options.Cache = t.TempDir()
	lines := []string{`RUN ["/bin/prog", "mkdir", "/d", "write", "/d/f", "text", "say", "one"]`,
		`RUN ["/bin/prog", "exit", ""]`}
	first, err := f.build(lines...)
	if err != nil {
		t.Fatal(err)
	}
	f.log.Reset()
	second, err := f.build(lines...)
	if err != nil || second.Digest != first.Digest || f.log.Len() > 0 {
		t.Errorf("%v, %s after %s, and it said %q", err, second.Digest, first.Digest, f.log.String())
	}
	// On top of a cached layer, which must be unpacked now.
	third, err := f.build(append(lines, `RUN ["/bin/prog", "cat", "/d/f", "rm", "/d"]`)...)
	if err != nil || !strings.Contains(f.log.String(), "text") || len(third.Layers) != 3 {
		t.Errorf("%v, %s", err, f.log.String())
	}
	f.want(2, "0 .wh.d 644 0:0")
	f.log.Reset()
	for _, change := range []func(){func() { f.options.Network = build.NetworkNone },
		func() { lines = append([]string{"ENV A=b"}, lines...) },
		func() { lines = append([]string{"USER 0"}, lines...) }} {
		change()
		if _, err := f.build(lines...); err != nil || !strings.Contains(f.log.String(), "in /") {
			t.Errorf("it was not executed again: %v %q", err, f.log.String())
		}
		f.log.Reset()
	}
}

// A stage that runs something builds on another that did.
func TestStagesThatRun(t *testing.T) {
	f := setup(t, build.NetworkHost)
	_, err := f.build(`RUN ["/bin/prog", "mkdir", "/made", "write", "/made/f", "text", "link", "/made/f", "/made/g", "chmod", "/made/f"]`,
		"FROM 0", // no stage by number: a name is needed
	)
	if err == nil {
		t.Error("FROM took a number")
	}
	img, err := f.build(
		`RUN ["/bin/prog", "mkdir", "/made", "write", "/made/f", "text", "link", "/made/f", "/made/g", "chown", "/made/g", "chmod", "/made/f"]`,
		"FROM scratch AS two", "COPY --from=0 /bin /bin", `RUN ["/bin/prog", "mkdir", "/x"]`,
		"FROM two", `RUN ["/bin/prog", "write", "/x/y", "z"]`, "COPY --from=0 /made /m")
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Layers) != 4 {
		t.Errorf("%d layers", len(img.Layers))
	}
	f.want(1, "5 x/ 750 0:0")
	f.want(2, "0 x/y 640 0:0")
	f.want(3, "5 m/ 755 0:0", "0 m/f 755 1001:1002", "1 m/g 755 1001:1002 -> m/f")
}

// A secret is there while its command runs, and nowhere else.
func TestSecrets(t *testing.T) {
	f := setup(t, build.NetworkHost)
	old := syscall.Umask(0o077) // must not matter
	defer syscall.Umask(old)
	f.options.Cache = t.TempDir()
	secret := rand.Text() // not in this binary, which is the base's program
	f.options.Secrets = map[string]build.Secret{"token": build.Secret(secret + "-value\n"),
		"other": build.Secret("another-one")}
	img, err := f.build(
		`RUN --mount=type=secret,id=token ["/bin/prog", "cat", "/run/secrets/token", "ls", "/run/secrets", "write", "/done", "x"]`,
		`RUN --mount=type=secret,id=other,target=/etc/keys/k,mode=0440,uid=7 --mount=type=secret,id=absent ["/bin/prog", "cat", "/etc/keys/k", "write", "/etc/keys/own", "x"]`,
		`RUN ["/bin/prog", "ls", "/", "ls", "/etc/keys"]`)
	if err != nil {
		t.Fatal(err, f.log.String())
	}
	f.want(1, "0 done 640 0:0")
	f.want(2, "5 etc/ 755 0:0", "5 etc/keys/ 755 0:0", "0 etc/keys/own 640 0:0")
	said := f.log.String()
	if strings.Contains(said, secret) || strings.Contains(said, "another") || strings.Count(said, "(secret)") != 2 ||
		!strings.Contains(said, "\nown \n") {
		t.Errorf("the commands said %q", said)
	}
	for _, h := range img.Config.History {
		if strings.Contains(h.CreatedBy, secret) {
			t.Error(h.CreatedBy)
		}
	}
	for _, dir := range []string{f.options.Cache, stateDir, filepath.Dir(f.out)} {
		err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(p)
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("the secret is in %s", p)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	// Its value is not what a step depends on.
	f.options.Secrets["token"] = build.Secret("changed")
	f.log.Reset()
	again, err := f.build(
		`RUN --mount=type=secret,id=token ["/bin/prog", "cat", "/run/secrets/token", "ls", "/run/secrets", "write", "/done", "x"]`)
	if err != nil || f.log.Len() > 0 || len(again.Layers) != 2 || again.Layers[1].Digest != img.Layers[1].Digest {
		t.Errorf("%v %q", err, f.log.String())
	}
	for line, want := range map[string]string{
		`RUN --mount=type=secret,id=absent,required x`: "the secret absent is required: give --secret id=absent,src=FILE",
		`RUN --mount=type=bind,source=. x`:             "it needs target=PATH",
		`RUN --mount=type=ssh,target=/x x`:             "type=ssh is not supported",
		`RUN --mount=type=tmpfs,target=/x,id=a x`:      "id is not supported for type=tmpfs",
		`RUN --mount=type=tmpfs,target=/x,size=x x`:    "invalid size",
		`RUN --mount=type=cache,target=/ x`:            "below /",
		`RUN --mount=target=/x,from=none x`:            "no earlier stage has this name",
		`RUN --mount=target=/x,source=../none x`:       "none",
		`RUN --mount=type=secret x`:                    "it needs id=NAME",
		`RUN --mount=type=secret,id=token,mode=x x`:    "mode: invalid value \"x\"",
		`RUN --mount=type=secret,id=token,target=/ x`:  "the target is not a file path",
		`RUN --allow=raw_sockets x`:                    "give --policy FILE",
		`RUN --allow=a/b x`:                            "not a valid parameter name",
		`RUN --sysvipc=all x`:                          "want shm, msg or sem",
		`RUN --network=bridge x`:                       "there are default, host and none",
		"RUN --mount=type=secret,id=token,target=/a --mount=type=secret,id=other,target=/a x": "/a has a secret already",
	} {
		if _, err := f.build(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}

// An archive in the form of FreeBSD's own images can be built on.
func TestFromAnImageInTheFormOfFreeBSDs(t *testing.T) {
	f := setup(t, build.NetworkHost)
	path, err := testimage.WriteOfficial(f.ctx, t.TempDir(), testimage.Spec{Name: "static", Cmd: []string{"say"}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := f.build("FROM "+path, `RUN ["/bin/prog", "write", "/x", "y", "ls", "/"]`)
	if err != nil {
		t.Fatal(err)
	}
	if got := img.Config.Config.Cmd; len(got) != 2 || got[0] != testimage.Program || len(img.Layers) != 2 ||
		!strings.Contains(f.log.String(), "bin dev etc") {
		t.Errorf("%q, %d layers, %q", got, len(img.Layers), f.log.String())
	}
	f.want(1, "0 x 640 0:0")
}
