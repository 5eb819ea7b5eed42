// Package policy decides what an image or a job may have on a host: nothing,
// unless a permit of the host's file or an operator's approval covers it, and
// never what a deny covers.
package policy

import "time"

// Subject is what a decision is about: an image, and the job that starts it.
type Subject struct {
	Image, Repository, Digest string
	// Signers are the names of the keys whose signature of the digest was
	// verified.
	Signers []string
	// Also are other names of the same content on this host. What denies or
	// requires is about the image by these too; what permits never is.
	Also []string
	// Namespace and Job are Nomad's; empty for a task of the command line.
	Namespace, Job string
	// ByHand tells of a task of the command line, whose requests beside the image's count as a job's.
	ByHand bool
}

// Approval is an operator's override: exactly these requests, for exactly this
// image digest, until it expires.
type Approval struct {
	ID       string    `json:"id"`
	Digest   string    `json:"digest"`
	Image    string    `json:"image,omitempty"`
	Requests []Request `json:"requests"`
	By       string    `json:"by"`
	Why      string    `json:"why"`
	At       time.Time `json:"at"`
	Expires  time.Time `json:"expires,omitzero"`
	// Approver is the name of the key by which it is signed; empty of one of this host.
	Approver string `json:"approver,omitempty"`
	// Fingerprint is that of this key.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Over is that it was found to be expired once: a clock that is set back does
	// not bring it back.
	Over bool `json:"-"`
}

// Expired tells whether the approval holds no more at a time.
func (a Approval) Expired(now time.Time) bool {
	return a.Over || !a.Expires.IsZero() && !now.Before(a.Expires)
}

// Chain tells what directories of the host are, whatever paths lead to them: the
// identity of the one at a path, then those of all above it up to the root. The
// first is empty where there is none.
type Chain func(path string) []string

// OnHost lets denies of directories be about those that are there, by any path:
// one with links, or of another mount of the same.
func (p *Policy) OnHost(c Chain) { p.chain = c }

// once looks at each path once, for one decision.
func (c Chain) once() Chain {
	if c == nil {
		return nil
	}
	known := map[string][]string{}
	return func(path string) []string {
		ids, ok := known[path]
		if !ok {
			ids = c(path)
			known[path] = ids
		}
		return ids
	}
}

// Policy is a host's permits and denies, in force as they were read.
type Policy struct {
	digest          string
	permits, denies table
	requires        []requirement
	approvers       map[string]*approver
	tests           []test
	chain           Chain
}

// Digest names the text that the policy was read from.
func (p *Policy) Digest() string { return p.digest }

// Result is the word on one request, and where it comes from.
type Result struct {
	Request
	Allowed bool
	Reason  string
	Denied  bool   // by a deny, over which no approval goes
	Permit  string // what would permit it, for the host's file; empty if it is allowed
	// Approval is the one by which it is allowed; nil where it is not by one.
	Approval *Approval

	required bool // by the host: nobody asks for it
}

// Decision is the word on all requests of a task.
type Decision struct {
	Allowed bool
	Results []Result
	// Givers are the approvers of the host who may give all that is refused and not denied.
	Givers []string
}
