package build

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// ADD fetches a file, once; its content is what the layer depends on.
func TestAddFetches(t *testing.T) {
	asked, text := 0, "#!/bin/sh\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path == "/gone" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, text)
	}))
	defer server.Close()
	cache := t.TempDir()
	add := func(line string) (*made, []string, error) {
		return container(t, nil, "FROM scratch\nENV U="+server.URL+"\n"+line+"\n", func(o *Options) { o.Cache = cache })
	}
	m, warned, err := add("ADD $U/prog?v=1 /bin/\nADD --chmod=0755 $U/prog?v=1 /run")
	check(t, err)
	m.want(0, "5 bin/ 755 0:0", "0 bin/prog 600 0:0")
	m.want(1, "0 run 755 0:0")
	m.has("run", text)
	if asked != 1 || len(warned) != 2 || !strings.Contains(warned[0], "write --checksum") {
		t.Errorf("asked %d times; %q", asked, warned)
	}
	text = "changed"
	m, _, err = add("ADD $U/prog?v=1 /bin/")
	check(t, err)
	m.has("bin/prog", text)
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
	m, warned, err = add("ARG S=" + sum + "\nADD --checksum=$S $U/x /x")
	check(t, err)
	if m.has("x", text); len(warned) != 0 {
		t.Error(warned)
	}
	before := asked // with the checksum the cache knows it
	if _, _, err = add("ARG S=" + sum + "\nADD --checksum=$S $U/x /x"); err != nil || asked != before {
		t.Errorf("%v, asked %d times", err, asked-before)
	}
	for line, want := range map[string]string{
		"ADD --checksum=sha256:" + strings.Repeat("0", 64) + " $U/x /y": "its digest is " + sum,
		"ADD --checksum=md5:0 $U/x /y":                                  "want sha256:",
		"ADD --checksum=" + sum + " x /y":                               "one file that is fetched",
		"ADD $U/gone /y":                                                "the server answers 404",
		"ADD $U /y/":                                                    "has no file name",
		"ADD http://me:s3cr3t@127.0.0.1/x /y":                           "http://me:xxxxx@127.0.0.1/x: the image's history",
		"ADD http://me:s3cr3t%zz@127.0.0.1/x /y":                        "not a valid URL",
		"ADD http:///x /y":                                              "not a valid URL",
		"ADD ftp://127.0.0.1/x /y":                                      "nothing is fetched",
		"COPY $U/x /y":                                                  "nothing is fetched",
		"ADD --keep-git-dir=true $U/x /y":                               "git is not supported",
	} {
		if _, _, err := add(line); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
	_, _, err = container(t, nil, "FROM scratch\nADD "+server.URL+"/x /x\n", func(o *Options) { o.Network = NetworkNone })
	if err == nil || !strings.Contains(err.Error(), "the build has no network") {
		t.Error(err)
	}
	fails(t, nil, "FROM scratch\nADD "+server.URL+"/x /x\n", 2, "without --checksum")
}

// What a server does in the middle of a file does not hold a build up, change the
// file or lead it past TLS.
func TestHostileServersOfAdd(t *testing.T) {
	was, rate := fetchTimeout, fetchRate
	fetchTimeout, fetchRate = 200*time.Millisecond, 1<<20
	defer func() { fetchTimeout, fetchRate = was, rate }()
	packed := "\x1f\x8b not gzip"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stalls" {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "x")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		for r.URL.Path == "/trickles" && r.Context().Err() == nil {
			fmt.Fprint(w, "x")
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
		w.Header().Set("Content-Encoding", "gzip")
		fmt.Fprint(w, packed)
	}))
	defer server.Close()
	for _, way := range []string{"/stalls", "/trickles"} {
		_, _, err := container(t, nil, "FROM scratch\nADD "+server.URL+way+" /x\n", nil)
		if err == nil || !strings.Contains(err.Error(), way+": nothing came for 200ms, or less than 1048576 bytes a second") {
			t.Error(err)
		}
	}
	m, _, err := container(t, nil, "FROM scratch\nADD "+server.URL+"/f /x\n", nil)
	check(t, err)
	m.has("x", packed)
	to, via := httptest.NewRequest("GET", "http://a/x", nil), []*http.Request{httptest.NewRequest("GET", "https://a/x", nil)}
	if err := (remote{}).mayFollow(to, via); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Error(err)
	}
	check(t, remote{Digest: "sha256:0"}.mayFollow(to, via))
}
