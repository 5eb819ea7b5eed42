package daemon

import (
	"os"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// What runs by a path is, by its digest, what it was before by its name; and what
// is denied to a name or required of it holds for its content by path and digest.
func TestOneContentByAllItsNames(t *testing.T) {
	dir := shortDir(t)
	const permit = "permit {\n  images = [\"web\", \"prod/**\"]\n  ports = [\"8080\"]\n}\npermit {\n  images = " +
		"[\"file/**\"]\n  ports = [\"8080\"]\n}\n"
	const manifest = `{"schemaVersion":1,"parameters":[{"name":"GREETING"}],"ports":[{"name":"http","port":8080}]}`
	c, stop := daemonAt(t, dir, "permit {\n  images = [\"web\"]\n  ports = [\"8080\"]\n}\n")
	path := archive(t, manifest)
	img, err := c.Import(t.Context(), client.ImportRequest{Path: path, Name: "web"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	runs := func(c *client.Client, image string) (start error, check bool) {
		d, err := c.CheckPolicy(t.Context(), client.TaskSpec{ID: "names", Owner: "nomad", Image: image})
		if err != nil {
			t.Fatal(image, err)
		}
		return starter(t, c)(client.TaskSpec{Owner: "nomad", Image: image}), d.Allowed
	}
	if err, ok := runs(c, path); !client.IsRefused(err) || ok {
		t.Errorf("an archive has what a name is permitted: %v, check %v", err, ok)
	}
	if err, ok := runs(c, img.Digest); err != nil || !ok {
		t.Errorf("by its digest the image web has lost its permit: %v, check %v", err, ok)
	}
	for rule, word := range map[string]string{
		"require {\n  images = [\"prod/**\"]\n  signer = [\"release\"]\n}\n": "signature",
		"deny {\n  images = [\"prod/**\"]\n  ports = [\"8080\"]\n}\n":        "denied at",
	} {
		stop(os.Kill)
		c, stop = daemonAt(t, dir, permit+rule)
		if _, err := c.Import(t.Context(), client.ImportRequest{Path: path, Name: "prod/web"}, nil); err != nil {
			t.Fatal(err)
		}
		for _, image := range []string{"prod/web", path, img.Digest} {
			if err, ok := runs(c, image); !client.IsRefused(err) || !strings.Contains(err.Error(), word) || ok {
				t.Errorf("%s: %s passes: %v, check %v", rule, image, err, ok)
			}
		}
		if err, ok := runs(c, "web"); err != nil || !ok {
			t.Errorf("%s: the image web, by its name: %v, check %v", rule, err, ok)
		}
	}
}
