package client

import (
	"strings"
	"testing"
)

func TestParsePublication(t *testing.T) {
	for text, want := range map[string]Publication{
		"8080":                      {Port: 8080, To: 8080, Protocol: "tcp"},
		"8081:8080":                 {Port: 8081, To: 8080, Protocol: "tcp"},
		"53:53/udp":                 {Port: 53, To: 53, Protocol: "udp"},
		"127.0.0.1:5353:53/udp":     {Address: "127.0.0.1", Port: 5353, To: 53, Protocol: "udp"},
		"80:80/UDP":                 {Port: 80, To: 80, Protocol: "udp"},
		"[::1]:80:8080":             {Address: "::1", Port: 80, To: 8080, Protocol: "tcp"},
		"[0:0::1]:80:8080":          {Address: "::1", Port: 80, To: 8080, Protocol: "tcp"},
		"8000-8010:8000-8010":       {Port: 8000, To: 8000, Count: 11, Protocol: "tcp"},
		"8000-8010":                 {Port: 8000, To: 8000, Count: 11, Protocol: "tcp"},
		"192.0.2.1:1-2:65534-65535": {Address: "192.0.2.1", Port: 1, To: 65534, Count: 2, Protocol: "tcp"},
		"7-7:8":                     {Port: 7, To: 8, Protocol: "tcp"},
	} {
		got, err := ParsePublication(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v %v", text, got, err)
		}
		if again, err := ParsePublication(got.String()); err != nil || again != got {
			t.Errorf("%q is %q, and read again %+v %v", text, got, again, err)
		}
	}
	for text, want := range map[string]string{
		"": "expected", "web": "expected", "1:2:3": "expected", "::1:80:80": "expected", "[127.0.0.1]:80:80": "expected",
		"localhost:80:80": "not an IP address", "80:": "expected", ":80": "chooses no port", "80/": "neither tcp nor udp",
		"80/sctp": "neither tcp nor udp", "0:80": "chooses no port", "0": "0 is not a valid port",
		"127.0.0.1::80": "chooses no port", "[::1]:0:80": "chooses no port", "em0:80:80": "\"em0\" is not an IP address",
		"80:65536": "65536 is not a valid port",
		"2-1":      "not a range", "8000-8010:8000": "11 ports of the host are led to 1", "-1": "expected", "+1": "expected",
		"[::1%lo0:80:80": "expected", "1-2-3": "expected",
	} {
		if got, err := ParsePublication(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v %v, want %q", text, got, err, want)
		} else if strings.Contains(err.Error(), "|") { // at which Nomad splits a message
			t.Errorf("%q: %v", text, err)
		}
	}
}
