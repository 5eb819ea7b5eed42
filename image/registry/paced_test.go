package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// trickle answers with a byte now and then, until who asked has gone.
func trickle(w http.ResponseWriter, r *http.Request, status int) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	w.WriteHeader(status)
	for r.Context().Err() == nil {
		_, _ = w.Write([]byte(" "))
		_ = http.NewResponseController(w).Flush()
		time.Sleep(5 * time.Millisecond)
	}
}

// No answer that comes byte by byte is waited for to its end, whatever was asked for. Each case would go on for ever.
func TestTrickle(t *testing.T) {
	token := func(w http.ResponseWriter, r *http.Request, h http.Handler) {
		if r.URL.Path == "/token" {
			trickle(w, r, http.StatusOK)
			return
		}
		w.Header().Set("Www-Authenticate", `Bearer realm="/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	at := func(part string, status int) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, part) {
				trickle(w, r, status)
				return
			}
			h.ServeHTTP(w, r)
		}
	}
	for name, c := range map[string]struct {
		do   func(http.ResponseWriter, *http.Request, http.Handler)
		want string // in the error
	}{
		"a manifest":           {at("/manifests/", http.StatusOK), "nothing for 50ms, or less than 1048576 bytes a second"},
		"a blob":               {at("/blobs/", http.StatusOK), "nothing for 50ms, or less than 1048576 bytes a second"},
		"a token":              {token, "nothing for 50ms, or less than 1048576 bytes a second"},
		"referrers":            {at("/referrers/", http.StatusOK), "nothing for 50ms, or less than 1048576 bytes a second"},
		"an error":             {at("/manifests/", http.StatusBadRequest), "400"},
		"an error of a server": {at("/manifests/", http.StatusInternalServerError), "500"},
	} {
		t.Run(name, func(t *testing.T) {
			var slow atomic.Bool
			r, _ := pushed(t, ServerOptions{}, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if slow.Load() {
						c.do(w, r, h)
						return
					}
					h.ServeHTTP(w, r)
				})
			})
			slow.Store(true)
			impatient(t)
			attempts, stall, minRate = 2, 50*time.Millisecond, 1<<20
			_, err := client(t, r).Copy(ctx, loc(t, r.host+"/team/web:1"), loc(t, "oci:"+t.TempDir()+"/to:1"),
				CopyOptions{Referrers: true})
			wantError(t, err, c.want)
		})
	}
}

// A registry that breaks the connection after each byte is given up too.
func TestBytesOneByOne(t *testing.T) {
	impatient(t)
	attempts = 3
	r := &reader{ctx: ctx, size: 1 << 40, open: func(_ context.Context, at int64) (io.ReadCloser, int64, error) {
		return io.NopCloser(io.LimitReader(zeros{}, 1)), at, nil
	}}
	_, err := r.connect()
	check(t, err)
	n, err := io.Copy(io.Discard, r)
	if !errors.Is(err, io.ErrUnexpectedEOF) || n > 3 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A registry that takes nothing of what is sent to it is given up, too.
func TestUploadThatStands(t *testing.T) {
	let := make(chan struct{})
	r := serve(t, ServerOptions{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut || r.Method == http.MethodPatch {
				<-let // and does not read
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	defer close(let)
	impatient(t)
	attempts, stall, minRate, chunkSize = 2, 50*time.Millisecond, 1<<20, 64<<20
	s := newStore(t)
	putImage(t, s, "web", host, layer(t, "a", 32<<20))
	_, err := client(t, r).Copy(ctx, loc(t, "oci:"+layoutOf(t, s, "web")), loc(t, r.host+"/team/web:1"), CopyOptions{})
	wantError(t, err, fmt.Sprint("nothing for ", stall))
}
