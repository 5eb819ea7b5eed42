package policy

import "testing"

// Root may trace what no deny is about, others what a permit names them for. A deny is by a user's name and number.
func TestTraces(t *testing.T) {
	ann, root := Trace("ann", 1001), Trace("root", 0)
	shop, other := Subject{Image: "acme/shop:1", Repository: "acme/shop"}, Subject{Image: "other"}
	for _, c := range []struct {
		policy string
		s      Subject
		r      Request
		want   bool
	}{
		{"", shop, Request{root, FromHost}, true},
		{"", shop, Request{root, FromOperator}, false},
		{"", shop, Request{ann, FromOperator}, false},
		{`permit { traces = ["ann"] }`, shop, Request{ann, FromOperator}, true},
		{`permit { traces = ["1001"] }`, shop, Request{ann, FromOperator}, false},
		{`permit { users = ["*"] }`, shop, Request{ann, FromOperator}, false},
		{"permit {\n images = [\"acme/*\"]\n traces = [\"*\"]\n}", shop, Request{ann, FromOperator}, true},
		{"permit {\n images = [\"acme/*\"]\n traces = [\"*\"]\n}", other, Request{ann, FromOperator}, false},
		{"permit {\n from = [\"job\"]\n traces = [\"ann\"]\n}", shop, Request{ann, FromOperator}, false},
		{"permit { traces = [\"ann\"] }\ndeny { traces = [\"1001\"] }", shop, Request{ann, FromOperator}, false},
		{"permit { traces = [\"ann\"] }\ndeny { traces = [\"ann\"] }", shop, Request{ann, FromOperator}, false},
		{`deny { traces = ["*"] }`, shop, Request{root, FromHost}, false},
		{`deny { traces = ["0"] }`, shop, Request{root, FromHost}, false},
	} {
		p := mustParse(t, c.policy)
		if res := p.Decide(c.s, []Request{c.r}, nil).Results[0]; res.Allowed != c.want {
			t.Errorf("%q: %s of %s by the %s: %t (%s)", c.policy, c.r, c.s.Image, c.r.Source, res.Allowed, res.Reason)
		}
	}
}
