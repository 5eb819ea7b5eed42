package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/printable"
)

// loginFlags are who logs in.
type loginFlags struct {
	remoteFlags
	user, password string
	stdin          bool
}

const loginFiles = `the first of $REGISTRY_AUTH_FILE, containers/auth.json and ~/.docker/config.json that
is there, or --auth-file`

func (a *commands) loginCmd() *cobra.Command {
	f := &loginFlags{}
	c := app.Command("login [flags] HOST", "log in to a registry, and store the credentials", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			host, err := registry.ParseHost(args[0])
			if err != nil {
				return app.UsageError{Err: err}
			}
			client, err := f.client(registry.Location{Kind: registry.Remote, Ref: registry.Reference{Host: host}})
			if err != nil {
				return app.UsageError{Err: err}
			}
			cred, err := a.credential(f, host)
			if err != nil {
				return err
			}
			if err := client.CheckLogin(ctx, host, cred); err != nil {
				return err
			}
			file := cmp.Or(f.AuthFile, registry.LoginFile())
			if err := registry.SaveLogin(ctx, file, host, cred); err != nil {
				return err
			}
			return a.Print(map[string]string{"host": host, "user": cred.Username, "file": file}, func(w io.Writer) {
				printable.Fprintf(w, "logged in to %s as %s, as %s tells\n", host, cred.Username, file)
			})
		})
	c.Long = `The registry is asked before anything is stored. Credentials go to the credential
helper that the file names for the registry, else into the file, which its owner
alone can read: ` + loginFiles + `.
The daemon has credentials of its own: username and password_file, or auth_file, of a
registry block.`
	f.add(c)
	c.Flags().StringVarP(&f.user, "username", "u", "", "the user (default: asked for on the terminal)")
	c.Flags().BoolVar(&f.stdin, "password-stdin", false, "read the password from standard input")
	c.Flags().StringVarP(&f.password, "password", "p", "",
		"the password, which others on this host can read; use --password-stdin, or the terminal")
	return c
}

// credential asks for what was not given.
func (a *commands) credential(f *loginFlags, host string) (registry.Credential, error) {
	c := registry.Credential{Username: f.user, Password: f.password}
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	switch {
	case f.password != "" && f.stdin:
		return c, app.Usagef("--password and --password-stdin exclude each other")
	case f.stdin && c.Username == "":
		return c, app.Usagef("--password-stdin needs --username")
	case f.password != "":
		printable.Fprintln(a.Messages, "warning: others on this host can read a password of a command line: "+
			"use --password-stdin")
	}
	if c.Username == "" {
		if !terminal {
			return c, app.Usagef("no user: add --username, with --password-stdin")
		}
		printable.Fprintf(a.Messages, "user at %s: ", host)
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, maxPassword)).ReadString('\n')
		if c.Username = strings.TrimSpace(line); err != nil {
			return c, err
		}
	}
	var err error
	if f.stdin {
		c.Password, err = passwordOf(os.Stdin)
	} else if c.Password == "" {
		c.Password, err = a.askPassword(terminal, c.Username+" at "+host)
	}
	if err == nil && (c.Username == "" || c.Password == "" || strings.Contains(c.Username, ":")) {
		err = app.Usagef("a user without a colon, and a password, are needed")
	}
	return c, err
}

func (a *commands) askPassword(terminal bool, whose string) (string, error) {
	if !terminal {
		return "", app.Usagef("no password: add --password-stdin")
	}
	printable.Fprintf(a.Messages, "password of %s: ", whose)
	b, err := term.ReadPassword(int(os.Stdin.Fd()))
	printable.Fprintln(a.Messages)
	return string(b), err
}

// maxPassword bounds what is read of standard input. Tokens of clouds have some thousands of bytes.
const maxPassword = 64 << 10

func passwordOf(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPassword+1))
	if err == nil && len(b) > maxPassword {
		err = app.Usagef("the password is longer than %d bytes", maxPassword)
	}
	return strings.TrimRight(string(b), "\r\n"), err
}

func (a *commands) logoutCmd() *cobra.Command {
	var file string
	c := app.Command("logout [flags] HOST", "remove the credentials for a registry", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			host, err := registry.ParseHost(args[0])
			if err != nil {
				return app.UsageError{Err: err}
			}
			files := registry.UserAuthFiles()
			if file != "" {
				files = []string{file}
			}
			var errs []error
			found := false
			for _, file := range files {
				switch err := registry.RemoveLogin(ctx, file, host); {
				case errors.Is(err, registry.ErrNoLogin):
				case err != nil:
					errs = append(errs, err)
				default:
					found = true
					printable.Fprintf(a.Messages, "%s has no credentials for %s any more\n", file, host)
				}
			}
			if len(errs) == 0 && !found {
				return fmt.Errorf("there are no credentials for %s in %s", host, strings.Join(files, ", "))
			}
			return app.Each(errs)
		})
	c.Long = "Of all files that `login` knows, and with their credential helpers, or of --auth-file."
	c.Flags().StringVar(&file, "auth-file", "", "credentials in docker's or podman's format")
	return c
}
