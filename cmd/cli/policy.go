package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/freejail/freejail/daemon"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/policy"
)

func (a *commands) policyCmd() *cobra.Command {
	c := &cobra.Command{Use: "policy", Short: "what this host lets images have"}
	reload := &cobra.Command{Use: "reload", Short: "read the policy file now and say what is wrong with it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.client().Reload(cmd.Context()) }}
	return group(c, a.policyCheckCmd(), a.policyTestCmd(), a.policySetsCmd(), a.policyApproveCmd(), a.policyListCmd(), a.policyRevokeCmd(), a.policyLogCmd(), reload)
}

func (a *commands) policyCheckCmd() *cobra.Command {
	var file string
	var f runFlags
	c := &cobra.Command{Use: "check [flags] IMAGE", Short: "what the policy says of each request of an image, or of a task", Args: cobra.ExactArgs(1),
		Long: "Says of each request by which line it is permitted or denied, and what would permit it: of an image, or with\n" +
			"flags of `freejail run` of the task that it would start, of which it decides as the start would.\n" +
			"With --policy it needs no daemon and runs on any system: IMAGE is then an OCI archive or layout directory.",
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.check(cmd, f, args[0], file)
			if err != nil {
				return err
			}
			if err := a.print(d, func(w io.Writer) { printDecision(w, d) }); err != nil {
				return err
			}
			if !d.Allowed {
				return exitCode(exitRefused)
			}
			return nil
		}}
	f.task(c)
	c.Flags().StringVar(&file, "policy", "", "decide about an image alone by this file, without the daemon")
	return c
}

func (a *commands) check(cmd *cobra.Command, f runFlags, image, file string) (*client.Decision, error) {
	if !cmd.Flags().Changed("policy") {
		spec, err := f.spec([]string{imageRef(image)})
		if err != nil {
			return nil, usageError{err}
		}
		return a.client().CheckPolicy(cmd.Context(), spec)
	}
	var ofTask cobra.Command
	f.task(&ofTask)
	given := ""
	cmd.Flags().Visit(func(fl *pflag.Flag) {
		if ofTask.Flags().Lookup(fl.Name) != nil {
			given = fl.Name
		}
	})
	if given != "" {
		return nil, usageError{fmt.Errorf("--policy is about an image alone: --%s is for the daemon to judge", given)}
	}
	return daemon.CheckImage(cmd.Context(), image, file)
}

func (a *commands) policyTestCmd() *cobra.Command {
	return &cobra.Command{Use: "test FILE", Short: "run the test blocks that stand beside a policy", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := daemon.LoadPolicy(args[0])
			if err != nil {
				return err
			}
			n, failures := p.Test()
			if n == 0 {
				return fmt.Errorf("%s has no test blocks, so that nothing was tested", args[0])
			}
			report := struct {
				Assertions int              `json:"assertions"`
				Failures   []policy.Failure `json:"failures"`
			}{n, failures}
			if report.Failures == nil {
				report.Failures = []policy.Failure{}
			}
			if err := a.print(report, func(w io.Writer) {
				for _, f := range failures {
					printable.Fprintf(w, "%s: test %q: %s\n", f.Where, f.Test, f.Message)
				}
				printable.Fprintf(w, "%d of %d assertions hold\n", n-len(failures), n)
			}); err != nil {
				return err
			}
			if len(failures) > 0 {
				return exitCode(exitFailed)
			}
			return nil
		}}
}

func (a *commands) policySetsCmd() *cobra.Command {
	return &cobra.Command{Use: "sets [NAME]", Short: "list the built-in sets of permits, or read one", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				s, err := policy.FindSet(args[0])
				if err != nil {
					return err
				}
				return a.print(s, func(w io.Writer) { printable.Fprintf(w, "%s", printable.Lines(s.Text)) })
			}
			list := policy.Sets()
			return a.print(list, func(w io.Writer) {
				var rows [][]string
				for _, s := range list {
					rows = append(rows, []string{s.Name, s.Description})
				}
				table(w, "SET\tWHAT IT IS FOR", rows)
			})
		}}
}

func (a *commands) policyApproveCmd() *cobra.Command {
	var reason, expires string
	var requests []string
	c := &cobra.Command{Use: "approve IMAGE@DIGEST --reason REASON", Short: "let one digest of an image have what the policy does not permit", Args: cobra.ExactArgs(1),
		Long: "Approves the requests that are named, or all that the image asks for, for this digest of the image alone.\n" +
			"Who approved, when and why is recorded. A deny of the policy stays in force.",
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := expiry(expires, time.Now())
			if err != nil {
				return usageError{err}
			}
			ap, err := a.client().Approve(cmd.Context(), client.ApproveRequest{Image: imageRef(args[0]), Requests: requests, Why: reason, Expires: at})
			if err != nil {
				return err
			}
			return a.print(ap, func(w io.Writer) {
				printable.Fprintf(w, "%s: approved for %s%s:\n", ap.ID, ap.Digest, until(*ap))
				for _, r := range ap.Requests {
					printable.Fprintf(w, "  %s\n", r)
				}
			})
		}}
	c.Flags().StringVar(&reason, "reason", "", "why, which is recorded")
	c.Flags().StringVar(&reason, "why", "", "the same as --reason")
	c.Flags().StringArrayVar(&requests, "request", nil, "what to approve, as `KIND:WHAT` of policy check; repeatable (default: all that the image asks for)")
	c.Flags().StringVar(&expires, "expires", "", "when it ends: a time from now such as 12h or 30d, or a date such as 2030-01-31")
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
	return time.Time{}, fmt.Errorf("--expires %q is no time such as 12h, 30d or 2030-01-31", s)
}

