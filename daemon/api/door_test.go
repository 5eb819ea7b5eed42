package api

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestWarningsOfACrowd(t *testing.T) {
	var log bytes.Buffer
	l := &door{log: hclog.New(&hclog.LoggerOptions{Output: &log})}
	for range 1000 {
		l.warn(peer{uid: 7, err: errors.New("who is this")})
	}
	l.sum()
	got := log.String()
	if strings.Count(got, "\n") != 2 || !strings.Contains(got, "who is this") || !strings.Contains(got, "number=999") {
		t.Errorf("of 1000 refused connections the log says:\n%s", got)
	}
}
