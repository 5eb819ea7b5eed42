package mount

import (
	"errors"
	"os"
)

// swap exchanges two names. This system cannot do that at once.
func swap(a, b string) error {
	return errors.Join(os.Rename(a, a+".away"), os.Rename(b, a), os.Rename(a+".away", b))
}
