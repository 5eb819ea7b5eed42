package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/cmd/internal/remote"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/judge"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/policy"
)

func (a *commands) policyCmd() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "check, test and approve what images may have"}
	reload := app.Command("reload", "reload the policy file and the lists of revocations now, and report errors",
		cobra.NoArgs, func(ctx context.Context, _ []string) error { return a.reload(ctx) })
	reload.Long = `Policy, registries, signers and approvers of the host's file are in force when it has
ended. What else the file has in another way than the daemon is told, with what puts it in force.`
	list := listing(a, "list", "list the approvals", (*client.Client).Approvals, printApprovals)
	log := listing(a, "log", "show all approvals, revocations and expiries", (*client.Client).ApprovalLog,
		printApprovalLog)
	c.AddCommand(a.policyCheckCmd(), a.policyTestCmd(), a.policySetsCmd(), a.policyApproveCmd(), a.policyRevokeCmd(),
		list, log, reload)
	return c
}

func printRevocationLists(w io.Writer, list []client.RevocationList) {
	for _, l := range list {
		printable.Fprintf(w, "approver %s: %s: ", l.Approver, l.From)
		if l.Serial > 0 {
			printable.Fprintf(w, "list %d of %s, %s", l.Serial, l.Issued.UTC().Format(time.RFC3339),
				printable.Count(l.Revoked, "revocation"))
		} else {
			printable.Fprintf(w, "there is no list")
		}
		if l.Error != "" {
			printable.Fprintf(w, ": it could not be had now: %s", l.Error)
		}
		printable.Fprintln(w)
	}
}

// reloaded is what a reload has found.
type reloaded struct {
	Config         string                  `json:"config"`
	Revocations    []client.RevocationList `json:"revocations"`
	Waiting        []string                `json:"waiting,omitempty"`
	WaitingRestart []string                `json:"waiting_restart,omitempty"`
}

func (a *commands) reload(ctx context.Context) error {
	done, err := a.client().Reload(ctx)
	if err != nil {
		return err
	}
	i, err := a.client().Info(ctx)
	if err != nil {
		return err
	}
	err = a.Print(reloaded{i.Config, done.Revocations, i.Waiting, i.WaitingRestart}, func(w io.Writer) {
		printReloaded(w, i)
		printRevocationLists(w, done.Revocations)
	})
	failed := func(l client.RevocationList) bool { return l.Error != "" }
	if err == nil && slices.ContainsFunc(done.Revocations, failed) {
		return app.ExitCode(app.Failed)
	}
	return err
}

func printReloaded(w io.Writer, i *client.Info) {
	if i.Config == "" {
		printable.Fprintln(w, "the daemon has no host configuration: there was nothing to read")
		return
	}
	printable.Fprintf(w, "policy, registries, signers and approvers of %s are in force\n", i.Config)
	rest := slices.DeleteFunc(slices.Clone(i.Waiting), func(name string) bool {
		return slices.Contains(i.WaitingRestart, name)
	})
	if len(rest) > 0 {
		printable.Fprintf(w, "not in force yet: %s: `%s`\n", strings.Join(rest, ", "), client.UpgradeCommand)
	}
	if len(i.WaitingRestart) > 0 {
		printable.Fprintf(w, "not in force before the daemon is stopped and started: %s\n",
			strings.Join(i.WaitingRestart, ", "))
	}
}

func (a *commands) policyCheckCmd() *cobra.Command {
	var file *string
	var f runFlags
	var tracer string
	c := app.Command("check [flags] IMAGE", "show the decision about each request of an image or a task",
		cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
			d, err := a.check(ctx, f, args[0], file, tracer)
			if err == nil {
				err = a.Print(d, func(w io.Writer) { printDecision(w, d) })
			}
			if err == nil && !d.Allowed {
				return app.ExitCode(exitRefused)
			}
			return err
		})
	c.Long = `Shows which line permits or denies each request, and what would permit it. With
flags of "freejail run" the decision is about the task that they would start. With
--policy no daemon is needed: IMAGE is then an OCI archive or layout directory.`
	f.task(c.Flags())
	c.Flags().StringVar(&tracer, "trace", "", "a `USER` of the host who would trace the task")
	c.Flags().Func("policy", "decide about an image by this `FILE`, without a daemon", func(text string) error {
		file = &text
		return nil
	})
	return c
}

