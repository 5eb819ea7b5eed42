// Package remote has the flags by which both programs reach registries, and reads keys.
package remote

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/printable"
)

// Flags say how registries are reached.
type Flags struct {
	plain    []string
	CAFile   string
	AuthFile string
	messages func() io.Writer
}

// Add adds them to a command.
func (f *Flags) Add(c *cobra.Command) {
	f.messages = c.ErrOrStderr
	c.Flags().StringArrayVar(&f.plain, "plain-http", nil,
		"use HTTP with this registry, `HOST` or HOST:PORT; repeatable")
	c.Flags().StringVar(&f.CAFile, "ca-file", "", "certificates in PEM to trust in addition to the system's")
	c.Flags().StringVar(&f.AuthFile, "auth-file", "", "credentials in docker's or podman's format")
}

// Given tells whether any of them was.
func (f *Flags) Given() bool { return len(f.plain) > 0 || f.CAFile != "" || f.AuthFile != "" }

// Client has settings for the registries that are named.
func (f *Flags) Client(agent string, named ...registry.Location) (*registry.Client, error) {
	cfg := registry.Config{UserAgent: agent, AuthFiles: registry.UserAuthFiles(), LoopbackLogins: true}
	if f.AuthFile != "" {
		cfg.AuthFiles = []string{f.AuthFile}
	}
	hosts := map[string]bool{}
	for _, h := range f.plain {
		hosts[h] = true
	}
	if f.CAFile != "" {
		for _, l := range named {
			if _, plain := hosts[l.Ref.Host]; l.Kind == registry.Remote && !plain {
				hosts[l.Ref.Host] = false
			}
		}
	}
	for name, plain := range hosts {
		h := registry.Host{Name: name, PlainHTTP: plain}
		if !plain {
			h.CAFile = f.CAFile
		}
		cfg.Hosts = append(cfg.Hosts, h)
	}
	client, err := registry.NewClient(cfg)
	if err == nil {
		client.OnWarning(func(text string) { printable.Fprintln(f.messages(), "warning:", text) })
	}
	return client, err
}

// PasswordEnv has the password of an encrypted key; cosign's name is taken too.
const PasswordEnv = "FREEJAIL_KEY_PASSWORD"

// PasswordHelp says where passwords come from.
const PasswordHelp = "The password of an encrypted key is read from the terminal, or from $" +
	PasswordEnv + " or $COSIGN_PASSWORD."

// Password asks for one.
func Password(messages io.Writer, what string) ([]byte, error) {
	for _, name := range []string{PasswordEnv, "COSIGN_PASSWORD"} {
		if v, ok := os.LookupEnv(name); ok {
			return []byte(v), nil
		}
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, fmt.Errorf("%s is needed, and standard input is not a terminal: set $%s", what, PasswordEnv)
	}
	printable.Fprintf(messages, "%s: ", what)
	b, err := term.ReadPassword(fd)
	printable.Fprintln(messages)
	return b, err
}

// PrivateKey reads a key's file, and asks for its password where it has one.
func PrivateKey(messages io.Writer, file string) (*sign.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := sign.ReadPrivate(text, func() ([]byte, error) { return Password(messages, "the password of "+file) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// PublicKey reads a key's file.
func PublicKey(file string) (*sign.PublicKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := sign.ReadPublic(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}
