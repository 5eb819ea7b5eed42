package image

import "testing"

func TestFindingsAreBounded(t *testing.T) {
	var f Findings
	for range 10_000 {
		f.Add(Error, "code", "where", "text")
	}
	f.Add(Note, "code", "where", "text")
	if len(f.List) != maxFindings+2 || f.Errors() != 10_000 || f.List[maxFindings].Code != "more" {
		t.Errorf("%d findings are kept, %d errors counted", len(f.List), f.Errors())
	}
}
