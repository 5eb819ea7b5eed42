// Package policy decides what an image or a job may have on a host: nothing,
// unless a permit of the host's file or an operator's approval covers it, and
// never what a deny covers.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Kind is what sort of privilege is asked for.
type Kind string

// The kinds of requests. What Name and Value hold is in Request.
const (
	Devfs   Kind = "devfs"
	Allow   Kind = "allow"
	Jail    Kind = "jail"
	SysVIPC Kind = "sysvipc"
	Sysctl  Kind = "sysctl"
	Mount   Kind = "mount"
	Port    Kind = "port"
	VNET    Kind = "vnet"
	Linux   Kind = "linux"
)

// Source is who asks.
type Source string

// An image and a job are judged alike.
const (
	FromImage Source = "image"
	FromJob   Source = "job"
)

// Request is one privilege that is asked for.
//
//	devfs    Name and Value: the rule's canonical text
//	allow    Name "allow.raw_sockets", Value "true"
//	jail     Name a jail parameter, Value its value
//	sysvipc  Name shm, msg or sem, Value new or inherit
//	sysctl   Name, Value
//	mount    Name the target in the jail, Value "fstype" or "nullfs:/source:rw"
//	port     Name the port's name, Value the host's port "80/tcp"
type Request struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name,omitempty"`
	Value  string `json:"value"`
	Source Source `json:"source"`
}

func (r Request) String() string {
	switch r.Kind {
	case Devfs:
		return "devfs rule " + r.Value
	case Allow:
		return r.Name
	case Jail:
		return fmt.Sprintf("jail parameter %s=%s", r.Name, r.Value)
	case SysVIPC:
		return fmt.Sprintf("sysvipc %s=%s", r.Name, r.Value)
	case Sysctl:
		return fmt.Sprintf("sysctl %s=%s", r.Name, r.Value)
	case Mount:
		return fmt.Sprintf("mount %s on %s", r.Value, r.Name)
	case Port:
		return fmt.Sprintf("port %s (%s)", r.Value, r.Name)
	}
	return string(r.Kind)
}

// same ignores who asks.
func (r Request) same(o Request) bool {
	return r.Kind == o.Kind && r.Name == o.Name && r.Value == o.Value
}

// Subject is the image that a decision is about.
type Subject struct {
	Image, Repository, Digest string
}

// Approval is an operator's override: exactly these requests, for exactly this
// image digest.
type Approval struct {
	Digest   string    `json:"digest"`
	Image    string    `json:"image,omitempty"`
	Requests []Request `json:"requests"`
	By       string    `json:"by"`
	Why      string    `json:"why"`
	At       time.Time `json:"at"`
}

// Policy is a host's permits and denies, in force as they were read.
type Policy struct {
	permits, denies []rule
	digest          string
}

// rule is one permit or deny block.
type rule struct {
	where   string            // file:line
	Images  []string          `hcl:"images,optional"`
	Digests []string          `hcl:"digests,optional"`
	Devfs   []string          `hcl:"devfs,optional"`
	Allow   []string          `hcl:"allow,optional"`
	Jail    map[string]string `hcl:"jail,optional"`
	SysVIPC []string          `hcl:"sysvipc,optional"`
	Sysctl  map[string]string `hcl:"sysctl,optional"`
	Mounts  []string          `hcl:"mounts,optional"`
	Ports   []string          `hcl:"ports,optional"`
	VNET    bool              `hcl:"vnet,optional"`
	Linux   bool              `hcl:"linux,optional"`
}

// Load reads the policy's blocks of a host's file; see Parse.
func Load(path string) (*Policy, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return Parse(path, src)
}

// Parse reads permit and deny blocks in HCL; what else the file holds is not
// the policy's to judge. Errors name file, line and what is wrong.
func Parse(filename string, src []byte) (*Policy, error) {
	f, diags := hclsyntax.ParseConfig(src, filepath.Base(filename), hcl.InitialPos)
	if diags.HasErrors() {
		return nil, fmt.Errorf("policy: %w", diags)
	}
	schema := &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{{Type: "permit"}, {Type: "deny"}}}
	content, _, diags := f.Body.PartialContent(schema)
	if diags.HasErrors() {
		return nil, fmt.Errorf("policy: %w", diags)
	}
	sum := sha256.Sum256(src)
	p := &Policy{digest: "sha256:" + hex.EncodeToString(sum[:])}
	for _, b := range content.Blocks {
		r := rule{where: fmt.Sprintf("%s:%d", b.DefRange.Filename, b.DefRange.Start.Line)}
		if diags := gohcl.DecodeBody(b.Body, nil, &r); diags.HasErrors() {
			return nil, fmt.Errorf("policy: %w", diags)
		}
		if err := r.validate(); err != nil {
			return nil, fmt.Errorf("policy: %s: %s: %w", r.where, b.Type, err)
		}
		if b.Type == "permit" {
			p.permits = append(p.permits, r)
		} else {
			p.denies = append(p.denies, r)
		}
	}
	return p, nil
}

