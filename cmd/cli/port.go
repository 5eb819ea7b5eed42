package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/freejail/freejail/daemon/client"
)

var errPort = errors.New("expected NAME=PORT, NAME=ADDRESS:PORT, PORT, PORT:IMAGE-PORT or ADDRESS:PORT:IMAGE-PORT")

// port is a flag -p.
func (f *runFlags) port(text string) error {
	text, protocol, given := strings.Cut(text, "/")
	if given && protocol != "tcp" && protocol != "udp" {
		return fmt.Errorf("the protocol %q is neither tcp nor udp", protocol)
	}
	read := dockerPort
	if strings.Contains(text, "=") {
		read = namedPort
	}
	name, b, err := read(text)
	if err != nil {
		return err
	}
	if b.To != 0 && protocol == "udp" { // as a port that is exposed is called
		name += "-udp"
	}
	if _, twice := f.Ports[name]; twice {
		return fmt.Errorf("port %s is given twice", name)
	}
	if f.Ports == nil {
		f.Ports = map[string]client.PortBinding{}
	}
	b.Protocol = protocol
	f.Ports[name] = b
	return nil
}

// namedPort reads NAME=[ADDRESS:]PORT.
func namedPort(text string) (string, client.PortBinding, error) {
	name, place, _ := strings.Cut(text, "=")
	b, err := hostPort(place)
	if name == "" {
		err = errPort
	}
	return name, b, err
}

// dockerPort reads [[ADDRESS:]PORT:]IMAGE-PORT. The name is the image's port.
func dockerPort(text string) (string, client.PortBinding, error) {
	place, inside := text, text
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		place, inside = text[:i], text[i+1:]
	}
	b, err := hostPort(place)
	if err != nil {
		return "", b, err
	}
	if b.To, err = portNumber(inside); err != nil {
		return "", b, err
	}
	return inside, b, nil
}

// hostPort reads [ADDRESS:]PORT.
func hostPort(text string) (b client.PortBinding, err error) {
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		b.Address, text = strings.Trim(text[:i], "[]"), text[i+1:]
	}
	b.Port, err = portNumber(text)
	return b, err
}

func portNumber(text string) (int, error) {
	n, err := strconv.Atoi(text)
	switch {
	case err != nil:
		return 0, errPort
	case n < 1 || n > 65535:
		return 0, fmt.Errorf("%d is not a valid port (1 to 65535)", n)
	}
	return n, nil
}
