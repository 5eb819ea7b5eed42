package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An image goes to a registry that is served here, and back, signed.
func TestPushPullServeSign(t *testing.T) {
	tmp := t.TempDir()
	context1 := filepath.Join(tmp, "context")
	for path, text := range map[string]string{"Jailfile": "FROM scratch\nNAME web\nCOPY --chmod=755 file /file\nCMD " +
		"[\"/file\"]\n", "file": "hello"} {
		if err := os.MkdirAll(context1, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(context1, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("FREEJAIL_KEY_PASSWORD", "secret")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	var log bytes.Buffer
	go func() {
		ended <- run(serving, []string{"serve", "--listen", at, filepath.Join(tmp, "registry")}, &log, &log)
	}()
	for {
		resp, err := http.Get("http://" + at + "/v2/")
		if err == nil {
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
			break
		}
		select {
		case code := <-ended:
			t.Fatalf("serve ended with %d: %s", code, log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	do := func(want int, args ...string) (out, messages string) {
		t.Helper()
		var o, m bytes.Buffer
		if code := run(t.Context(), args, &o, &m); code != want {
			t.Fatalf("%s: exit code %d, want %d: %s%s", strings.Join(args, " "), code, want, o.String(), m.String())
		}
		return strings.TrimSpace(o.String()), m.String()
	}
	image, back, key := filepath.Join(tmp, "web.tar"), filepath.Join(tmp, "back.tar"), filepath.Join(tmp, "release")
	digest, _ := do(0, "build", "-q", "-o", image, context1)
	plain := []string{"--plain-http", at}
	remote := func(args ...string) []string { return append(args, plain...) }
	if got, said := do(0, remote("push", image, at+"/team/web:1")...); got != digest ||
		!strings.Contains(said, "web is at "+at+"/team/web:1\n") {
		t.Errorf("pushed %s, want %s: %s", got, digest, said)
	}
	if got, _ := do(0, remote("--json", "push", image, at+"/team/web:1")...); !strings.Contains(got,
		`"name": "`+at+`/team/web:1"`) {
		t.Errorf("what was pushed has no name: %s", got)
	}
	// What is in a registry, a layout or a store is looked at as a file is.
	layout := filepath.Join(tmp, "layout")
	do(0, "copy", "-q", "oci-archive:"+image, "oci:"+layout+":web")
	do(0, "copy", "-q", "oci-archive:"+image, "store:"+filepath.Join(tmp, "store"))
	for _, arg := range []string{at + "/team/web:1", at + "/team/web@" + digest, "oci:" + layout + ":web", "store:" +
		filepath.Join(tmp, "store") + ":web", layout} {
		if out, _ := do(0, remote("inspect", "--json", arg)...); !strings.Contains(out, digest) {
			t.Errorf("inspect %s: %s", arg, out)
		}
		if out, _ := do(0, remote("history", arg)...); !strings.Contains(out, "file /file") {
			t.Errorf("history %s: %s", arg, out)
		}
		if out, _ := do(0, remote("validate", arg)...); !strings.Contains(out, "no faults found") {
			t.Errorf("validate %s: %s", arg, out)
		}
		for _, more := range []string{"--no-files=false", "--no-files"} {
			if out, _ := do(0, remote("diff", more, image, arg)...); out != "no difference" {
				t.Errorf("diff %s %s: %s", more, arg, out)
			}
		}
	}
	if _, said := do(1, remote("inspect", at+"/team/nothere:1")...); !strings.Contains(said, "/team/nothere:1") {
		t.Errorf("inspect of nothing: %s", said)
	}
	if _, said := do(1, "inspect", filepath.Join(tmp, "nothere.tar")); !strings.Contains(said, "nothere.tar") ||
		!strings.Contains(said, "no such file") {
		t.Errorf("inspect of no file: %s", said)
	}
	do(0, "keygen", "-o", key)
	do(1, "keygen", "-o", key) // no key is replaced
	do(1, remote("verify", "--key", key+".pub", at+"/team/web:1")...)
	do(0, remote("sign", "--key", key+".key", at+"/team/web:1")...)
	if out, _ := do(0, remote("verify", "--key", key+".pub", at+"/team/web:1")...); !strings.Contains(out, at+
		"/team/web@"+digest) {
		t.Errorf("verify says %q", out)
	}
	if got, said := do(0, remote("pull", "-o", back, at+"/team/web:1")...); got != digest ||
		!strings.Contains(said, "with 1 signatures") {
		t.Errorf("pulled %s: %s", got, said)
	}
	do(0, "verify", "--key", key+".pub", back)
	if out, _ := do(0, "inspect", back); !strings.Contains(out, digest) {
		t.Errorf("inspect says %s", out)
	}
	do(0, remote("copy", at+"/team/web:1", "oci:"+tmp+"/layout")...)
	if err := os.WriteFile(filepath.Join(context1, "Jailfile"), []byte("FROM "+at+"/team/web:1\nENV A=b\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	do(0, remote("build", "-q", "-o", filepath.Join(tmp, "on.tar"), context1)...)
	if out, _ := do(0, "history", filepath.Join(tmp, "on.tar")); !strings.Contains(out, "file /file") {
		t.Errorf("what was built on a pulled image has the history %s", out)
	}
	do(0, "build", "-q", "-o", filepath.Join(tmp, "no.tar"), context1) // this host needs no --plain-http
	t.Setenv("FREEJAIL_KEY_PASSWORD", "another")
	if _, said := do(1, remote("sign", "--key", key+".key", at+"/team/web:1")...); !strings.Contains(said,
		"wrong password") {
		t.Errorf("sign says %s", said)
	}
	for _, args := range [][]string{{"push", image, "web"}, {"pull", at + "/x"}, {"pull", "-o", "a:b", at + "/x"},
		{"copy", "x", "y"}, {"sign", image}, {"push", "a:b", at + "/x"},
		{"serve", "--listen", "0.0.0.0:0", tmp}, {"serve", "--listen", "[::]:0", "--htpasswd", "x", tmp},
		{"serve", "--tls-cert", "x", tmp}, {"serve", "--listen", "x", tmp}, {"serve", "--max-blob", "-1", tmp}} {
		do(2, args...)
	}
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("serve ended with %d: %s", code, log.String())
	}
}
