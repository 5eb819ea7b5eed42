package network

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

// A list in which something changed is asked for again, and never taken for the whole.
func TestListsAreWhole(t *testing.T) {
	n := 0
	list, err := whole(func() ([]int, error) {
		if n++; n < 5 {
			return []int{1}, netlink.ErrDumpInterrupted
		}
		return []int{1, 2}, nil
	})
	if err != nil || len(list) != 2 {
		t.Errorf("%v %v", list, err)
	}
	list, err = whole(func() ([]int, error) { return []int{1}, netlink.ErrDumpInterrupted })
	if !errors.Is(err, netlink.ErrDumpInterrupted) || list != nil {
		t.Errorf("%v %v", list, err)
	}
	failed := errors.New("no")
	if _, err = whole(func() ([]int, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
}
