package network

import (
	"slices"
	"testing"

	"github.com/google/nftables"
)

// A chain of another program that drops what is forwarded is named; one of freejail, one that accepts, and one that
// is about something else are not.
func TestDroppedForwards(t *testing.T) {
	newHost(t, natNetwork("web", 1)).load()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
	table := c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	for name, of := range map[string]*nftables.Chain{
		"FORWARD": {Hooknum: nftables.ChainHookForward, Policy: &drop},
		"INPUT":   {Hooknum: nftables.ChainHookInput, Policy: &drop},
		"OTHER":   {Hooknum: nftables.ChainHookForward, Policy: &accept},
	} {
		of.Name, of.Table, of.Type, of.Priority = name, table, nftables.ChainTypeFilter, nftables.ChainPriorityFilter
		c.AddChain(of)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
	if got, err := DroppedForwards(); err != nil || !slices.Equal(got, []string{"ip filter FORWARD"}) {
		t.Errorf("%q, %v", got, err)
	}
}
