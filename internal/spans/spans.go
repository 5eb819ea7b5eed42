// Package spans tells an OpenTelemetry collector how long parts of a start took, over all processes that had a part in
// it. Where no endpoint is configured it does nothing.
package spans

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// batchTime is how long a span waits for others.
	batchTime = time.Second
	// flushTime is how long spans are waited for that are not sent yet.
	flushTime = 2 * time.Second
	// sayEvery is the shortest time between two complaints.
	sayEvery = time.Minute
)

// Exporter sends spans. A nil one sends none.
type Exporter struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// Open sends the spans of a service to an endpoint, a URL, or where that is empty to the one of the environment
// (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT); nil where there is none. The other variables of
// OTLP count too. What cannot be sent is dropped, and say hears of it now and then.
func Open(ctx context.Context, service, version, endpoint string, say func(error)) (*Exporter, error) {
	var to []otlptracehttp.Option
	if endpoint != "" {
		to = append(to, otlptracehttp.WithEndpointURL(endpoint))
	} else if cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) == "" {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx, to...)
	if err != nil {
		return nil, err
	}
	about := []attribute.KeyValue{attribute.String("service.name", service),
		attribute.String("service.version", version)}
	if host, err := os.Hostname(); err == nil {
		about = append(about, attribute.String("host.name", host))
	}
	res, err := resource.New(ctx, resource.WithAttributes(about...), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	otel.SetErrorHandler(&complaints{say: say})
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter, sdk.WithBatchTimeout(batchTime)), sdk.WithResource(res))
	return &Exporter{p, p.Tracer("github.com/freejail/freejail")}, nil
}

// complaints are told now and then.
type complaints struct {
	say  func(error)
	mu   sync.Mutex
	last time.Time
}

// Handle is an [otel.ErrorHandler]'s.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.last) >= sayEvery {
		c.last = time.Now()
		c.say(err)
	}
}

// Begin begins a span below that of the context, if it has one, with attributes as keys and values. What it returns
// ends it, with its error or nil.
func (e *Exporter) Begin(ctx context.Context, name string, attributes ...string) (context.Context, func(error)) {
	if e == nil {
		return ctx, func(error) {}
	}
	var list []attribute.KeyValue
	for i := 0; i+1 < len(attributes); i += 2 {
		if attributes[i+1] != "" {
			list = append(list, attribute.String(attributes[i], attributes[i+1]))
		}
	}
	ctx, span := e.tracer.Start(ctx, name, trace.WithAttributes(list...))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}

// Flush sends what was not sent yet, for a limited time.
func (e *Exporter) Flush() error {
	if e == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	return e.provider.ForceFlush(ctx)
}

// form is how a span's identity is written in a request: W3C's header traceparent.
var form propagation.TraceContext

// Send has a request tell which span it is part of.
func Send(ctx context.Context, h http.Header) { form.Inject(ctx, propagation.HeaderCarrier(h)) }

// Received is a context below the span that a request is part of.
func Received(ctx context.Context, h http.Header) context.Context {
	return form.Extract(ctx, propagation.HeaderCarrier(h))
}