func until(a client.Approval) string {
	switch {
	case a.Expires.IsZero():
		return ""
	case a.Expired:
		return " (expired " + a.Expires.Local().Format("2006-01-02 15:04") + ")"
	}
	return " until " + a.Expires.Local().Format("2006-01-02 15:04")
}

func (a *commands) policyListCmd() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "list the approvals", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		l, err := a.client().Approvals(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(l, func(w io.Writer) {
			var rows [][]string
			for _, p := range l {
				rows = append(rows, []string{p.ID, short(p.Digest), p.Image, p.By, p.At.Local().Format("2006-01-02 15:04") + until(p), p.Why, strings.Join(p.Requests, "; ")})
			}
			table(w, "ID\tDIGEST\tIMAGE\tBY\tWHEN\tREASON\tREQUESTS", rows)
		})
	}}
}

func (a *commands) policyRevokeCmd() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "revoke ID|DIGEST|IMAGE", Short: "withdraw an approval; running tasks go on and are told", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client().Revoke(cmd.Context(), args[0], reason)
		}}
	c.Flags().StringVar(&reason, "reason", "", "why, which is recorded")
	return c
}

func (a *commands) policyLogCmd() *cobra.Command {
	return &cobra.Command{Use: "log", Short: "tell everything that was ever approved and revoked, or expired", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		l, err := a.client().ApprovalLog(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(l, func(w io.Writer) {
			for _, r := range l {
				at, by, why := r.Approval.At, r.Approval.By, r.Approval.Why
				if r.Action != "approve" {
					at, by, why = r.At, r.By, r.Why
				}
				printable.Fprintf(w, "%s %s %s %s by %s: %s\n", at.Local().Format(time.DateTime), r.Action, r.Approval.ID, short(r.Approval.Digest), by, why)
				if r.Action == "approve" {
					printable.Fprintf(w, "  %s%s: %s\n", r.Approval.Image, until(r.Approval), strings.Join(r.Approval.Requests, "; "))
				}
			}
		})
	}}
}

func printDecision(w io.Writer, d *client.Decision) {
	printable.Fprintf(w, "%s  %s\n", d.Image, d.Digest)
	if len(d.Signers) > 0 {
		printable.Fprintf(w, "signed by %s\n", strings.Join(d.Signers, ", "))
	}
	if len(d.Results) == 0 {
		printable.Fprintln(w, "asks for nothing")
		return
	}
	var rows [][]string
	for _, r := range d.Results {
		word := "refused"
		if r.Allowed {
			word = "allowed"
		}
		rows = append(rows, []string{word, r.Request, r.Reason})
	}
	table(w, "\tREQUEST\tREASON", rows)
	first := true
	for _, r := range d.Results {
		if r.Permit != "" && first {
			printable.Fprintf(w, "\nIn the host's policy, this would permit what is refused:\n")
			first = false
		}
		if r.Permit != "" {
			printable.Fprintln(w, printable.Lines(r.Permit))
		}
	}
	if d.Approve != "" {
		printable.Fprintf(w, "\nFor this digest alone:\n%s\n", printable.Lines(d.Approve))
	}
}

func (a *commands) devfsCmd() *cobra.Command {
	c := &cobra.Command{Use: "devfs", Short: "freejail's devfs rulesets"}
	list := &cobra.Command{Use: "list", Short: "list the rulesets and who holds them", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		l, err := a.client().Rulesets(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(l, func(w io.Writer) {
			for _, s := range l {
				printRuleset(w, s)
			}
		})
	}}
	show := &cobra.Command{Use: "show RULESET", Short: "show one ruleset, by its number or a task that holds it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.client().Rulesets(cmd.Context())
			if err != nil {
				return err
			}
			for _, s := range l {
				if fmt.Sprint(s.ID) == args[0] || strings.Contains("\n"+strings.Join(s.Holders, "\n")+"\n", "\n"+args[0]+"\n") {
					return a.print(s, func(w io.Writer) { printRuleset(w, s) })
				}
			}
			return fmt.Errorf("freejail has no ruleset %s, and no task of that name has one; see `freejail devfs list`", args[0])
		}}
	return group(c, list, show, a.devfsExplainCmd())
}

func printRuleset(w io.Writer, s client.Ruleset) {
	holders := strings.Join(s.Holders, ", ")
	if holders == "" {
		holders = "nobody"
	}
	printable.Fprintf(w, "ruleset %d, held by %s\n", s.ID, holders)
	for i, r := range s.Rules {
		printable.Fprintf(w, "  %d %s\n", i+1, r)
	}
}

func (a *commands) devfsExplainCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "explain IMAGE", Short: "which of this host's devices a jail of an image would see, and by which rule", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.client().Explain(cmd.Context(), imageRef(args[0]))
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) {
				var rows [][]string
				for _, n := range v.Nodes {
					word := "hidden"
					if n.Visible {
						word = "visible"
					}
					if len(n.Types) > 0 {
						word = strings.ReplaceAll("if "+strings.Join(n.Types, " or "), "if  or", "if of no type or")
					}
					if n.Visible || all || len(n.Types) > 0 {
						rows = append(rows, []string{word, n.Path, n.Mode, n.From, n.Rule})
					}
				}
				table(w, "\tNODE\tMODE\tBY\tRULE", rows)
			})
		}}
	c.Flags().BoolVarP(&all, "all", "a", false, "those that it would not see too")
	return c
}

func (a *commands) metricsCmd() *cobra.Command {
	return &cobra.Command{Use: "metrics", Short: "print the daemon's metrics in Prometheus' text format", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client().Metrics(cmd.Context(), a.out)
		}}
}
