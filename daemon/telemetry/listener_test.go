package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/testcert"
)

func init() { listenAgain = 10 * time.Millisecond }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// freePort is an address of loopback that nobody has.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// running is a listener that answers, and what it has told.
func running(t *testing.T, cfg host.Metrics) (*Listener, chan string) {
	t.Helper()
	told := make(chan string, 100)
	l := NewListener(cfg, New("test"), hclog.NewNullLogger(), func(text string) { told <- text })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return l, told
}

// reached waits until something accepts.
func reached(t *testing.T, at netip.AddrPort) {
	t.Helper()
	for {
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			c.Close()
			return
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

// scrape asks once, and gives the answer's status and body.
func scrape(t *testing.T, c *http.Client, url, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	resp, err := c.Do(r)
	must(t, err)
	b, err := io.ReadAll(resp.Body)
	must(t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode, string(b)
}

// certificate makes one for 127.0.0.1 in files.
func certificate(t *testing.T, cert, key string, serial int64) *x509.CertPool {
	t.Helper()
	testcert.Write(t, cert, key, serial)
	b, err := os.ReadFile(cert)
	must(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatalf("no certificate in %s", b)
	}
	return pool
}

func TestOnlyTheTokenIsAnswered(t *testing.T) {
	dir := t.TempDir()
	cfg := host.Metrics{Listen: freePort(t), CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"),
		TokenFile: filepath.Join(dir, "token"), Where: "freejail.hcl:1"}
	pool := certificate(t, cfg.CertFile, cfg.KeyFile, 1)
	const token = "0123456789abcdef"
	must(t, os.WriteFile(cfg.TokenFile, []byte(token+"\n"), 0o600))
	l, _ := running(t, cfg)
	reached(t, cfg.Listen)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	url := "https://" + cfg.Listen.String()
	for shown, want := range map[string]int{"": 401, "Bearer": 401, "Bearer ": 401, token: 401, "Basic " + token: 401,
		"Bearer 0123456789abcdeF": 401, "Bearer " + token + " ": 200, // Go trims the space
		"Bearer " + token + "0": 401, "Bearer " + token: 200} {
		status, body := scrape(t, c, url+"/metrics", shown)
		if status != want || strings.Contains(body, "freejail_build_info") != (want == 200) {
			t.Errorf("%q: %d %s", shown, status, body)
		}
	}
	if status, _ := scrape(t, c, url+"/debug/pprof/", "Bearer "+token); status != 404 {
		t.Errorf("another path: %d", status)
	}
	plain, err := net.Dial("tcp", cfg.Listen.String())
	must(t, err)
	defer plain.Close()
	_, err = plain.Write([]byte("GET /metrics HTTP/1.0\r\nAuthorization: Bearer " + token + "\r\n\r\n"))
	must(t, err)
	if b, err := io.ReadAll(plain); strings.Contains(string(b), "freejail_") {
		t.Errorf("without TLS: %s %v", b, err)
	}

	// What is replaced counts without a restart, and what cannot be read does not end it.
	certificate(t, cfg.CertFile, cfg.KeyFile, 2)
	must(t, os.WriteFile(cfg.TokenFile, []byte("fedcba9876543210"), 0o600))
	age(&l.cert)
	age(&l.token)
	conn, err := tls.Dial("tcp", cfg.Listen.String(), &tls.Config{InsecureSkipVerify: true})
	must(t, err)
	if n := conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); n != 2 {
		t.Errorf("the certificate is number %d", n)
	}
	must(t, conn.Close())
	if status, _ := scrape(t, c, url+"/metrics", "Bearer fedcba9876543210"); status != 200 {
		t.Errorf("the new token: %d", status)
	}
	must(t, os.Remove(cfg.TokenFile))
	age(&l.token)
	if status, _ := scrape(t, c, url+"/metrics", "Bearer fedcba9876543210"); status != 200 {
		t.Errorf("with the file gone: %d", status)
	}
}

// age has what is kept read again.
func age[T any](k *kept[T]) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last = time.Now().Add(-time.Hour)
}

// Connections that say nothing keep nobody out, however many they are.
func TestSilentConnectionsMakeWay(t *testing.T) {
	cfg := host.Metrics{Listen: freePort(t)}
	l, _ := running(t, cfg)
	reached(t, cfg.Listen)
	for range 3 * maxConns {
		c, err := net.Dial("tcp", cfg.Listen.String())
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte("GET /metrics HT")) // never ends
		must(t, err)
	}
	if status, _ := scrape(t, &http.Client{}, "http://"+cfg.Listen.String()+"/metrics", ""); status != 200 {
		t.Errorf("status %d", status)
	}
	if n := l.crowd.Len(); n > maxConns {
		t.Errorf("%d connections are open", n)
	}
}

// An address that somebody else has is tried again, and both are told.
func TestListenerWaitsForItsAddress(t *testing.T) {
	at := freePort(t)
	other, err := net.Listen("tcp", at.String())
	must(t, err)
	cfg := host.Metrics{Listen: at, Where: "freejail.hcl:7"}
	l, told := running(t, cfg)
	if text := <-told; !strings.Contains(text, "freejail.hcl:7: metrics: ") || !strings.Contains(text, "in use") {
		t.Errorf("told: %s", text)
	}
	if !strings.Contains(l.Problem(), "in use") {
		t.Errorf("problem: %s", l.Problem())
	}
	must(t, other.Close())
	if text := <-told; text != "scrapes are answered at "+at.String() || l.Problem() != "" {
		t.Errorf("told: %s", text)
	}
}

// The next daemon has the socket, with those who have connected since; and where there is none, this one goes on.
func TestSocketIsHandedOver(t *testing.T) {
	cfg := host.Metrics{Listen: freePort(t)}
	l, _ := running(t, cfg)
	reached(t, cfg.Listen)
	url := "http://" + cfg.Listen.String() + "/metrics"
	failed := errors.New("no such binary")
	waiting := make(chan int, 2)
	ask := func() {
		status, _ := scrape(t, &http.Client{Transport: &http.Transport{}}, url, "")
		waiting <- status
	}
	err := l.Keep(nil, func([]string) error {
		go ask()
		return failed
	})
	if !errors.Is(err, failed) || <-waiting != 200 {
		t.Errorf("a scrape during an upgrade that fails: %v", err)
	}
	err = l.Keep(nil, func(env []string) error {
		text, ok := strings.CutPrefix(env[0], listenFD+"=")
		fd, err := strconv.Atoi(text)
		if !ok || err != nil {
			return fmt.Errorf("environment %q: %w", env, err)
		}
		go ask()
		own, err := syscall.Dup(fd) // which exec would have left to it
		must(t, err)
		t.Setenv(listenFD, strconv.Itoa(own))
		running(t, cfg)
		if status := <-waiting; status != 200 {
			t.Errorf("a scrape of the next daemon: %d", status)
		}
		return nil
	})
	must(t, err)
	if os.Getenv(listenFD) != "" {
		t.Error("programs that are started have the socket's variable")
	}
}
