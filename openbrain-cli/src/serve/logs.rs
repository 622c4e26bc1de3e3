//! What the servers tell of themselves while they run: on standard error, as text or as JSON.

use std::io;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

#[cfg(feature = "otlp")]
use super::otlp::Traces;
use crate::{args::LogArgs, failure::Result};

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// What should be looked at.
    Warn,
    /// Requests and commands, never their text.
    #[default]
    Info,
    /// What helps to find a mistake.
    Debug,
}

/// The log of this process.
#[derive(Debug)]
pub(crate) struct Log {
    #[cfg(feature = "otlp")]
    _traces: Option<Traces>,
}

impl Log {
    /// Begins to log. Called once.
    pub(crate) fn start(args: &LogArgs) -> Result<Self> {
        let level = LevelFilter::from(args.log_level);
        // What libraries tell is of interest only when it is a problem, or when somebody looks for
        // one.
        let others = if level >= LevelFilter::DEBUG { level } else { level.min(LevelFilter::WARN) };
        let filter = Targets::new()
            .with_target("openbrain", level)
            // At more than that it tells whole requests and answers: commands, variables, output.
            .with_target("rmcp", others.min(LevelFilter::INFO))
            .with_default(others);
        let lines = fmt::layer().with_writer(io::stderr);
        let lines = match args.log_format {
            LogFormat::Text => lines.with_ansi(false).with_target(false).boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let to = tracing_subscriber::registry().with(lines.with_filter(filter));
        #[cfg(feature = "otlp")]
        let (to, _traces) = {
            let traces = args.otlp.as_deref().map(Traces::to).transpose()?;
            (to.with(traces.as_ref().map(Traces::layer)), traces)
        };
        to.init();
        Ok(Self {
            #[cfg(feature = "otlp")]
            _traces,
        })
    }

    /// Sends what is on its way to a collector.
    pub(crate) fn finish(self) {}
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}
