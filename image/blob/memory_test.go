package blob

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/freejail/freejail/internal/testoci"
)

// frame is the beginning of a zstd stream with a window: RFC 8878, 3.1.1.1.
func frame(windowLog int) []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(windowLog-10) << 3, 0x01, 0, 0}
}

// singleFrame has a window as large as the content that it says it has.
func singleFrame(size uint32) []byte {
	return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}, byte(size), byte(size>>8), byte(size>>16), byte(size>>24),
		1, 0, 0)
}

// What a decoder takes is known, and bounded, before it takes it.
func TestWindowsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		head []byte
		want int64 // 0 is an error
	}{
		"usual":                   {frame(21), 2 * usualWindow},
		"large":                   {frame(27), 2 * maxWindow},
		"too large":               {frame(28), 0},
		"as large as its content": {singleFrame(64 << 20), 128 << 20},
		"too large a content":     {singleFrame(200 << 20), 0},
	} {
		got, err := decoderMemory(Buffered(bytes.NewReader(c.head)))
		if got != c.want && c.want != 0 || (err == nil) != (c.want != 0) {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	// A later frame gets no larger window than was reserved, but that of zstd:chunked.
	for windowLog, want := range map[int]string{25: "", 27: "a frame that is not the first has a window of more than"} {
		later := frame(windowLog)
		later[len(later)-3] = 1 | 1<<3 // the last block, of a byte as it is
		z, err := newZstd(bytes.NewReader(slices.Concat(testoci.Zstd(t, []byte("x")), later, []byte("y"))))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		got, err := io.ReadAll(z)
		switch {
		case want != "":
			testoci.WantError(t, err, want)
		case err != nil || string(got) != "xy":
			t.Errorf("%q %v", got, err)
		}
	}
}
