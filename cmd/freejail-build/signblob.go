package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/cmd/internal/remote"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/internal/regular"
)

// signatureEnd is where the signature of a file lies: beside it.
const signatureEnd = ".sig"

func (a *commands) signBlobCmd() *cobra.Command {
	var key string
	c := app.Command("sign-blob --key FILE FILE...", "sign files, such as checksums of a release",
		cobra.MinimumNArgs(1),
		func(_ context.Context, args []string) error {
			k, err := a.privateKey(key)
			if err != nil {
				return err
			}
			for _, file := range args {
				if err := signBlob(k, file); err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
			}
			return a.Print(args, func(w io.Writer) {
				for _, file := range args {
					printable.Fprintln(w, file+signatureEnd)
				}
			})
		})
	c.Long = `Sign each FILE and write FILE.sig, as cosign sign-blob and openssl dgst -sha256
do: base64 of an ASN.1 signature. The same key makes the same signature of the
same content again. ` + remote.PasswordHelp
	c.Flags().StringVar(&key, "key", "", "the private key in PEM")
	return c
}

func (a *commands) privateKey(file string) (*sign.PrivateKey, error) {
	if file == "" {
		return nil, app.Usagef("no key: add --key FILE")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return a.readPrivate(file, text)
}

func signBlob(k *sign.PrivateKey, file string) (err error) {
	f, _, err := regular.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sig, err := k.SignBlob(f)
	if err != nil {
		return err
	}
	return os.WriteFile(file+signatureEnd, []byte(sig+"\n"), 0o644)
}

func (a *commands) verifyBlobCmd() *cobra.Command {
	var key string
	c := app.Command("verify-blob --key FILE FILE...", "verify that files are signed by a key", cobra.MinimumNArgs(1),
		func(_ context.Context, args []string) error {
			if key == "" {
				return app.Usagef("no key: add --key FILE")
			}
			text, err := os.ReadFile(key)
			if err != nil {
				return err
			}
			k, err := sign.ReadPublic(text)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			for _, file := range args {
				if err := verifyBlob(k, file); err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
			}
			return a.Print(args, func(w io.Writer) {
				for _, file := range args {
					printable.Fprintf(w, "%s is signed by %s\n", file, key)
				}
			})
		})
	c.Long = `Verify that each FILE has a signature by the key in FILE.sig. Without one the exit
code is 1.`
	c.Flags().StringVar(&key, "key", "", "the public key in PEM")
	return c
}

func verifyBlob(k *sign.PublicKey, file string) (err error) {
	s, _, err := regular.Open(file + signatureEnd)
	if err != nil {
		return err
	}
	sig, err := regular.Read(s, file+signatureEnd, sign.MaxBlobSignature)
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	f, _, err := regular.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return k.VerifyBlob(f, string(sig))
}
