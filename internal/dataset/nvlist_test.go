package dataset

import (
	"encoding/hex"
	"testing"
)

// The sizes are those of the pair here and as the kernel's nvpair_t, whose value begins at a multiple of eight.
func TestPack(t *testing.T) {
	const want = "01010000" + "0000000000000001" + // header; version, unique names
		"0000002400000020" + "000000066f726967696e0000" + "0000000900000001" + "0000000361406200" + // origin: a@b
		"0000005000000030" + "0000000570726f7073000000" + "0000001300000001" + "0000000000000001" + // props
		"0000002400000020" + "0000000571756f7461000000" + "0000000800000001" + "0000000000800000" + // quota
		"0000000000000000" + "0000000000000000"
	got := hex.EncodeToString(nvlist{{"origin", "a@b"}, {"props", nvlist{{"quota", uint64(8 << 20)}}}}.pack())
	if got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
}