func (a *commands) check(ctx context.Context, f runFlags, image string, file *string, tracer string) (
	*client.Decision, error) {
	switch {
	case file == nil:
		if err := f.image([]string{image}); err != nil {
			return nil, err
		}
		if err := a.resolve(ctx, &f); err != nil {
			return nil, err
		}
		d, err := a.client().CheckTrace(ctx, f.TaskSpec, tracer)
		return d, aFile(image, err)
	case tracer != "":
		return nil, app.Usagef("--policy and --trace exclude each other: the daemon knows the users")
	case !reflect.DeepEqual(f, runFlags{}):
		return nil, app.Usagef("--policy and flags of a task exclude each other: only a daemon can decide about a task")
	}
	return judge.CheckImage(ctx, image, *file)
}

func (a *commands) policyTestCmd() *cobra.Command {
	return app.Command("test FILE", "run the test blocks of a policy file", cobra.ExactArgs(1),
		func(_ context.Context, args []string) error {
			p, err := host.LoadPolicy(args[0])
			if err != nil {
				return err
			}
			n, failures := p.Test()
			if n == 0 {
				return fmt.Errorf("%s has no test blocks: nothing was tested", args[0])
			}
			report := struct {
				Assertions int              `json:"assertions"`
				Failures   []policy.Failure `json:"failures"`
			}{n, failures}
			if report.Failures == nil {
				report.Failures = []policy.Failure{}
			}
			if err := a.Print(report, func(w io.Writer) {
				for _, f := range failures {
					printable.Fprintf(w, "%s: test %q: %s\n", f.Where, f.Test, f.Message)
				}
				printable.Fprintf(w, "%d of %d assertions hold\n", n-len(failures), n)
			}); err != nil {
				return err
			}
			if len(failures) > 0 {
				return app.ExitCode(app.Failed)
			}
			return nil
		})
}

func (a *commands) policySetsCmd() *cobra.Command {
	return app.Command("sets [NAME]", "list the built-in sets of permits, or show one", cobra.MaximumNArgs(1),
		func(_ context.Context, args []string) error {
			if len(args) == 1 {
				s, err := policy.FindSet(args[0])
				if err != nil {
					return err
				}
				return a.Print(s, func(w io.Writer) { printable.Fprintf(w, "%s", printable.Lines(s.Text)) })
			}
			list := policy.Sets()
			return a.Print(list, func(w io.Writer) {
				table(w, "SET\tWHAT IT IS FOR", list,
					func(s policy.Set) []string { return []string{s.Name, s.Description} })
			})
		})
}