// Digest names the text that the policy was read from.
func (p *Policy) Digest() string { return p.digest }

func (r *rule) validate() error {
	for _, g := range r.Images {
		if _, err := filepath.Match(g, ""); err != nil {
			return fmt.Errorf("images: %q: %w", g, err)
		}
	}
	for _, d := range r.Digests {
		if !strings.HasPrefix(d, "sha256:") || len(d) != len("sha256:")+64 {
			return fmt.Errorf("digests: %q is not sha256: and 64 hexadecimal digits", d)
		}
	}
	for _, v := range r.SysVIPC {
		name, mode, given := strings.Cut(v, "=")
		if name != "shm" && name != "msg" && name != "sem" || given && mode != "new" && mode != "inherit" {
			return fmt.Errorf("sysvipc: %q: want shm, msg or sem, with =new or =inherit", v)
		}
	}
	for _, v := range r.Ports {
		if _, err := parsePorts(v); err != nil {
			return fmt.Errorf("ports: %w", err)
		}
	}
	for _, v := range r.Mounts {
		if _, err := parseMount(v); err != nil {
			return fmt.Errorf("mounts: %w", err)
		}
	}
	return nil
}

// Result is the word on one request and where it comes from.
type Result struct {
	Request
	Allowed bool
	Reason  string
}

// Decision is the word on all requests of a task.
type Decision struct {
	Allowed bool
	Results []Result
}

// Contains compares two devfs rules by their texts: is all that the second
// opens opened by the first?
type Contains func(permitted, requested string) (bool, error)

// Decide judges requests: a deny wins over everything, then a permit or an
// approval of this digest is needed.
func (p *Policy) Decide(s Subject, reqs []Request, approvals []Approval, contains Contains) Decision {
	d := Decision{Allowed: true}
	for _, r := range reqs {
		res := p.decideOne(s, r, approvals, contains)
		d.Allowed = d.Allowed && res.Allowed
		d.Results = append(d.Results, res)
	}
	return d
}

func (p *Policy) decideOne(s Subject, r Request, approvals []Approval, contains Contains) Result {
	for _, rule := range p.denies {
		if !rule.appliesTo(s) {
			continue
		}
		if hit, err := rule.denies(r, contains); err != nil {
			return Result{r, false, fmt.Sprintf("the deny at %s cannot be compared: %v", rule.where, err)}
		} else if hit {
			return Result{r, false, "denied at " + rule.where}
		}
	}
	for _, rule := range p.permits {
		if !rule.appliesTo(s) {
			continue
		}
		if hit, err := rule.covers(r, contains); err != nil {
			return Result{r, false, fmt.Sprintf("the permit at %s cannot be compared: %v", rule.where, err)}
		} else if hit {
			return Result{r, true, "permitted at " + rule.where}
		}
	}
	for _, a := range approvals {
		if a.Digest != s.Digest {
			continue
		}
		for _, ar := range a.Requests {
			if ar.same(r) {
				return Result{r, true, fmt.Sprintf("approved by %s on %s: %s", a.By, a.At.Format(time.DateOnly), a.Why)}
			}
		}
	}
	return Result{r, false, "no permit covers it"}
}

// Err is nil where everything is allowed; otherwise it names every refused
// request, why, and how an operator can approve it.
func (d Decision) Err(s Subject) error {
	if d.Allowed {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the host's policy refuses image %s:", s.Image)
	job := false
	for _, r := range d.Results {
		if !r.Allowed {
			fmt.Fprintf(&b, "\n  %s, asked for by the %s: %s", r.Request, r.Source, r.Reason)
			job = job || r.Source == FromJob
		}
	}
	fmt.Fprintf(&b, "\nAn operator can approve what this image asks for: freejail policy approve --why REASON %s", s.Digest)
	if job {
		b.WriteString("\nWhat the job asks for needs a permit in the host's policy file.")
	}
	return &RefusedError{Text: b.String()}
}

// RefusedError is the policy's refusal of a task.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }
