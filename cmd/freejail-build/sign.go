package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/printable"
)

// passwordEnv has the password of an encrypted key; cosign's name is taken too.
const passwordEnv = "FREEJAIL_KEY_PASSWORD"

const passwordHelp = "The password of an encrypted key is asked for, or taken from $" + passwordEnv + " or $COSIGN_PASSWORD."

func (a *commands) keygenCmd() *cobra.Command {
	var out string
	var plain bool
	c := &cobra.Command{Use: "keygen [-o NAME]", Short: "make a key pair for signing images",
		Long: `Write NAME.key, the private key, and NAME.pub, the public one: ECDSA P-256 in
PEM, which cosign, skopeo and podman take. The private key is encrypted unless
--plain is given. ` + passwordHelp,
		Args: exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
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
		}}
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

func (a *commands) password(what string) ([]byte, error) {
	for _, name := range []string{passwordEnv, "COSIGN_PASSWORD"} {
		if v, ok := os.LookupEnv(name); ok {
			return []byte(v), nil
		}
	}
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, fmt.Errorf("%s is needed: there is no terminal to ask at, set $%s", what, passwordEnv)
	}
	printable.Fprintf(a.messages, "%s: ", what)
	b, err := term.ReadPassword(fd)
	printable.Fprintln(a.messages)
	return b, err
}

type signFlags struct {
	remoteFlags
	key, identity string
}

func (f *signFlags) add(c *cobra.Command, key string) {
	f.remoteFlags.add(c)
	c.Flags().StringVar(&f.key, "key", "", key)
	c.Flags().StringVar(&f.identity, "identity", "", "the repository, as HOST/NAME (default: the image's own)")
}

// where is the image with a client that reaches it.
func (a *commands) where(f *signFlags, arg string) (*registry.Client, registry.Location, error) {
	if f.key == "" {
		return nil, registry.Location{}, usagef("which key? Add --key FILE")
	}
	text, err := a.localImage(arg)
	if err != nil {
		return nil, registry.Location{}, err
	}
	at, err := registry.ParseLocation(text)
	if err != nil {
		return nil, at, usageError{err}
	}
	c, err := f.client(at)
	return c, at, err
}

func (a *commands) signCmd() *cobra.Command {
	f := &signFlags{}
	c := &cobra.Command{Use: "sign --key FILE IMAGE", Short: "sign an image in a registry, an archive or a layout",
		Long: `Sign IMAGE, which is HOST/NAME:TAG, or an OCI archive or layout by its path, and
put the signature beside it in the format of cosign, which skopeo and podman
verify too. Of an index each image is signed as well. The signature is for one
digest in one repository. ` + passwordHelp,
		Args: exactly(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, at, err := a.where(f, args[0])
			if err != nil {
				return err
			}
			text, err := os.ReadFile(f.key)
			if err != nil {
				return err
			}
			key, err := sign.ReadPrivate(text, func() ([]byte, error) { return a.password("the password of " + f.key) })
			if err != nil {
				return fmt.Errorf("%s: %w", f.key, err)
			}
			done, err := c.Sign(cmd.Context(), at, key, f.identity, image.Limits{})
			if err != nil {
				return err
			}
			for _, st := range done {
				if _, err := printable.Fprintf(a.out, "%s@%s\n", st.Identity, st.Digest); err != nil {
					return err
				}
			}
			return nil
		}}
	f.add(c, "the private key in PEM")
	return c
}

func (a *commands) verifyCmd() *cobra.Command {
	f := &signFlags{}
	c := &cobra.Command{Use: "verify --key FILE IMAGE", Short: "tell whether an image is signed by a key",
		Long: `Look beside IMAGE for a signature by the key that is for its digest and its
repository. Without one the exit code is 1.`,
		Args: exactly(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, at, err := a.where(f, args[0])
			if err != nil {
				return err
			}
			text, err := os.ReadFile(f.key)
			if err != nil {
				return err
			}
			key, err := sign.ReadPublic(text)
			if err != nil {
				return fmt.Errorf("%s: %w", f.key, err)
			}
			st, err := c.Verify(cmd.Context(), at, key, f.identity, image.Limits{})
			if err != nil {
				return err
			}
			_, err = printable.Fprintf(a.out, "%s@%s is signed by %s\n", st.Identity, st.Digest, f.key)
			return err
		}}
	f.add(c, "the public key in PEM")
	return c
}