func (a *commands) policyApproveCmd() *cobra.Command {
	var r client.ApproveRequest
	var signed signedApproval
	c := app.Command("approve IMAGE[@DIGEST] --reason REASON", "approve requests of one digest of an image",
		cobra.ExactArgs(1), func(ctx context.Context, args []string) (err error) {
			if signed.key != "" {
				return a.approveSigned(ctx, &signed, args[0], r)
			}
			if signed.Given() {
				return app.Usagef("flags of registries are for --sign KEY")
			}
			if strings.TrimSpace(r.Why) == "" {
				return app.Usagef("an approval needs a reason: --reason \"...\"")
			}
			if r.Image, err = a.imageRef(ctx, args[0]); err != nil {
				return err
			}
			done, err := a.client().Approve(ctx, r)
			if err != nil {
				return err
			}
			return a.Print(done, func(w io.Writer) { printApproval(w, done) })
		})
	c.Long = `Approves the given requests, or all requests of the image, for this digest only.
Who approved, when and why is recorded. A deny of the policy stays in force. What the
image does not ask for itself is told: it counts for jobs that ask for it. What no
jail is known to have is refused.

With --sign the approval is for all hosts whose configuration names the key: it
is signed, and attached to the image in its registry. IMAGE is then
HOST/NAME@sha256:..., --expires is needed, and no daemon; of an index each image
that asks for something is approved. What is signed is shown before it is.
` + remote.PasswordHelp
	c.Flags().StringVar(&signed.key, "sign", "", "sign the approval with this private `KEY` for a fleet")
	signed.Add(c)
	c.Flags().StringVar(&r.Why, "reason", "", "the reason, which is recorded")
	c.Flags().StringVar(&r.Why, "why", "", "the same as --reason")
	c.Flags().StringArrayVar(&r.Requests, "request", nil,
		"a request, as `KIND:WHAT`; repeatable (default: all requests of the image)")
	c.Flags().StringArrayVar(&r.Unknown, "unknown-parameter", nil,
		"approve this `NAME` of a jail permission or parameter, which newer kernels or modules have; repeatable")
	c.Flags().Func("expires", "when it expires: a `TIME` from now such as 12h or 30d, or a date such as 2030-01-31",
		func(text string) (err error) {
			r.Expires, err = expiry(text, time.Now())
			return err
		})
	if err := c.Flags().MarkHidden("why"); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

// expiry reads "12h", "30d", "2030-01-31" (its end) or RFC 3339.
func expiry(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	var days int
	if n, err := fmt.Sscanf(s, "%dd", &days); n == 1 && err == nil && s == fmt.Sprintf("%dd", days) && days > 0 {
		return now.AddDate(0, 0, days), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(d), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return t.AddDate(0, 0, 1), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	return time.Time{}, errors.New("not a valid time (for example 12h, 30d or 2030-01-31)")
}

func until(a client.Approval) string {
	switch {
	case a.Expires.IsZero():
		return ""
	case a.Expired:
		return " (expired " + minute(a.Expires) + ")"
	}
	return " until " + minute(a.Expires)
}

func minute(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

func printApproval(w io.Writer, a *client.Approval) {
	printable.Fprintf(w, "%s: approved for %s%s:\n", a.ID, a.Digest, until(*a))
	for _, r := range a.Requests {
		printRequest(w, r, a.Unasked)
	}
}

// printRequest prints what is approved. What the image does not ask for is most often a mistake, or a job's.
func printRequest(w io.Writer, key string, unasked []string) {
	printable.Fprintf(w, "  %s", key)
	if slices.Contains(unasked, key) {
		printable.Fprintf(w, "   (the image does not ask for it: this counts for jobs that do)")
	}
	printable.Fprintln(w)
}

func printApprovals(w io.Writer, list []client.Approval) {
	table(w, "ID\tDIGEST\tIMAGE\tBY\tWHEN\tREASON\tREQUESTS", list, func(a client.Approval) []string {
		when := minute(a.At) + until(a)
		if a.Problem != "" {
			when += " (does not count: " + a.Problem + ")"
		}
		return []string{shortID(a), short(a.Digest), a.Image, byWhom(a), when, a.Why, strings.Join(a.Requests, "; ")}
	})
}

// shortID is an ID of this host, or the first digits of one of a fleet.
func shortID(a client.Approval) string {
	if a.Approver != "" {
		return short(a.ID)
	}
	return a.ID
}

func byWhom(a client.Approval) string {
	if a.Approver != "" {
		return a.By + ", signed by " + a.Approver
	}
	return a.By
}

func (a *commands) policyRevokeCmd() *cobra.Command {
	var reason string
	var signed signedRevocation
	c := app.Command("revoke [ID|DIGEST|IMAGE]", "revoke an approval; running tasks go on, with an event",
		cobra.MaximumNArgs(1), func(ctx context.Context, args []string) error {
			switch {
			case signed.key != "":
				return a.revokeSigned(ctx, &signed, args, reason)
			case signed.list != "" || signed.image || signed.first || len(signed.merge) > 0 || signed.Given():
				return app.Usagef("--list, --image, --merge, --new and flags of registries are for --sign KEY")
			case len(args) == 0:
				return app.Usagef("no approval: give its ID, or a digest or an image")
			}
			done, err := a.client().Revoke(ctx, args[0], reason)
			if err != nil {
				return err
			}
			return a.Print(done, func(w io.Writer) {
				for _, one := range done {
					printable.Fprintf(w, "%s: revoked for %s, %s: %s\n", one.ID, one.Digest, one.Image,
						strings.Join(one.Requests, "; "))
				}
			})
		})
	c.Long = `Revokes an approval of this host, or all of a digest or an image.

With --sign the revocation is for all hosts: it is added to the signed list of
revocations --list, which --new begins, and which hosts fetch from where their
configuration says. ID is then that of a signed approval, or
with --image the digest of an image, all of whose approvals until now are
revoked; HOST/NAME@DIGEST is each image of an index. The first digits do where this
host has it. Without either the list is dated anew, before hosts take it for too old.
Nothing is ever taken out of a list: --merge adds what another one has.`
	c.Flags().StringVar(&reason, "reason", "", "the reason, which is recorded")
	c.Flags().StringVar(&signed.key, "sign", "", "sign the list of revocations with this private `KEY`")
	c.Flags().StringVar(&signed.list, "list", "", "the `FILE` with the signed list of revocations")
	c.Flags().StringArrayVar(&signed.merge, "merge", nil,
		"add all of the list in this `FILE`, signed by the same key; repeatable")
	c.Flags().BoolVar(&signed.image, "image", false, "revoke all signed approvals of an image, by its digest")
	c.Flags().BoolVar(&signed.first, "new", false, "begin the list, where there is none yet")
	signed.Add(c)
	return c
}

func printApprovalLog(w io.Writer, list []client.ApprovalRecord) {
	for _, r := range list {
		at, by, why := r.Approval.At, byWhom(r.Approval), r.Approval.Why
		if r.Action != "approve" {
			at, by, why = r.At, r.By, r.Why
		}
		printable.Fprintf(w, "%s %s %s %s by %s: %s\n", at.Local().Format(time.DateTime), r.Action,
			shortID(r.Approval), short(r.Approval.Digest), by, why)
		if r.Action == "approve" || r.Action == "honour" {
			printable.Fprintf(w, "  %s%s: %s\n", r.Approval.Image, until(r.Approval),
				strings.Join(r.Approval.Requests, "; "))
		}
	}
}

func printDecision(w io.Writer, d *client.Decision) {
	printable.Fprintf(w, "%s  %s\n", d.Image, d.Digest)
	if len(d.Signers) > 0 {
		printable.Fprintf(w, "signed by %s\n", strings.Join(d.Signers, ", "))
	}
	for _, text := range d.Notes {
		printable.Fprintf(w, "note: %s\n", text)
	}
	if len(d.Results) == 0 {
		printable.Fprintln(w, "asks for nothing")
		return
	}
	table(w, "\tREQUEST\tREASON", d.Results, func(r client.Result) []string {
		if r.Allowed {
			return []string{"allowed", r.Request, r.Reason}
		}
		return []string{"refused", r.Request, r.Reason}
	})
	first := true
	for _, r := range d.Results {
		if r.Permit != "" && first {
			printable.Fprintf(w, "\nIn the host's policy, this would permit the refused requests:\n")
			first = false
		}
		if r.Permit != "" {
			printable.Fprintln(w, printable.Lines(r.Permit))
		}
	}
	if d.Approve != "" {
		printable.Fprintf(w, "\nFor this digest only:\n%s\n", printable.Lines(d.Approve))
	}
	if d.Sign != "" {
		printable.Fprintf(w, "\nFor this digest, on all hosts that have the key of %s:\n%s\n",
			strings.Join(d.Givers, " or "), printable.Lines(d.Sign))
	}
}

func (a *commands) devfsCmd() *cobra.Command {
	c := &cobra.Command{Use: "devfs", Short: "freejail's devfs rulesets"}
	c.AddCommand(listing(a, "list", "list the rulesets and their holders", (*client.Client).Rulesets, printRulesets),
		answer(a, "show RULESET", "show one ruleset, by its number or a task", cobra.ExactArgs(1), a.ruleset,
			printRuleset),
		a.devfsExplainCmd())
	return c
}

func (a *commands) ruleset(ctx context.Context, args []string) (client.Ruleset, error) {
	list, err := a.client().Rulesets(ctx)
	for _, s := range list {
		if fmt.Sprint(s.ID) == args[0] || slices.Contains(s.Holders, args[0]) {
			return s, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("no such ruleset or task with a ruleset: %s; see `freejail devfs list`", args[0])
	}
	return client.Ruleset{}, err
}

func printRulesets(w io.Writer, list []client.Ruleset) {
	for _, s := range list {
		printRuleset(w, s)
	}
}

func printRuleset(w io.Writer, s client.Ruleset) {
	printable.Fprintf(w, "ruleset %d, held by %s\n", s.ID, cmp.Or(strings.Join(s.Holders, ", "), "nobody"))
	for i, r := range s.Rules {
		printable.Fprintf(w, "  %d %s\n", i+1, r)
	}
}

func (a *commands) devfsExplainCmd() *cobra.Command {
	var all bool
	c := answer(a, "explain IMAGE", "show which devices a jail of an image would see, and by which rule",
		cobra.ExactArgs(1), func(ctx context.Context, args []string) (*client.DevfsView, error) {
			image, err := a.imageRef(ctx, args[0])
			if err != nil {
				return nil, err
			}
			return a.client().Explain(ctx, image)
		}, func(w io.Writer, v *client.DevfsView) {
			table(w, "\tNODE\tMODE\tBY\tRULE", v.Nodes, func(n client.Node) []string {
				if n.Visible || all || len(n.Types) > 0 {
					return []string{visibility(n), n.Path, n.Mode, n.From, n.Rule}
				}
				return nil
			})
		})
	c.Flags().BoolVarP(&all, "all", "a", false, "also show hidden devices")
	return c
}

func visibility(n client.Node) string {
	switch {
	case len(n.Types) > 0:
		return strings.ReplaceAll("if "+strings.Join(n.Types, " or "), "if  or", "if of no type or")
	case n.Visible:
		return "visible"
	}
	return "hidden"
}

func (a *commands) metricsCmd() *cobra.Command {
	return app.Command("metrics", "print the daemon's metrics in Prometheus' text format", cobra.NoArgs,
		func(ctx context.Context, _ []string) error {
			return a.client().Metrics(ctx, a.Out)
		})
}
