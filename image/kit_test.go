package image

import "github.com/freejail/freejail/internal/testoci"

var needRoot, wantError = testoci.NeedRoot, testoci.WantError
