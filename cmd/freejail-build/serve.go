package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/printable"
)

type serveFlags struct {
	listen, cert, key, htpasswd, maxBlob string
	readOnly, quiet                      bool
}

func (a *commands) serveCmd() *cobra.Command {
	f := &serveFlags{}
	c := &cobra.Command{Use: "serve [flags] DIRECTORY", Short: "serve a directory as a registry",
		Long: `Serve a directory as a registry, by the OCI distribution specification 1.1.
The directory is made where it is missing. Each repository in it is an OCI
layout, named as the repository, with + for /.

Where others than this host can reach it, pushes need users (--htpasswd), and
passwords need TLS. Unfinished uploads, and blobs that no manifest names, are
removed when they are a day old.`,
		Args: exactly(1, "one directory"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.serve(cmd.Context(), f, args[0]) }}
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:5000", "ADDRESS:PORT")
	c.Flags().StringVar(&f.cert, "tls-cert", "", "certificate in PEM, with those that lead to its authority")
	c.Flags().StringVar(&f.key, "tls-key", "", "the certificate's key in PEM")
	c.Flags().StringVar(&f.htpasswd, "htpasswd", "", "who may come in: a file as htpasswd -B writes it")
	c.Flags().BoolVar(&f.readOnly, "read-only", false, "no pushes and no deletions")
	c.Flags().StringVar(&f.maxBlob, "max-blob", "16GiB", "the largest blob that is taken")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no line for every request")
	return c
}

// check refuses what would let anyone push, or passwords be read on the way.
func (f *serveFlags) check() error {
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return usagef("--listen %s: want ADDRESS:PORT", f.listen)
	}
	ip := net.ParseIP(host)
	local := host == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case (f.cert == "") != (f.key == ""):
		return usagef("--tls-cert and --tls-key belong together")
	case !local && f.htpasswd == "" && !f.readOnly:
		return usagef("whoever reaches %s could push: add --htpasswd FILE or --read-only", f.listen)
	case !local && f.htpasswd != "" && f.cert == "":
		return usagef("passwords would cross the network in the clear: add --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that has them")
	}
	return nil
}

func (a *commands) serve(ctx context.Context, f *serveFlags, dir string) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	o := registry.ServerOptions{ReadOnly: f.readOnly}
	if o.MaxBlob, err = units.RAMInBytes(f.maxBlob); err != nil || o.MaxBlob <= 0 {
		return usagef("--max-blob %s: want a size such as 16GiB", f.maxBlob)
	}
	if f.htpasswd != "" {
		if o.Users, err = registry.ReadUsers(f.htpasswd); err != nil {
			return err
		}
	}
	if !f.quiet {
		o.LogAccess = func(line string) { printable.Fprintln(a.messages, time.Now().Format(time.RFC3339), line) }
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
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	printable.Fprintf(a.messages, "serving %s on %s\n", dir, l.Addr())
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

func isDir(path string) (bool, error) {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir(), err
}
