package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/imagename"
)

// Signer is a key whose signatures count, by the name that the policy has for it.
type Signer struct {
	Name    string `hcl:"name,label"`
	KeyFile string `hcl:"key_file"`
}

// Signers are the keys of a host with their names, in the order of its file.
type Signers []namedKey

type namedKey struct {
	name string
	key  *sign.PublicKey
}

func checkNames(what string, list []Signer) error {
	var errs []error
	seen := map[string]bool{}
	for _, s := range list {
		if ok, err := path.Match(s.Name, s.Name); s.Name == "" || err != nil || !ok {
			errs = append(errs, fmt.Errorf("%s %q: choose a name without *, ? and [", what, s.Name))
		}
		if seen[s.Name] {
			errs = append(errs, fmt.Errorf("%s %q is defined twice", what, s.Name))
		}
		seen[s.Name] = true
	}
	return errors.Join(errs...)
}

func signerNames(list []Signer) (names []string) {
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names
}

func readSigners(list []Signer) (out Signers, err error) {
	var errs []error
	for _, s := range list {
		text, err := os.ReadFile(s.KeyFile)
		var key *sign.PublicKey
		if err == nil {
			key, err = sign.ReadPublic(text)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("signer %q: key_file %s: %w", s.Name, s.KeyFile, err))
			continue
		}
		out = append(out, namedKey{s.Name, key})
	}
	return out, errors.Join(errs...)
}

// Of returns the names of those who have signed that the image's
// repository has its digest. It asks nobody: the signatures lie beside the image.
func (s Signers) Of(store *layout.Store, img *image.Image) ([]string, error) {
	if len(s) == 0 {
		return nil, nil
	}
	rec, err := store.Signatures(img.Digest)
	var out []string
	for _, who := range s {
		if rec.By(who.key, imagename.Repository(img.Name), img.Digest) {
			out = append(out, who.name)
		}
	}
	return out, err
}

// SignersOf are those of a configuration that may be another host's: a key that
// is not here verifies nothing.
func SignersOf(file string) (Signers, error) {
	c, err := LoadConfig(file)
	if err != nil {
		return nil, err
	}
	here := slices.DeleteFunc(c.Signers, func(s Signer) bool {
		_, err := os.Stat(s.KeyFile)
		return errors.Is(err, fs.ErrNotExist)
	})
	return readSigners(here)
}
