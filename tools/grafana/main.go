// Grafana writes the dashboard of example/grafana, so that its queries have one form and its panels one look.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

// panel is one graph. Its queries are told by their legends, in which {{label}} is a label's value.
type panel struct {
	title, about, unit string
	queries            []query
	stacked            bool
}

type query struct{ legend, expr string }

// one has a single query.
func one(title, about, unit, legend, expr string) panel {
	return panel{title: title, about: about, unit: unit, queries: []query{{legend, expr}}}
}

// hosts and tasks select what the dashboard's variables name.
const (
	hosts = `{instance=~"$instance"}`
	tasks = `{instance=~"$instance",namespace=~"$namespace",job=~"$job"}`
)

// perTask is how a series of a task is called: tasks of freejail run have no job.
const perTask = "{{job}} {{task}}"

var now = []panel{
	one("Tasks", "Tasks that run.", units.Short, "", `sum(freejail_tasks{instance=~"$instance",state="running"})`),
	one("Hosts", "Daemons that are scraped.", units.Short, "", `count(freejail_build_info`+hosts+`)`),
	one("Left behind", "What could not be removed yet.", units.Short, "", `sum(freejail_leftovers`+hosts+`)`),
	one("Faults", "Hosts with a faulty policy, and networks that tasks cannot have.", units.Short, "",
		`sum(freejail_policy_faulty`+hosts+`) + (sum(freejail_network_faulty`+hosts+`) or vector(0))`),
}

var rows = []struct {
	title  string
	panels []panel
}{{"Tasks", []panel{
	one("CPU", "Cores in use.", units.Short, perTask,
		`sum by (job, task) (rate(freejail_task_cpu_seconds_total`+tasks+`[$__rate_interval]))`),
	one("Memory", "Resident memory.", units.BytesIEC, perTask, `freejail_task_memory_bytes`+tasks),
	one("Memory of the limit", "Of tasks that have one.", units.PercentUnit, perTask,
		`freejail_task_memory_bytes`+tasks+` / freejail_task_memory_limit_bytes`+tasks),
	one("Disk of the limit", "Written to the root, where the daemon measures it.", units.PercentUnit, perTask,
		`freejail_task_disk_written_bytes`+tasks+` / freejail_task_disk_limit_bytes`+tasks),
	{title: "Network", about: "Of tasks with a network stack of their own; what they sent is below 0.",
		unit: units.BytesPerSecondIEC, queries: []query{
			{perTask + " received", `rate(freejail_task_network_receive_bytes_total` + tasks + `[$__rate_interval])`},
			{perTask + " sent", `-rate(freejail_task_network_transmit_bytes_total` + tasks + `[$__rate_interval])`}}},
	one("Processes", "Processes of a task.", units.Short, perTask, `freejail_task_processes`+tasks),
	one("Restarts", "In the last ten minutes.", units.Short, "{{job}} {{group}} {{name}}",
		`sum by (job, group, name) (increase(freejail_task_restarts_total`+tasks+`[10m]))`),
	one("Age", "Since the start; a roll-out shows as a fall.", units.Seconds, perTask,
		`time() - freejail_task_start_time_seconds`+tasks),
}}, {"Starts and ends", []panel{
	{title: "Tasks by state", unit: units.Short, stacked: true,
		queries: []query{{"{{state}}", `sum by (state) (freejail_tasks` + hosts + `)`}}},
	{title: "How long starts take", about: "Pull and unpacking included.", unit: units.Seconds,
		queries: []query{{"median", quantile("0.5", "start")}, {"95 of 100", quantile("0.95", "start")}}},
	{title: "Steps of a start", about: "The mean of each.", unit: units.Seconds, stacked: true,
		queries: []query{{"{{step}}", `sum by (step) (rate(freejail_start_step_duration_seconds_sum` + hosts +
			`[$__rate_interval])) / sum by (step) (rate(freejail_start_step_duration_seconds_count` + hosts +
			`[$__rate_interval]))`}}},
	{title: "Images", about: "95 of 100 took less.", unit: units.Seconds,
		queries: []query{{"pull", quantile("0.95", "pull")}, {"unpack", quantile("0.95", "unpack")}}},
	one("Ends by reason", "In five minutes.", units.Short, "{{reason}}",
		`sum by (reason) (increase(freejail_task_exits_total`+hosts+`[5m]))`),
	one("Events", "In five minutes.", units.Short, "{{kind}}",
		`sum by (kind) (increase(freejail_events_total`+hosts+`[5m])) > 0`),
}}, {"Policy", []panel{
	one("Refused requests", "In five minutes.", units.Short, "{{kind}} of the {{source}}",
		`sum by (kind, source) (increase(freejail_policy_refused_requests_total`+hosts+`[5m]))`),
	{title: "Decisions", unit: units.Seconds, about: "How long they take.",
		queries: []query{{"median", quantile("0.5", "policy_decision")},
			{"95 of 100", quantile("0.95", "policy_decision")}}},
}}, {"Host", []panel{
	one("Addresses", "Of each network's pool.", units.PercentUnit, "{{instance}} {{network}}",
		`freejail_network_addresses_used`+hosts+` / (freejail_network_addresses`+hosts+` > 0)`),
	{title: "Forwarded by the daemon", unit: units.Short, queries: []query{
		{"{{instance}} connections", `freejail_forwarded_connections` + hosts},
		{"{{instance}} flows", `freejail_forwarded_flows` + hosts},
		{"{{instance}} dropped", `increase(freejail_forward_drops_total` + hosts + `[5m])`}}},
	one("Memory of the daemon", "", units.BytesIEC, "{{instance}}", `freejail_daemon_memory_bytes`+hosts),
	one("Cleanup", "Attempts that failed, in five minutes.", units.Short, "{{instance}}",
		`increase(freejail_cleanup_failures_total`+hosts+`[5m])`),
	one("Reused by pulls", "Bytes of layers that pulls took from other layers of the host.", units.BytesPerSecondIEC,
		"{{instance}}", `rate(freejail_pull_reused_bytes_total`+hosts+`[$__rate_interval])`),
}}, {"Mirrors", []panel{ // whose addresses are their own: the host that is chosen does not select them
	one("Given to other hosts", "Bytes of images that mirrors sent.", units.BytesPerSecondIEC, "{{instance}}",
		`rate(freejail_mirror_sent_bytes_total[$__rate_interval])`),
	{title: "Requests of other hosts", unit: units.RequestsPerSecond,
		about: "404 is what the registry has to give, 503 that all transfers were taken.",
		queries: []query{{"{{instance}} {{status}}",
			`sum by (instance, status) (rate(freejail_mirror_requests_total[$__rate_interval]))`}}},
	one("Transfers", "Under way.", units.Short, "{{instance}}", `freejail_mirror_transfers`),
}}}

