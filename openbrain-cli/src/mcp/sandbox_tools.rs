//! The tools for sandboxes that stay open, as clients see them: a part of [`tools`](super::tools).

use std::sync::Arc;

use openbrain::{NewSandbox, Settings};
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::Value;

use super::{
    arguments::{EndSandbox, ListFiles, ReadFile, WriteFile},
    sandbox_report::SandboxReport,
    tools::{input_schema, output_schema, property},
};

pub(super) const CREATE_SANDBOX: &str = "create_sandbox";
pub(super) const END_SANDBOX: &str = "end_sandbox";
pub(super) const READ_FILE: &str = "read_file";
pub(super) const WRITE_FILE: &str = "write_file";
pub(super) const LIST_FILES: &str = "list_files";

/// The tools of a server with these settings, always in this order.
pub(super) fn list(settings: &Settings) -> Vec<Tool> {
    let changing = || ToolAnnotations::new().read_only(false).open_world(false);
    let reading = || ToolAnnotations::new().read_only(true).open_world(false);
    // A file may be one of the host, below a mount.
    let destroys = super::tools::has_mounts(settings);
    vec![
        Tool::new(CREATE_SANDBOX, create_sandbox(settings), create_schema(settings))
            .with_title("Open a sandbox")
            .with_annotations(changing().destructive(false).idempotent(false)),
        Tool::new(
            END_SANDBOX,
            "End a sandbox that create_sandbox opened, with its files and everything that runs in it.",
            Arc::new(input_schema::<EndSandbox>()),
        )
        .with_title("End a sandbox")
        .with_annotations(changing().destructive(true).idempotent(true)),
        Tool::new(
            READ_FILE,
            "Read a file of an open sandbox, from an offset. Text comes as it is, anything else in \
             base64.",
            Arc::new(input_schema::<ReadFile>()),
        )
        .with_title("Read a file")
        .with_annotations(reading()),
        Tool::new(
            WRITE_FILE,
            "Write a text to a file of an open sandbox: in place of what is there, or after it. \
             Directories above it are made.",
            Arc::new(input_schema::<WriteFile>()),
        )
        .with_title("Write a file")
        .with_annotations(changing().destructive(destroys).idempotent(false)),
        Tool::new(
            LIST_FILES,
            "List a directory of an open sandbox, or find files below it by name.",
            Arc::new(input_schema::<ListFiles>()),
        )
        .with_title("List files")
        .with_annotations(reading()),
    ]
    .into_iter()
    .map(|tool| tool.with_raw_output_schema(Arc::new(output_schema::<SandboxReport>())))
    .collect()
}

fn create_sandbox(settings: &Settings) -> String {
    let most = settings.server.max_sandboxes;
    let usual = settings.security.sandbox.timeout.min(settings.server.max_timeout).as_secs_f64();
    format!(
        "Open a sandbox that stays open, for commands that build on each other: exec_command with its \
         `sandbox_id` finds the files and background processes of those before. It ends with \
         end_sandbox, or after `timeout` ({usual} seconds unless given) with everything in it. At most \
         {most} are open at once."
    )
}

fn create_schema(settings: &Settings) -> Arc<JsonObject> {
    let mut schema = input_schema::<NewSandbox>();
    let most = settings.server.max_timeout.as_secs_f64();
    if let Some(Value::Object(timeout)) = property(&mut schema, "timeout") {
        let text = format!(
            "Seconds until the sandbox ends with everything in it, or a text such as `10m`; at most \
             {most}."
        );
        timeout.insert("description".into(), text.into());
    }
    Arc::new(schema)
}
