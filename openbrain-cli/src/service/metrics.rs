//! The figures of the server, for Prometheus.

use std::{fmt::Debug, time::Duration};

use openbrain::{BackendName, Output, Surface};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Seconds that a start takes: from a spawn on the host to the pull of an image.
const START_BUCKETS: [f64; 11] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0];

/// Seconds that a command takes.
const DURATION_BUCKETS: [f64; 12] =
    [0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 3600.0];

/// The figures of the server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    ended: Family<Ended, Counter>,
    refused: Family<Refused, Counter>,
    running: Family<Backend, Gauge>,
    start: Family<Backend, Histogram>,
    duration: Family<Backend, Histogram>,
    output: Family<Stream, Counter>,
    truncated: Family<Stream, Counter>,
    waiting: Gauge,
    kept: Gauge,
    sandboxes: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    surface: &'static str,
    backend: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    surface: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Backend {
    backend: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stream {
    stream: &'static str,
}

impl Metrics {
    /// All figures as text, with those that are known elsewhere: requests that wait, bytes that are
    /// kept, sandboxes that are open.
    pub(super) fn text(&self, figures: [u64; 3]) -> String {
        for (gauge, figure) in [&self.waiting, &self.kept, &self.sandboxes].into_iter().zip(figures)
        {
            gauge.set(figure as i64);
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(super) fn started(&self, backend: BackendName, took: Duration) {
        self.start.get_or_create(&Backend::of(backend)).observe(took.as_secs_f64());
    }

    pub(super) fn running(&self, backend: BackendName, change: i64) {
        self.running.get_or_create(&Backend::of(backend)).inc_by(change);
    }

    pub(super) fn ended(
        &self,
        surface: Surface,
        backend: BackendName,
        status: &'static str,
        duration: Option<Duration>,
    ) {
        let labels = Ended { surface: surface.as_str(), backend: backend.as_str(), status };
        self.ended.get_or_create(&labels).inc();
        if let Some(duration) = duration {
            self.duration.get_or_create(&Backend::of(backend)).observe(duration.as_secs_f64());
        }
    }

    pub(super) fn output(&self, output: &Output) {
        for (stream, captured) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            let labels = Stream { stream };
            self.output.get_or_create(&labels).inc_by(captured.total);
            self.truncated.get_or_create(&labels).inc_by(captured.truncated.into());
        }
    }

    pub(super) fn refused(&self, surface: Surface, code: &'static str) {
        self.refused.get_or_create(&Refused { surface: surface.as_str(), code }).inc();
    }
}

impl Backend {
    fn of(backend: BackendName) -> Self {
        Self { backend: backend.as_str() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("openbrain"),
            ended: Family::default(),
            refused: Family::default(),
            running: Family::default(),
            start: Family::new_with_constructor(|| Histogram::new(START_BUCKETS)),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            output: Family::default(),
            truncated: Family::default(),
            waiting: Gauge::default(),
            kept: Gauge::default(),
            sandboxes: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let to = &mut self.registry;
        to.register("execs", "Commands that ended", self.ended.clone());
        to.register("refusals", "Requests that started no command", self.refused.clone());
        to.register("running", "Commands that run now", self.running.clone());
        to.register("waiting", "Requests that wait for a place", self.waiting.clone());
        to.register("sandboxes", "Sandboxes that are open", self.sandboxes.clone());
        to.register("truncations", "Streams of which a part is missing", self.truncated.clone());
        let (start, duration) = (self.start.clone(), self.duration.clone());
        to.register_with_unit("start", "From request to start", Unit::Seconds, start);
        to.register_with_unit("duration", "From start to end", Unit::Seconds, duration);
        let (output, kept) = (self.output.clone(), self.kept.clone());
        to.register_with_unit("output", "What commands wrote", Unit::Bytes, output);
        to.register_with_unit("kept_output", "Output that is remembered", Unit::Bytes, kept);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openbrain::{BackendName, Surface};

    use super::Metrics;

    #[test]
    fn figures_have_names_and_labels() {
        let metrics = Metrics::default();
        metrics.started(BackendName::Direct, Duration::from_millis(3));
        let second = Some(Duration::from_secs(1));
        metrics.ended(Surface::Rest, BackendName::Direct, "exited", second);
        metrics.refused(Surface::Mcp, "policy_denied");
        let text = metrics.text([2, 3, 4]);
        for line in [
            r#"openbrain_execs_total{surface="rest",backend="direct",status="exited"} 1"#,
            r#"openbrain_refusals_total{surface="mcp",code="policy_denied"} 1"#,
            r#"openbrain_start_seconds_bucket{le="0.005",backend="direct"} 1"#,
            "openbrain_waiting 2",
            "openbrain_kept_output_bytes 3",
            "openbrain_sandboxes 4",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
