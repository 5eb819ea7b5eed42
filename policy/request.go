package policy

import "encoding/json"

// Source is who asks.
type Source string

// An image and a job are judged alike. What the host gives unasked, a volume of
// the orchestrator's own configuration or what programs of Linux expect, needs no
// permit, but can be denied.
const (
	FromImage Source = "image"
	FromJob   Source = "job"
	FromHost  Source = "host"
	// FromOperator is a user of the host who does something with a task that runs.
	FromOperator Source = "operator"
)

// Request is one privilege and who asks for it.
type Request struct {
	Privilege
	Source Source
}

// wireRequest is a request as approvals on disk have it.
type wireRequest struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name,omitempty"`
	Value  string `json:"value"`
	Source Source `json:"source"`
}

// MarshalJSON writes a request's kind, name, value and source.
func (r Request) MarshalJSON() ([]byte, error) {
	w := wireRequest{Kind: r.Kind(), Source: r.Source}
	w.Name, w.Value = r.form()
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON writes, and keeps what it cannot read.
func (r *Request) UnmarshalJSON(b []byte) error {
	var w wireRequest
	err := json.Unmarshal(b, &w)
	*r = Request{fromForm(w.Kind, w.Name, w.Value), w.Source}
	return err
}

// identity is a request without who asks and without the name that an image gives its port.
type identity struct{ key, value string }

func (r Request) identity() identity {
	_, value := r.form()
	return identity{r.Key(), value}
}

// Form is a request without who asks, as approvals keep it.
func (r Request) Form() (kind Kind, name, value string) {
	name, value = r.form()
	return r.Kind(), name, value
}

// RequestOf reads what Form gives. One that cannot be read, such as of a later version, is
// none that anybody asks for.
func RequestOf(kind Kind, name, value string) Request {
	return Request{Privilege: fromForm(kind, name, value)}
}
