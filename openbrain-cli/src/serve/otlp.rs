//! Traces for an OpenTelemetry collector, over OTLP/HTTP.

use http::HeaderMap;
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::TracerProvider,
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tracing::{Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::{
    console::say,
    failure::{Failure, Result},
};

/// The way to a collector. Dropping it sends what is not sent yet.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends to the collector at this address, which has the path `/v1/traces`.
    pub(super) fn to(collector: &str) -> Result<Self> {
        if !collector.starts_with("http://") && !collector.starts_with("https://") {
            return Err(Failure::usage(
                format!("`{collector}` is no address of a collector"),
                "write --otlp http://localhost:4318",
            ));
        }
        // The client of the exporter needs one, whatever the address; another may be there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = format!("{}/v1/traces", collector.trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build();
        let exporter = exporter.map_err(|error| {
            Failure::usage(format!("cannot send traces to `{collector}`: {error}"), "see --otlp")
        })?;
        let resource = Resource::builder().with_service_name("openbrain").build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
        Ok(Self(provider.with_resource(resource).build()))
    }

    /// Passes on our own spans, and those of no library.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let layer: OpenTelemetryLayer<S, SdkTracer> =
            tracing_opentelemetry::layer().with_tracer(self.0.tracer("openbrain"));
        layer.with_filter(Targets::new().with_target("openbrain", LevelFilter::INFO))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            say(format_args!("warning: the last traces did not reach the collector: {error}"));
        }
    }
}

/// Makes a span part of the trace that the headers of its request name.
pub(super) fn join_trace(span: &Span, headers: &HeaderMap) {
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    // Without a collector there is nothing to join.
    let _ = span.set_parent(parent);
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
