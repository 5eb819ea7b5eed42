package api

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// What could not be found out once is found out by the next that asks, and then no more.
func TestErrorsAreNotKept(t *testing.T) {
	asked := 0
	find := untilKnown(func() (int, error) {
		if asked++; asked == 1 {
			return 0, errors.New("too many open files")
		}
		return asked, nil
	})
	if _, err := find(); err == nil {
		t.Error("the error is not told")
	}
	for range 2 {
		if got, err := find(); got != 2 || err != nil {
			t.Errorf("found is %d, %v", got, err)
		}
	}
}

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
