package image

import (
	"runtime"

	"golang.org/x/sys/cpu"
)

// hostVariant is the level of this host's processor, as the x86-64 psABI names
// the levels; see https://gitlab.com/x86-psABIs/x86-64-ABI.
func hostVariant() string {
	if runtime.GOARCH != "amd64" {
		return ""
	}
	x := cpu.X86
	switch {
	case !x.HasSSE3 || !x.HasSSSE3 || !x.HasSSE41 || !x.HasSSE42 || !x.HasPOPCNT || !x.HasCX16:
		return "v1"
	case !x.HasAVX || !x.HasAVX2 || !x.HasBMI1 || !x.HasBMI2 || !x.HasFMA || !x.HasOSXSAVE:
		return "v2"
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512CD || !x.HasAVX512DQ || !x.HasAVX512VL:
		return "v3"
	}
	return "v4"
}
