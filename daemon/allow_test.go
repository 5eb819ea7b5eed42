package daemon

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// A mirror that says yes to whatever it is asked gives nobody a private image.
func TestAMirrorAllowsNothing(t *testing.T) {
	const password = "open-sesame-4711"
	dir, r := shortDir(t), newRemote(t, password)
	r.push(t, password, "private:1", greeter)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, digest, ok := strings.Cut(req.URL.Path, "/manifests/sha256:")
		if !ok || req.Method != http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", "sha256:"+digest)
		w.Header().Set("Content-Length", "100")
	}))
	t.Cleanup(web.Close)
	mirror := strings.TrimPrefix(web.URL, "http://")
	c, _ := daemonAt(t, dir, r.config(fmt.Sprintf("  mirrors = [%q]\n", mirror))+
		fmt.Sprintf("registry %q {\n  plain_http = true\n}\n", mirror))
	start := starter(t, c)
	spec := client.TaskSpec{Owner: "nomad", Image: r.host + "/private:1"}
	if err := start(spec); err == nil {
		t.Error("it was pulled without credentials")
	}
	spec.Auth = &client.Auth{Username: "fleet", Password: password}
	if err := start(spec); err != nil {
		t.Fatal(err)
	}
	spec.Auth = nil
	if err := start(spec); err == nil {
		t.Error("the mirror's word gave a private image away")
	}
}
