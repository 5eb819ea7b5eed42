// Package near finds what was probably meant by a name that is not known.
package near

import (
	"fmt"
	"strings"

	"github.com/agext/levenshtein"
)

// Hint is " (did you mean X?)" with the known name that is nearest, or empty where
// none is near.
func Hint(name string, known []string) string {
	best, least := "", 1+len(name)/4
	for _, k := range known {
		d := levenshtein.Distance(strings.ToLower(name), k, nil)
		if d < least || d == least && best == "" {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}
