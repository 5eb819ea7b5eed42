package software

import (
	"archive/tar"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// both are the software with an image of each sort.
var both = []string{"nginx", "postgresql"}

// The images of FreeBSD and of Linux are the same but for the files: what they ask for, serve, mount and run.
func TestRecipesAgree(t *testing.T) {
	const from = "COPY --chmod=0755 bin/"
	for _, name := range both {
		native, debian := readExample(t, name+"/Jailfile"), readExample(t, name+"/Jailfile.debian")
		_, a, found := strings.Cut(native, from)
		_, b, _ := strings.Cut(debian, from)
		if !found || a != b {
			t.Errorf("%s: the recipes differ after %s:\n%s\n%s", name, from, a, b)
		}
	}
}

var pkg = regexp.MustCompile(`(?m)^PKG .*\n`)

// The recipes of FreeBSD's packages are built but for the packages, on an empty base; the policy beside one permits the
// image all that it asks for.
func TestPackagedImages(t *testing.T) {
	builder, daemon := program(t, "FREEJAIL_BUILD_BIN"), program(t, "FREEJAIL_BIN")
	base := emptyBase(t, builder)
	for _, name := range both {
		recipe := readExample(t, name+"/Jailfile")
		if !pkg.MatchString(recipe) {
			t.Errorf("the recipe of %s has no PKG", name)
		}
		file, out := filepath.Join(t.TempDir(), "Jailfile"), filepath.Join(t.TempDir(), name+".tar")
		check(t, os.WriteFile(file, []byte(pkg.ReplaceAllString(recipe, "")), 0o600))
		call(t, builder, "build", "-q", "--no-cache", "--platform", "freebsd/amd64", "--build-arg", "BASE="+base, "-f", file,
			"-o", out, filepath.Dir(example(t, name+"/Jailfile")))
		if said := call(t, builder, "inspect", out); !strings.Contains(said, "SIG") {
			t.Errorf("%s stops by no signal:\n%s", name, said)
		}
		policy, _, _ := strings.Cut(readExample(t, name+"/policy.hcl"), "\ntest ")
		everyName := filepath.Join(t.TempDir(), "policy.hcl")
		check(t, os.WriteFile(everyName, []byte(regexp.MustCompile(`(?m)^  images .*\n`).ReplaceAllString(policy, "")), 0o600))
		call(t, daemon, "policy", "check", out, "--policy", everyName)
	}
}

// emptyBase is an image of FreeBSD without files.
func emptyBase(t *testing.T, builder string) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "empty.tar"))
	check(t, err)
	w := tar.NewWriter(f)
	check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}))
	check(t, errors.Join(w.Close(), f.Close()))
	base := filepath.Join(dir, "base.tar")
	call(t, builder, "import", "-q", "--platform", "freebsd/amd64", "-o", base, f.Name())
	return base
}

func call(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%q: %v: %s", args, err, out)
	}
	return string(out)
}

// The tests beside the policies hold.
func TestPolicies(t *testing.T) {
	files, err := filepath.Glob(filepath.Dir(filepath.Dir(example(t, "nginx/policy.hcl"))) + "/*/policy.hcl")
	check(t, err)
	if len(files) < len(both) {
		t.Fatalf("there are the policies %q", files)
	}
	for _, file := range files {
		if said := call(t, program(t, "FREEJAIL_BIN"), "policy", "test", file); !strings.Contains(said, "assertions hold") {
			t.Errorf("%s: %s", file, said)
		}
	}
}
