package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/testimage"
)

// measured is what of the model is measured on the host that simulates.
type measured struct {
	request time.Duration // processor time for a request of a document, of the registry and who asks it
	cores   int           // of the registry's host
	rate    float64       // bytes a second of one layer over the loopback
}

// assumed is for tests, whose outcome is not to depend on the host.
var assumed = measured{request: 200 * time.Microsecond, cores: 4}

func (m measured) String() string {
	return fmt.Sprintf("a registry (freejail-build serve) takes %s of a processor for a document, with who asks it, "+
		"and gives a layer by %.0f MB/s; its host is taken to have %d processors", m.request.Round(time.Microsecond),
		m.rate/1e6, m.cores)
}

// measureRegistry asks a real registry over the loopback.
func measureRegistry(ctx context.Context, dir string) (m measured, err error) {
	srv, err := registry.NewServer(dir+"/images", registry.ServerOptions{})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	web := httptest.NewServer(srv)
	defer web.Close()
	at := strings.TrimPrefix(web.URL, "http://")
	file, err := testimage.Write(ctx, dir, testimage.Spec{Name: "web", Cmd: []string{"x"}})
	if err != nil {
		return m, err
	}
	c, err := registry.NewClient(registry.Config{Hosts: []registry.Host{{Name: at, PlainHTTP: true}}})
	if err != nil {
		return m, err
	}
	from, err := registry.ParseLocation("oci-archive:" + file)
	if err != nil {
		return m, err
	}
	to, err := registry.ParseLocation(at + "/team/web:1.0")
	if err != nil {
		return m, err
	}
	if _, err := c.Copy(ctx, from, to, registry.CopyOptions{}); err != nil {
		return m, err
	}
	img, err := c.Describe(ctx, to.Ref, image.HostPlatforms())
	if err != nil {
		return m, err
	}
	m.cores = 4
	if m.request, err = perRequest(web.URL + "/v2/team/web/manifests/1.0"); err != nil {
		return m, err
	}
	began := time.Now()
	n, err := fetch(web.URL + "/v2/team/web/blobs/" + img.Layers[0].Digest.String())
	m.rate = float64(n) / time.Since(began).Seconds()
	return m, err
}

// perRequest is the processor time of one request among many at once.
func perRequest(url string) (time.Duration, error) {
	const requests = 5000
	before, err := used()
	if err != nil {
		return 0, err
	}
	var all sync.WaitGroup
	errs := make([]error, 2*runtime.NumCPU())
	for i := range errs {
		all.Go(func() {
			for range requests / len(errs) {
				if _, err := fetch(url); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	all.Wait()
	after, err := used()
	return (after - before) / requests, errors.Join(append(errs, err)...)
}

// used is the processor time of this process.
func used() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

func fetch(url string) (n int64, err error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	n, cerr := io.Copy(io.Discard, resp.Body)
	return n, errors.Join(err, cerr, resp.Body.Close())
}

// machine is where it was measured.
func machine() string {
	name := "a processor of no name"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s/%s, %d CPUs, %s, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), name,
		time.Now().UTC().Format(time.DateOnly))
}
