package policy

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Explain adds to a parser's error the line where a block begins that is not closed: the parser names only the file's
// end, where it sees that.
func Explain(name string, src []byte, err error) error {
	var diags hcl.Diagnostics
	if !errors.As(err, &diags) || len(diags) == 0 || diags[0].Subject == nil ||
		diags[0].Subject.End.Byte < len(bytes.TrimSpace(src)) {
		return err
	}
	tokens, _ := hclsyntax.LexConfig(src, name, hcl.InitialPos) // its faults are in err
	var open []hcl.Range
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace:
			open = append(open, t.Range)
		case hclsyntax.TokenCBrace:
			open = open[:max(0, len(open)-1)]
		}
	}
	if len(open) == 0 {
		return err
	}
	return fmt.Errorf("%s:%d: the block that begins here is not closed, a } is missing: %w", name,
		open[0].Start.Line, err)
}
