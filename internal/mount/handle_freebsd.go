package mount

import "github.com/freejail/freejail/internal/bsd"

// Handle names what is mounted on an opened directory, for fhstatfs(2), as long
// as it is mounted: no path leads to it and it keeps nothing busy.
func (p *Point) Handle() ([]byte, error) {
	h, err := bsd.HandleOf(p.file)
	return h[:], err
}
