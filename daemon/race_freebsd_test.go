package daemon

import (
	"errors"
	"os"
)

// swapNames exchanges two names. This system cannot do that at once, and whoever
// looks in between may make a directory in the gap, with files in it.
func swapNames(a, b string) error {
	if err := os.Rename(a, a+".away"); err != nil {
		return err
	}
	err := os.Rename(b, a)
	for range 1000 {
		if err == nil {
			break
		}
		err = errors.Join(os.RemoveAll(a), os.Rename(b, a))
	}
	return errors.Join(err, os.Rename(a+".away", b))
}
