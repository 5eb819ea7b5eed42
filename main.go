// Command freejail is the Nomad task driver plugin when Nomad starts it, and
// the daemon and its command line otherwise.
package main

import (
	"os"

	"github.com/freejail/freejail/cmd/cli"
	"github.com/freejail/freejail/driver"
)

// version is set by the linker.
var version = "dev"

func main() {
	if driver.StartedByNomad() {
		driver.Serve(version)
		return
	}
	os.Exit(cli.Main(version))
}
