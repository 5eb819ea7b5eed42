package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/printable"
)

type serveFlags struct {
	registry.ServerOptions
	listen, cert, key, htpasswd string
	quiet                       bool
}

func (a *commands) serveCmd() *cobra.Command {
	f := &serveFlags{}
	c := app.Command("serve [flags] DIRECTORY", "serve a directory as a registry", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error { return a.serve(ctx, f, args[0]) })
	c.Long = `Serve a directory as a registry, by the OCI distribution specification 1.1.
The directory is created if it does not exist. Each repository in it is an OCI
layout, named as the repository, with + for /.

Where other hosts can reach it, pushes need users (--htpasswd), and passwords need
TLS. Unfinished uploads, and blobs that no manifest references, are removed after
a day.`
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:5000", "ADDRESS:PORT")
	c.Flags().StringVar(&f.cert, "tls-cert", "", "certificate in PEM, with its chain")
	c.Flags().StringVar(&f.key, "tls-key", "", "the private key of the certificate, in PEM")
	c.Flags().StringVar(&f.htpasswd, "htpasswd", "", "users: a file as written by htpasswd -B")
	c.Flags().BoolVar(&f.ReadOnly, "read-only", false, "no pushes and no deletions")
	f.MaxBlob = 16 << 30
	c.Flags().Func("max-blob", "the largest blob accepted, a `SIZE` (default 16GiB)", func(text string) (err error) {
		if f.MaxBlob, err = units.RAMInBytes(text); err == nil && f.MaxBlob <= 0 {
			err = errors.New("not a valid size (for example 16GiB)")
		}
		return err
	})
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "do not log requests")
	return c
}

// check refuses what would let anyone push, or passwords be read on the way.
func (f *serveFlags) check() error {
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return app.Usagef("--listen %s: expected ADDRESS:PORT", f.listen)
	}
	ip := net.ParseIP(host)
	local := host == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case (f.cert == "") != (f.key == ""):
		return app.Usagef("--tls-cert and --tls-key are needed together")
	case !local && f.htpasswd == "" && !f.ReadOnly:
		return app.Usagef("anyone who reaches %s could push: add --htpasswd FILE or --read-only", f.listen)
	case !local && f.htpasswd != "" && f.cert == "":
		return app.Usagef("passwords would be sent in clear text: " +
			"add --tls-cert and --tls-key, or listen on 127.0.0.1 behind a TLS proxy")
	}
	return nil
}

func (a *commands) serve(ctx context.Context, f *serveFlags, dir string) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	o := f.ServerOptions
	if f.htpasswd != "" {
		if o.Users, err = registry.ReadUsers(f.htpasswd); err != nil {
			return err
		}
	}
	if !f.quiet {
		o.LogAccess = func(line string) { printable.Fprintln(a.Messages, time.Now().Format(time.RFC3339), line) }
	}
	s, err := registry.NewServer(dir, o)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", f.listen)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	go s.Run(ctx)
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10}
	printable.Fprintf(a.Messages, "serving %s on %s\n", dir, l.Addr())
	served := make(chan error, 1)
	go func() {
		if f.cert != "" {
			served <- srv.ServeTLS(l, f.cert, f.key)
		} else {
			served <- srv.Serve(l)
		}
	}()
	select {
	case err = <-served:
	case <-ctx.Done(): // requests under way get a moment
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err = srv.Shutdown(end); errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close()
		}
	}
	return errors.Join(err, s.Close())
}
