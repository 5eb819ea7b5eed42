package build

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const goldenFile = `FROM scratch
NAME golden
COPY src /srv/
ADD x.tar /opt/
COPY --chown=10:11 --chmod=0600 src/b /srv/z
WORKDIR /srv/work
ENV A=b
PORT http 80 service=golden
LABEL z=1 a=2
`

// What a build makes of the same input must never change unnoticed: these are
// of the uncompressed layers, which no compressor's version changes.
var goldenLayers = []string{
	"sha256:be4580dc59e3e830fb63bc3b409494c50f0aa137a96798c2dfc2007f6437c4ca",
	"sha256:23e41d3f06e450f17ffb2c60052bf93f79318957cc20e5153e203529eaa4f85f",
	"sha256:5282f28c107781ca17e4540a1d676f5df473c5a7ac2d503001ec6c478cde400b",
	"sha256:fde9253fb1a5887eda2df689bd99bece6f9719a3ad1469389a9862a7f298d0e0",
}

// goldenImage is of the compressed layers and the config too.
const goldenImage = "sha256:722bf2b0069a1d42d7d8565568bb94bee963fd428f4cbfd20b495a46b5de7fae"

// anotherUser builds the same in a process of somebody else, with an environment
// and a clock's zone of its own.
func anotherUser(t *testing.T, context files) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBuildOfAnother$", "-test.count=1")
	dir, err := os.MkdirTemp("", "other-") // a test's own directory is not for others
	check(t, err)
	defer os.RemoveAll(dir)
	context.write(t, filepath.Join(dir, "context"))
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		check(t, os.Chown(dir, 65534, 65534))
		prog := filepath.Join(dir, "prog")
		b, err := os.ReadFile(os.Args[0])
		check(t, err)
		check(t, os.WriteFile(prog, b, 0o755))
		cmd.Path = prog
	}
	cmd.Env = []string{"FREEJAIL_BUILD_IN=" + dir, "TMPDIR=" + dir, "HOME=/nonexistent", "TZ=Asia/Kathmandu",
		"LC_ALL=tr_TR.UTF-8", "PATH="}
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), goldenImage) {
		t.Errorf("another user's build: %v %s", err, out)
	}
}

// TestBuildOfAnother is what anotherUser runs.
func TestBuildOfAnother(t *testing.T) {
	dir := os.Getenv("FREEJAIL_BUILD_IN")
	if dir == "" {
		t.Skip("it is for a process of its own")
	}
	img, err := Build(t.Context(), Options{Context: filepath.Join(dir, "context"),
		Output: filepath.Join(dir, "image.tar"), Platform: freebsd})
	check(t, err)
	fmt.Println(img.Digest)
}

// messy writes the same files in another order, with other times, owners and
// modes.
func messy(t *testing.T, context files, order int, umask int, when time.Time) string {
	t.Helper()
	dir := t.TempDir()
	old := unix.Umask(umask)
	defer unix.Umask(old)
	names := make([]string, 0, len(context))
	for n := range context {
		names = append(names, n)
	}
	slices.Sort(names)
	if order%2 == 1 {
		slices.Reverse(names)
	}
	for _, n := range names {
		files{n: context[n]}.write(t, dir)
	}
	check(t, filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.Type()&os.ModeSymlink != 0 {
			return err
		}
		when = when.Add(time.Second)
		if err := os.Chtimes(p, when, when); err != nil {
			return err
		}
		if os.Geteuid() == 0 && order%2 == 1 {
			return os.Lchown(p, 1000+order, 1000)
		}
		return nil
	}))
	return dir
}

func goldenContext(t *testing.T) files {
	context := files{"Jailfile": goldenFile, "x.tar": tarOf(t, someTar...), "src/b": "bee", "src/a": "#!a",
		"src/d/c": "sea", "src/link": "-> a", "src/empty/": ""}
	for i := range 40 { // a directory whose order the file system chooses
		context[fmt.Sprintf("src/many/%c%d", 'a'+i*7%26, i)] = strings.Repeat("x", i*100)
	}
	return context
}

func TestEqualInputGivesAnEqualImage(t *testing.T) {
	context := goldenContext(t)
	var first *made
	var bytes []byte
	cache := t.TempDir()
	zone := time.Local
	defer func() { time.Local = zone }()
	for i, umask := range []int{0o022, 0o077, 0o002, 0o027} {
		time.Local = time.FixedZone("there", i*3600)
		m := &made{T: t, path: filepath.Join(t.TempDir(), "image.tar")}
		o := Options{Context: messy(t, context, i, umask, time.Unix(int64(1e9+i*1e6), 0)), Output: m.path,
			Platform: freebsd}
		if i > 1 {
			o.Cache = cache
		}
		procs := runtime.GOMAXPROCS(i + 1)
		img, err := Build(t.Context(), o)
		runtime.GOMAXPROCS(procs)
		check(t, err)
		m.take(img)
		b, err := os.ReadFile(m.path)
		check(t, err)
		if i == 0 {
			first, bytes = m, b
			continue
		}
		if m.img.Digest != first.img.Digest || string(b) != string(bytes) {
			t.Errorf("build %d gave %s, the first %s", i, m.img.Digest, first.img.Digest)
			for n := range m.img.Layers {
				if !slices.Equal(m.layer(n), first.layer(n)) {
					t.Errorf("layer %d:\n%q\n%q", n, m.layer(n), first.layer(n))
				}
			}
		}
	}
	var got []string
	for _, d := range first.img.Config.RootFS.DiffIDs {
		got = append(got, d.String())
	}
	if !slices.Equal(got, goldenLayers) {
		t.Errorf("the layers changed:\n%q,", got)
	}
	if first.img.Digest != goldenImage {
		t.Errorf("the image is %s: with equal layers another compressor, or another config", first.img.Digest)
	}
	anotherUser(t, context)
	// And input that is not equal gives another.
	context["src/b"] = "bea"
	img, err := Build(t.Context(), Options{Context: messy(t, context, 0, 0o022, time.Unix(0, 0)),
		Output: filepath.Join(t.TempDir(), "x.tar"), Platform: freebsd})
	if err != nil || img.Digest == first.img.Digest {
		t.Errorf("another content has the same digest: %v", err)
	}
}

func TestEpochFromEnv(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "0": 0, "1700000000": 1700000000} {
		t.Setenv("SOURCE_DATE_EPOCH", text)
		if got, err := EpochFromEnv(); err != nil || got.Unix() != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"x", "-1", "1.5", "99999999999999"} {
		t.Setenv("SOURCE_DATE_EPOCH", text)
		if got, err := EpochFromEnv(); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
