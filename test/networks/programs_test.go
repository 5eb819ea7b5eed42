package networks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/testprog"
)

var programs = testprog.Programs{
	"idle":  func([]string) int { untilTold(); return 0 },
	"serve": func(args []string) int { return serve(args[0], args[1:]) },
	"ask":   func(args []string) int { return tell(ask(args[0], args[1])) },
	"fetch": func(args []string) int { return tell(fetch(args[0])) },
	"nats":  func(args []string) int { return tell(pingNATS(args[0])) },
	"names": func(args []string) int {
		list, err := (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), args[0])
		return tell(strings.Join(list, " "), err)
	},
	"take":      func(args []string) int { return tell("taken", take(args[0], args[1])) },
	"forge":     func(args []string) int { return tell("sent", forge(args[0], args[1], args[2])) },
	"claim":     func(args []string) int { return tell("sent", claim(args[0])) },
	"advertise": func(args []string) int { return tell("sent", advertise(args[0], args[1:])) },
}

// advertise says to hosts on the link that an address of IPv6 is this task's, in place of what they know (RFC 4861).
func advertise(address string, to []string) error {
	l, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	ip := netip.MustParseAddr(address).As16()
	b := slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, ip[:], []byte{2, 1}, l.HardwareAddr)
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255)
	for _, a := range to {
		to := netip.MustParseAddr(a)
		at := &unix.SockaddrInet6{Addr: to.As16()}
		if to.IsLinkLocalUnicast() {
			at.ZoneId = uint32(l.Index)
		}
		err = errors.Join(err, unix.Sendto(fd, b, 0, at))
	}
	return errors.Join(err, unix.Close(fd))
}

func untilTold() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
}

func tell(text string, err error) int {
	fmt.Println(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serve answers its name and who asks, at every address, and says what comes by UDP.
func serve(name string, ports []string) int {
	for _, port := range ports {
		for _, family := range []string{"4", "6"} {
			l, err1 := net.Listen("tcp"+family, ":"+port)
			u, err2 := net.ListenPacket("udp"+family, ":"+port)
			if err := errors.Join(err1, err2); err != nil {
				if family == "6" { // the stack may have none
					continue
				}
				return tell("", err)
			}
			go answer(l, name)
			go echo(u, name)
		}
	}
	fmt.Println("serving")
	untilTold()
	return 0
}

func answer(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintln(c, name, c.RemoteAddr())
		}()
	}
}

func echo(u net.PacketConn, name string) {
	b := make([]byte, 2048)
	for {
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		fmt.Printf("got %s from %s\n", b[:n], from)
		if _, err := u.WriteTo(fmt.Appendf(nil, "%s %s\n", name, from), from); err != nil {
			fmt.Println(err)
		}
	}
}

// patience is how long a program waits for an answer: what has to come does so at once.
const patience = 3 * time.Second

// ask returns the answer of what listens at an address.
func ask(network, address string) (string, error) {
	for range 3 {
		answer, err := askOnce(network, address)
		if err == nil || network == "tcp" {
			return answer, err
		}
	}
	return askOnce(network, address)
}

func askOnce(network, address string) (answer string, err error) {
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if network == "tcp" {
		b, err := io.ReadAll(c)
		return strings.TrimSpace(string(b)), err
	}
	if _, err := c.Write([]byte("question")); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	n, err := c.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

func fetch(url string) (string, error) {
	res, err := (&http.Client{Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(res.Body)
	return string(b), errors.Join(err, res.Body.Close())
}

// pingNATS speaks the first words of NATS' protocol.
func pingNATS(address string) (text string, err error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "CONNECT {\"verbose\":false}\r\nPING\r\n"); err != nil {
		return "", err
	}
	b := make([]byte, 1<<16)
	for !strings.Contains(text, "PONG") {
		n, err := c.Read(b)
		if text += string(b[:n]); err != nil {
			return text, err
		}
	}
	return text, nil
}
