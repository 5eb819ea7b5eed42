package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/policy"
)

// signer is a key of the host's file by its name.
type signer struct {
	name string
	key  *sign.PublicKey
}

func (c *Config) checkSigners() error {
	var errs []error
	seen := map[string]bool{}
	for _, s := range c.Signers {
		if ok, err := path.Match(s.Name, s.Name); s.Name == "" || err != nil || !ok {
			errs = append(errs, fmt.Errorf("signer %q: choose a name without *, ? and [", s.Name))
		}
		if seen[s.Name] {
			errs = append(errs, fmt.Errorf("signer %q: it is there twice", s.Name))
		}
		seen[s.Name] = true
	}
	return errors.Join(errs...)
}

func readSigners(list []SignerConfig) (out []signer, err error) {
	for _, s := range list {
		text, rerr := os.ReadFile(s.KeyFile)
		var key *sign.PublicKey
		if rerr == nil {
			key, rerr = sign.ReadPublic(text)
		}
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("signer %q: key_file %s: %w", s.Name, s.KeyFile, rerr))
			continue
		}
		out = append(out, signer{s.Name, key})
	}
	return out, err
}

// verified are the names of those who have signed that the image's repository
// has its digest. It asks nobody: the signatures lie beside the image.
func verified(s *image.Store, img *image.Image, signers []signer) ([]string, error) {
	if len(signers) == 0 {
		return nil, nil
	}
	rec, err := s.Signatures(img.Digest)
	var out []string
	for _, who := range signers {
		if rec.By(who.key, policy.RepositoryOf(img.Name), img.Digest) {
			out = append(out, who.name)
		}
	}
	return out, err
}

// signersOf tells the log where signatures cannot be read: the image then has
// none.
func (d *Daemon) signersOf(img *image.Image, now *inForce) []string {
	list, err := verified(d.images, img, now.remotes.signers)
	if err != nil {
		d.log.Error("signatures", "image", img.Name, "error", err)
	}
	return list
}

// signersAt are those of a configuration that may be another host's: a key that
// is not here verifies nothing.
func signersAt(file string) ([]signer, error) {
	if file == "" {
		return nil, nil
	}
	c, err := LoadConfig(file)
	if err != nil {
		return nil, err
	}
	var here []SignerConfig
	for _, s := range c.Signers {
		if _, err := os.Stat(s.KeyFile); !errors.Is(err, fs.ErrNotExist) {
			here = append(here, s)
		}
	}
	return readSigners(here)
}
