package policy

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
)

// item is one word of the file, with its line.
type item struct{ key, value, where string }

func text(e hcl.Expression, dst *string) error {
	v, diags := e.Value(nil)
	if diags.HasErrors() {
		return diags
	}
	if v.IsNull() || !v.IsKnown() || v.Type().FriendlyName() != "string" {
		return fmt.Errorf("want a string in quotation marks, not %s", v.Type().FriendlyName())
	}
	*dst = v.AsString()
	return nil
}

// readList reads ["...", "..."].
func readList(a *hcl.Attribute) ([]item, error) {
	exprs, diags := hcl.ExprList(a.Expr)
	if diags.HasErrors() {
		return nil, fmt.Errorf("want a list: [\"...\"]")
	}
	var out []item
	for _, x := range exprs {
		i := item{where: place(x.Range())}
		if err := text(x, &i.value); err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// readPairs reads { name = "value" }.
func readPairs(a *hcl.Attribute) ([]item, error) {
	exprs, diags := hcl.ExprMap(a.Expr)
	if diags.HasErrors() {
		return nil, fmt.Errorf("want names and values: { name = \"value\" }")
	}
	var out []item
	for _, x := range exprs {
		i := item{where: place(x.Key.Range())}
		if err := text(x.Key, &i.key); err != nil {
			return nil, err
		}
		if err := text(x.Value, &i.value); err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

// readTruth reads true, or false for nothing.
func readTruth(a *hcl.Attribute) ([]item, error) {
	v, diags := a.Expr.Value(nil)
	if diags.HasErrors() {
		return nil, diags
	}
	if v.IsNull() || v.Type().FriendlyName() != "bool" {
		return nil, fmt.Errorf("want true or false")
	}
	if v.False() {
		return nil, nil
	}
	return []item{{value: "true", where: place(a.Range)}}, nil
}
