package test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/freejail/freejail/"

// mayImport is the direction of imports: what each package may use of ours.
// The parts that the daemon composes do not know each other.
var mayImport = map[string][]string{
	".": {"cmd/cli", "driver"},
	"approval": {"image/document", "image/sign", "internal/cafile", "internal/durable", "internal/keylock",
		"internal/regular", "internal/strictjson", "policy"},
	"catalog": {"internal/printable"},
	"cmd/cli": {"approval", "cmd/internal/app", "cmd/internal/remote", "image", "image/registry", "image/sign",
		"internal/durable", "daemon", "daemon/client", "daemon/host", "daemon/judge",
		"daemon/mirror", "internal/printable", "internal/regular", "internal/signals", "internal/treecopy", "network",
		"policy"},
	"cmd/freejail-build": {"approval", "cmd/freejail-build/buildjail", "cmd/internal/app", "cmd/internal/remote",
		"devfs", "image", "image/build", "image/layout", "image/pkgbase", "image/registry", "image/sign",
		"image/unpack", "internal/printable", "internal/regular", "policy"},
	"cmd/freejail-build/buildjail": {
		"devfs", "image", "image/build", "internal/mount", "jail",
	},
	"cmd/internal/app":    {"internal/near", "internal/printable"},
	"cmd/internal/remote": {"image/registry", "image/sign", "internal/printable"},
	"daemon": {"approval", "catalog", "daemon/api", "daemon/client", "daemon/host", "daemon/images", "daemon/judge",
		"daemon/ledger", "daemon/task", "daemon/telemetry", "daemon/works", "devfs", "image", "image/layout",
		"image/registry",
		"image/unpack", "internal/aside", "internal/boot", "internal/bsd", "internal/durable", "internal/imagename",
		"internal/keylock", "internal/mount", "internal/printable", "internal/regular", "internal/remove",
		"internal/signals", "internal/spans", "internal/strictjson", "jail", "network", "nfsroot", "policy", "storage"},
	"daemon/api": {"daemon/client", "daemon/task", "daemon/works", "internal/bsd", "internal/inherit",
		"internal/places", "internal/spans", "internal/strictjson"},
	"daemon/client": {"internal/printable", "internal/spans"},
	"daemon/host": {"approval", "daemon/client", "devfs", "image", "image/layout", "image/registry", "image/sign",
		"internal/bsd", "internal/cafile", "internal/imagename", "internal/mount", "internal/near",
		"internal/printable", "internal/regular", "internal/remove", "jail", "network", "nfsroot", "policy", "storage"},
	"daemon/images": {"approval", "image/sign", "daemon/client", "daemon/host", "daemon/task", "daemon/telemetry", "image", "image/layout",
		"image/registry",
		"image/unpack", "internal/imagename", "internal/keylock", "internal/mount", "internal/regular", "nfsroot",
		"storage"},
	"daemon/judge": {"approval", "image/sign", "daemon/client", "daemon/host", "daemon/images", "daemon/ledger", "daemon/task",
		"daemon/telemetry", "devfs", "image", "image/layout", "internal/imagename", "internal/printable", "policy"},
	"daemon/ledger": {"daemon/client", "internal/aside", "internal/durable", "internal/printable", "policy"},
	"daemon/task": {"catalog", "daemon/client", "daemon/host", "daemon/telemetry", "daemon/works", "devfs",
		"image", "internal/bsd",
		"internal/durable", "internal/keylock", "internal/ktrace", "internal/mount", "internal/pace",
		"internal/places", "internal/printable", "internal/readable", "internal/regular", "internal/remove",
		"internal/signals", "internal/strictjson", "internal/treecopy", "jail", "network", "nfsroot", "policy", "storage"},
	"daemon/mirror":    {"daemon/host", "image/layout", "image/registry", "internal/crowd", "internal/regular"},
	"daemon/telemetry": {"daemon/client", "daemon/host", "internal/crowd", "internal/inherit", "internal/spans", "policy"},
	"daemon/works":     {"daemon/client"},
	"devfs":            nil,
	"driver":           {"daemon/client", "internal/printable", "internal/signals", "internal/spans"},
	"image": {"image/document", "internal/imagename", "internal/near", "internal/printable", "internal/regular",
		"internal/signals", "internal/strictjson"},
	"image/build": {"image", "image/blob", "image/chunked", "image/layout", "image/unpack", "internal/dataset",
		"internal/durable", "internal/imagename", "internal/pace", "internal/regular", "internal/remove",
		"internal/signals"},
	"image/document": {"internal/strictjson"},
	"image/blob":     {"image/document"},
	"image/chunked":  nil,
	"image/layout": {"image", "image/blob", "image/chunked", "image/document", "image/sign", "internal/aside", "internal/durable",
		"internal/imagename", "internal/keylock", "internal/regular", "internal/remove"},
	"image/pkgbase": {"image/blob", "internal/near", "internal/regular", "internal/strictjson"},
	"image/unpack":  {"image", "image/blob", "image/document", "internal/remove"},
	"image/registry": {"image", "image/blob", "image/document", "image/layout", "image/sign", "internal/cafile",
		"internal/durable", "internal/imagename", "internal/pace", "internal/printable", "internal/regular"},
	"image/sign":          {"image/document", "internal/imagename", "internal/strictjson"},
	"internal/boot":       nil,
	"internal/bsd":        nil,
	"internal/aside":      nil,
	"internal/crowd":      nil,
	"internal/dataset":    {"internal/mount"},
	"internal/durable":    nil,
	"internal/cafile":     nil,
	"internal/imagename":  nil,
	"internal/inherit":    nil,
	"internal/keylock":    nil,
	"internal/ktrace":     nil,
	"internal/mount":      {"internal/bsd"},
	"internal/near":       nil,
	"internal/pace":       nil,
	"internal/places":     nil,
	"internal/printable":  nil,
	"internal/treecopy":   {"internal/mount"},
	"internal/readable":   nil,
	"internal/regular":    {"internal/bsd"},
	"internal/remove":     nil,
	"internal/signals":    nil,
	"internal/spans":      nil,
	"internal/strictjson": nil,
	"internal/testcrash":  nil,
	"jail":                {"internal/bsd", "internal/ktrace", "internal/regular"},
	"network":             {"internal/bsd", "internal/keylock", "internal/printable", "internal/regular"},
	"nfsroot": {"internal/dataset", "internal/durable", "internal/mount", "internal/regular",
		"internal/strictjson"},
	"policy": {"internal/imagename", "internal/near", "internal/printable"},
	"storage": {"internal/boot", "internal/bsd", "internal/dataset", "internal/durable", "internal/keylock",
		"internal/mount", "internal/regular", "internal/remove"},
}

func TestImportDirections(t *testing.T) {
	if _, err := os.Stat("../go.mod"); err != nil {
		t.Skip("the source is not here")
	}
	seen := 0
	check(t, filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		pkg, _ := filepath.Rel("..", filepath.Dir(p))
		if d.IsDir() && (d.Name() == "build" && pkg == "." || d.Name() == ".git" || d.Name() == "tools") {
			return fs.SkipDir
		}
		top, _, _ := strings.Cut(pkg, "/")
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") || top == "example" || top == "test" ||
			strings.HasPrefix(pkg, "internal/test") {
			return nil
		}
		allowed, ok := mayImport[pkg]
		if !ok {
			t.Errorf("package %s has no place in the direction of imports", pkg)
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			ours, is := strings.CutPrefix(path, module)
			if seen++; is && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which %s may not", p, ours, pkg)
			}
		}
		return nil
	}))
	if seen < 100 {
		t.Errorf("only %d imports were seen", seen)
	}
}