// quantile is that of a histogram.
func quantile(q, of string) string {
	return `histogram_quantile(` + q + `, sum by (le) (rate(freejail_` + of + `_duration_seconds_bucket` + hosts +
		`[$__rate_interval])))`
}

func ptr[T any](v T) *T { return &v }

// source is the one that is chosen at the dashboard.
var source = common.DataSourceRef{Type: ptr("prometheus"), Uid: ptr("$datasource")}

func variable(name, label string) *dashboard.QueryVariableBuilder {
	q := fmt.Sprintf("label_values(freejail_task_info, %s)", name)
	if name == "instance" {
		q = "label_values(freejail_build_info, instance)"
	}
	return dashboard.NewQueryVariableBuilder(name).Label(label).Datasource(source).
		Query(dashboard.StringOrMap{String: &q}).Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
		Multi(true).IncludeAll(true).AllValue(".*").
		Current(dashboard.VariableOption{Text: dashboard.StringOrArrayOfString{String: ptr("All")},
			Value: dashboard.StringOrArrayOfString{String: ptr("$__all")}})
}

func target(q query, i int) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Expr(q.expr).LegendFormat(q.legend).RefId(string(rune('A' + i))).
		Datasource(source)
}

func (p panel) graph() *timeseries.PanelBuilder {
	b := timeseries.NewPanelBuilder().Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).
		Height(8).Span(12).LineWidth(1).FillOpacity(10).ShowPoints(common.VisibilityModeNever)
	if p.stacked {
		b.FillOpacity(40).Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
	}
	for i, q := range p.queries {
		b.WithTarget(target(q, i))
	}
	return b
}

func (p panel) number() *stat.PanelBuilder {
	b := stat.NewPanelBuilder().Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).Height(4).Span(6).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}))
	for i, q := range p.queries {
		b.WithTarget(target(q, i))
	}
	return b
}

// build is the dashboard.
func build() ([]byte, error) {
	b := dashboard.NewDashboardBuilder("freejail").Uid("freejail").Tags([]string{"freejail"}).Refresh("30s").
		Time("now-3h", "now").Editable().Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Variables([]cog.Builder[dashboard.VariableModel]{
			dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus"),
			variable("instance", "Host"), variable("namespace", "Namespace"), variable("job", "Job")})
	for _, p := range now {
		b.WithPanel(p.number())
	}
	for _, r := range rows {
		b.WithRow(dashboard.NewRowBuilder(r.title))
		for _, p := range r.panels {
			b.WithPanel(p.graph())
		}
	}
	d, err := b.Build()
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(d, "", "  ")
	return append(text, '\n'), err
}

func main() {
	file := flag.String("o", "../../example/grafana/freejail.json", "the dashboard's file")
	flag.Parse()
	text, err := build()
	if err == nil {
		err = os.WriteFile(*file, text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "grafana:", err)
		os.Exit(1)
	}
}
