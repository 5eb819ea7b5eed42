package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/cmd/internal/remote"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) keygenCmd() *cobra.Command {
	var out string
	var plain bool
	c := app.Command("keygen [-o NAME]", "create a key pair for signing images", cobra.NoArgs,
		func(_ context.Context, _ []string) error {
			var password []byte
			if !plain {
				var err error
				if password, err = a.password("a password for " + out + ".key"); err != nil {
					return err
				}
			}
			private, public, err := sign.Generate(password)
			if err != nil {
				return err
			}
			if err := writeNew(out+".key", private, 0o600); err != nil {
				return err
			}
			return writeNew(out+".pub", public, 0o644)
		})
	c.Long = `Write NAME.key, the private key, and NAME.pub, the public one: ECDSA P-256 in
PEM, as cosign, skopeo and podman use. The private key is encrypted unless
--plain is given. ` + remote.PasswordHelp
	c.Flags().StringVarP(&out, "output", "o", "freejail", "the files' names, without .key and .pub")
	c.Flags().BoolVar(&plain, "plain", false, "do not encrypt the private key (PKCS #8)")
	return c
}

// writeNew never replaces a key.
func writeNew(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func (a *commands) password(what string) ([]byte, error) { return remote.Password(a.Messages, what) }

type signFlags struct {
	remoteFlags
	key, identity string
}

func (f *signFlags) add(c *cobra.Command, key string) {
	f.remoteFlags.add(c)
	c.Flags().StringVar(&f.key, "key", "", key)
	c.Flags().StringVar(&f.identity, "identity", "", "the repository, as HOST/NAME (default: the image's own)")
}

// where is the image with a client that reaches it, and the key's text.
func (a *commands) where(f *signFlags, arg string) (c *registry.Client, at registry.Location, key []byte, err error) {
	if f.key == "" {
		return nil, at, nil, app.Usagef("no key: add --key FILE")
	}
	if at, err = place(arg); err != nil {
		return nil, at, nil, err
	}
	if c, err = f.client(at); err != nil {
		return nil, at, nil, err
	}
	key, err = os.ReadFile(f.key)
	return c, at, key, err
}

func (a *commands) readPrivate(file string, text []byte) (*sign.PrivateKey, error) {
	key, err := sign.ReadPrivate(text, func() ([]byte, error) { return a.password("the password of " + file) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// statement is what a signature says, in JSON.
type statement struct {
	Identity string        `json:"identity"`
	Digest   digest.Digest `json:"digest"`
}

func statements(list ...sign.Statement) []statement {
	out := []statement{}
	for _, st := range list {
		out = append(out, statement{st.Identity, st.Digest})
	}
	return out
}

func (a *commands) signCmd() *cobra.Command {
	f := &signFlags{}
	c := app.Command("sign --key FILE IMAGE", "sign an image in a registry, an archive or a layout", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			c, at, text, err := a.where(f, args[0])
			if err != nil {
				return err
			}
			key, err := a.readPrivate(f.key, text)
			if err != nil {
				return err
			}
			done, err := c.Sign(ctx, at, key, f.identity, image.Limits{})
			if err != nil {
				return err
			}
			return a.Print(statements(done...), func(w io.Writer) {
				for _, st := range done {
					printable.Fprintf(w, "%s@%s\n", st.Identity, st.Digest)
				}
			})
		})
	c.Long = `Sign IMAGE, which is HOST/NAME:TAG, or an OCI archive or layout by its path, and
store the signature beside it in the format of cosign, which skopeo and podman
verify too. Of an index each image is signed as well. A signature is for one
digest in one repository. ` + remote.PasswordHelp
	f.add(c, "the private key in PEM")
	return c
}

func (a *commands) verifyCmd() *cobra.Command {
	f := &signFlags{}
	c := app.Command("verify --key FILE IMAGE", "verify that an image is signed by a key", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error {
			c, at, text, err := a.where(f, args[0])
			if err != nil {
				return err
			}
			key, err := sign.ReadPublic(text)
			if err != nil {
				return fmt.Errorf("%s: %w", f.key, err)
			}
			st, err := c.Verify(ctx, at, key, f.identity, image.Limits{})
			if err != nil {
				return err
			}
			return a.Print(statements(st), func(w io.Writer) {
				printable.Fprintf(w, "%s@%s is signed by %s\n", st.Identity, st.Digest, f.key)
			})
		})
	c.Long = `Verify that IMAGE has a signature by the key for its digest and its repository.
Without one the exit code is 1.`
	f.add(c, "the public key in PEM")
	return c
}
