package telemetry

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/crowd"
	"github.com/freejail/freejail/internal/inherit"
)

// How much a listener takes on. Scrapers come every few seconds and keep their connection.
const (
	maxConns     = 32
	maxScrapes   = 4
	headerTime   = 5 * time.Second
	scrapeTime   = 30 * time.Second
	idleTime     = 5 * time.Minute
	maxHeader    = 16 << 10
	readAgain    = 30 * time.Second
	endOfScrapes = 5 * time.Second
)

// listenAgain is a variable for tests.
var listenAgain = 10 * time.Second

// listenFD names the environment variable that carries the listening socket over an upgrade.
const listenFD = "FREEJAIL_METRICS_FD"

// Handler answers with what is registered, in the format that is asked for.
func (r *Recorder) Handler(log hclog.Logger, inFlight int) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: inFlight, ErrorLog: log.StandardLogger(&hclog.StandardLoggerOptions{
			ForceLevel: hclog.Warn})})
}

// Listener answers scrapes at the address that the host's configuration has.
type Listener struct {
	cfg     host.Metrics
	handler http.Handler
	log     hclog.Logger
	tell    func(message string)
	token   kept[string]
	cert    kept[*tls.Certificate]
	crowd   *crowd.Crowd
	left    net.Listener // by the daemon before; nil for none

	mu      sync.Mutex
	socket  *net.TCPListener
	server  *http.Server
	problem string // why it does not answer now
}

// NewListener answers nobody before Run. It tells why it cannot, and when it can again.
func NewListener(cfg host.Metrics, r *Recorder, log hclog.Logger, tell func(message string)) *Listener {
	l := &Listener{cfg: cfg, log: log, tell: tell, token: kept[string]{read: cfg.Token},
		cert: kept[*tls.Certificate]{read: cfg.Certificate}, crowd: crowd.New(maxConns)}
	m := http.NewServeMux()
	m.Handle("GET /metrics", l.authorized(l.crowd.Answer(r.Handler(log, maxScrapes))))
	l.handler = m
	var err error
	if l.left, err = inherit.Listener(listenFD); err != nil {
		log.Warn("metrics", "error", err)
	}
	return l
}

// Run answers until ctx ends. What keeps it from that is tried again: no task waits for it.
func (l *Listener) Run(ctx context.Context) {
	for ctx.Err() == nil && l.cfg.Listen.IsValid() {
		err := l.listen(l.inherited())
		l.say(err)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenAgain):
		}
	}
	if left := l.inherited(); left != nil { // this daemon answers nowhere
		if err := left.Close(); err != nil {
			l.log.Warn("metrics", "error", err)
		}
	}
	<-ctx.Done()
	if err := l.close(); err != nil {
		l.log.Warn("metrics", "error", err)
	}
}

// inherited is what the daemon before has left, once.
func (l *Listener) inherited() net.Listener {
	left := l.left
	l.left = nil
	return left
}

// Problem is why scrapes are not answered now; empty where they are.
func (l *Listener) Problem() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem
}

// say tells what is new.
func (l *Listener) say(err error) {
	now := ""
	if err != nil {
		now = err.Error()
	}
	l.mu.Lock()
	before := l.problem
	l.problem = now
	l.mu.Unlock()
	switch {
	case now == before:
	case now == "":
		l.tell("scrapes are answered at " + l.cfg.Listen.String())
	default:
		l.tell("scrapes are not answered, trying again: " + now)
	}
}

// listen begins to answer, on the socket that was left to it if that has its address.
func (l *Listener) listen(left net.Listener) error {
	if left != nil && left.Addr().String() != l.cfg.Listen.String() {
		if err := left.Close(); err != nil {
			l.log.Warn("metrics", "error", err)
		}
		left = nil
	}
	if left == nil {
		if err := l.cfg.CheckFiles(); err != nil {
			return err
		}
		var err error
		if left, err = net.Listen("tcp", l.cfg.Listen.String()); err != nil {
			return fmt.Errorf("%s: metrics: %w", l.cfg.Where, err)
		}
	}
	socket, ok := left.(*net.TCPListener)
	if !ok {
		return errors.Join(fmt.Errorf("%s: not a TCP socket", listenFD), left.Close())
	}
	l.serve(socket)
	return nil
}

func (l *Listener) serve(socket *net.TCPListener) {
	server := &http.Server{Handler: l.handler, ReadHeaderTimeout: headerTime, ReadTimeout: headerTime,
		WriteTimeout: scrapeTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ConnState: l.crowd.Changed,
		ConnContext: crowd.WithConn,
		ErrorLog:    l.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})}
	l.mu.Lock()
	l.socket, l.server = socket, server
	l.mu.Unlock()
	var answers net.Listener = socket
	if l.cfg.CertFile != "" {
		server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.cert.get(l.log) }}
		answers = tls.NewListener(socket, server.TLSConfig)
	}
	go func() {
		if err := server.Serve(answers); !errors.Is(err, http.ErrServerClosed) {
			l.say(err)
		}
	}()
}

func (l *Listener) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server == nil {
		return nil
	}
	return l.server.Close()
}

// Keep runs what executes another program in this process's place, with an environment that leaves the socket to it:
// scrapes that are under way end, those that come wait. If it fails, they are answered here again.
func (l *Listener) Keep(env []string, replace func(env []string) error) error {
	l.mu.Lock()
	socket, server := l.socket, l.server
	l.mu.Unlock()
	if socket == nil {
		return replace(env)
	}
	f, err := socket.File()
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), endOfScrapes)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		l.log.Warn("a scrape is cut short", "error", err)
	}
	err = inherit.Pass(env, listenFD, f, replace)
	again, lerr := net.FileListener(f)
	if lerr == nil {
		lerr = l.listen(again)
	}
	return errors.Join(err, lerr)
}

// authorized answers those who show the token, if there is one.
func (l *Listener) authorized(h http.Handler) http.Handler {
	if l.cfg.TokenFile == "" {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want, err := l.token.get(l.log)
		shown, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case err != nil: // the log has it
			http.Error(w, "the token cannot be read on this host", http.StatusServiceUnavailable)
		case !ok || !same(shown, want):
			w.Header().Set("WWW-Authenticate", `Bearer realm="freejail"`)
			http.Error(w, "a token is needed: Authorization: Bearer TOKEN", http.StatusUnauthorized)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// same compares in a time that tells nothing of either text.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// kept is what was read of files: anew every now and then, as certificates are replaced and tokens changed. What was
// read before stays where they cannot be read.
type kept[T any] struct {
	read func() (T, error)

	mu    sync.Mutex
	value T
	err   error
	last  time.Time
	ok    bool
}

func (k *kept[T]) get(log hclog.Logger) (T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.last.IsZero() && time.Since(k.last) < readAgain {
		return k.value, k.err
	}
	k.last = time.Now()
	v, err := k.read()
	switch {
	case err == nil:
		k.value, k.err, k.ok = v, nil, true
	case k.ok:
		log.Warn("metrics: what was read before is used", "error", err)
	default:
		log.Warn("metrics", "error", err)
		k.err = err
	}
	return k.value, k.err
}
