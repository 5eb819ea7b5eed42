package daemon

import (
	"errors"
	"os"
)

// swapNames exchanges two names. This system cannot do that at once.
func swapNames(a, b string) error {
	return errors.Join(os.Rename(a, a+".away"), os.Rename(b, a), os.Rename(a+".away", b))
}
