//! The command lines about what commands have changed.

use std::path::PathBuf;

use clap::Args;

/// What `openbrain changes` was told.
#[derive(Debug, Args)]
pub(crate) struct ChangesArgs {
    /// The changes to show; without it, a list of all that are saved.
    pub(crate) id: Option<String>,
    /// Show what has changed of texts, as a unified diff.
    #[arg(long, requires = "id", conflicts_with = "json")]
    pub(crate) diff: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `openbrain apply` was told.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The changes to apply, as `openbrain exec --changes` has named them.
    pub(crate) id: String,
    /// Apply these files and directories only: paths of the sandbox, or relative to the mount.
    pub(crate) paths: Vec<PathBuf>,
    /// Print what was applied as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `openbrain discard` was told.
#[derive(Debug, Args)]
pub(crate) struct DiscardArgs {
    /// The changes to discard.
    #[arg(required_unless_present = "all")]
    pub(crate) ids: Vec<String>,
    /// Discard all that are saved.
    #[arg(long, conflicts_with = "ids")]
    pub(crate) all: bool,
}
