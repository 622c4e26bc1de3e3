//! The tools as clients see them: names, descriptions, schemas and what they say of themselves.

use std::{sync::Arc, time::Duration};

use openbrain::{
    Settings,
    settings::{Approval, Mode},
};
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use schemars::{
    JsonSchema, Schema,
    generate::{Contract, SchemaSettings},
    transform::transform_subschemas,
};
use serde_json::{Value, json};

use super::{
    arguments::{ExecCommand, ExecInput, ExecKill, ExecOutput},
    report::Report,
    sandbox_tools,
};

pub(super) const EXEC_COMMAND: &str = "exec_command";
pub(super) const EXEC_OUTPUT: &str = "exec_output";
pub(super) const EXEC_INPUT: &str = "exec_input";
pub(super) const EXEC_KILL: &str = "exec_kill";

/// The tools of a server with these settings, always in this order.
pub(super) fn list(settings: &Settings) -> Vec<Tool> {
    let keep = settings.server.keep.as_secs();
    vec![
        Tool::new(EXEC_COMMAND, exec_command(settings), exec_command_schema(settings))
            .with_title("Run a command")
            .with_annotations(running(settings)),
        Tool::new(
            EXEC_OUTPUT,
            format!(
                "Read the output of a command that exec_command left running, or the part of an \
                 output that was not shown. A handle is good for {keep} seconds after its command \
                 ended."
            ),
            limited(input_schema::<ExecOutput>(), "wait_seconds", settings.server.yield_after),
        )
        .with_title("Read the output of a command")
        .with_annotations(ToolAnnotations::new().read_only(true).open_world(false)),
        Tool::new(
            EXEC_INPUT,
            "Write to the standard input of a running command that was started with \
             `\"stdin\": {\"pipe\": true}`.",
            Arc::new(input_schema::<ExecInput>()),
        )
        .with_title("Write to a command")
        .with_annotations(running(settings)),
        Tool::new(
            EXEC_KILL,
            "End a running command with everything that it started, or send it a signal.",
            Arc::new(input_schema::<ExecKill>()),
        )
        .with_title("End a command")
        .with_annotations(
            ToolAnnotations::new()
                .read_only(false)
                .destructive(true)
                .idempotent(true)
                .open_world(false),
        ),
    ]
    .into_iter()
    .map(|tool| tool.with_raw_output_schema(Arc::new(output_schema::<Report>())))
    .chain(sandbox_tools::list(settings))
    .collect()
}

/// What running a command may do. Hints, which are true all the same: where every command must run
/// in a sandbox without a network and without a writable mount, it can neither destroy nor reach
/// anything.
fn running(settings: &Settings) -> ToolAnnotations {
    let loose = !is_closed(settings);
    ToolAnnotations::new().read_only(false).destructive(loose).idempotent(false).open_world(loose)
}

/// Whether the settings leave a command nothing outside of its sandbox.
fn is_closed(settings: &Settings) -> bool {
    let sandbox = &settings.security.sandbox;
    let offline = sandbox.network.block_egress || !sandbox.network.allow_egress;
    !settings.security.allow_direct && offline && !has_mounts(settings)
}

/// Whether a sandbox may have a directory of the host.
pub(super) fn has_mounts(settings: &Settings) -> bool {
    let sandbox = &settings.security.sandbox;
    sandbox.workspace_mount.is_some() || !settings.server.allowed_mounts.is_empty()
}

fn exec_command(settings: &Settings) -> String {
    let security = &settings.security;
    let place = match (security.mode, security.allow_direct) {
        (Mode::Sandbox, true) => "in a sandbox unless `sandbox` is false",
        (Mode::Sandbox, false) => "in a sandbox",
        (Mode::Direct, true) => "on the host, or in a sandbox with `sandbox: true`",
        (Mode::Direct, false) => "in a sandbox, for which `sandbox: true` must be given",
    };
    let approval = match security.approval {
        Approval::Direct if security.allow_direct => {
            " A person is asked before it runs on the host."
        }
        _ => "",
    };
    let wait = settings.server.yield_after.as_secs_f64();
    format!(
        "Run a shell command {place}.{approval} A command that still runs after {wait} seconds is \
         left running, and its `exec_id` is returned for exec_output, exec_input and exec_kill. \
         `timeout` kills it. A non-zero exit code is a result, not an error."
    )
}

/// The library's request as a caller of this server may make it.
fn exec_command_schema(settings: &Settings) -> Arc<JsonObject> {
    let mut schema = input_schema::<ExecCommand>();
    let most = settings.server.max_timeout.as_secs_f64();
    let usual = settings.security.sandbox.timeout.as_secs_f64().min(most);
    let sandbox = settings.security.mode == Mode::Sandbox;
    let texts = [
        ("sandbox", format!("Whether to run in a sandbox. Absent: {sandbox}.")),
        (
            "timeout",
            format!(
                "Seconds until the command and everything that it started is killed, or a text \
                 such as `10m`; at most {most}. Absent: {usual} in a sandbox, {most} outside."
            ),
        ),
        (
            "workdir",
            "Working directory. Absent: `/workspace` in a sandbox, the server's own outside."
                .into(),
        ),
    ];
    for (name, text) in texts {
        if let Some(Value::Object(property)) = property(&mut schema, name) {
            property.insert("description".into(), text.into());
        }
    }
    if let Some(stdin) = property(&mut schema, "stdin") {
        *stdin = stdin_schema();
    }
    limited(schema, "yield_seconds", settings.server.yield_after)
}

/// The input of a command, without files of the server and its own input, which callers cannot have.
fn stdin_schema() -> Value {
    let object = |name: &str, schema: Value| json!({"type": "object", "properties": {name: schema}, "required": [name]});
    json!({
        "description": "What the command reads: a text, `{\"base64\": …}` for other bytes, or \
            `{\"pipe\": true}` to write it with exec_input while the command runs, which then is \
            waited for one second unless `yield_seconds` says else. Absent: nothing.",
        "anyOf": [
            {"type": "string"},
            object("base64", json!({"type": "string", "contentEncoding": "base64"})),
            object("pipe", json!({"type": "boolean"})),
        ],
    })
}

pub(super) fn property<'a>(schema: &'a mut JsonObject, name: &str) -> Option<&'a mut Value> {
    schema.get_mut("properties")?.get_mut(name)
}

/// The schema with the largest value of a number of seconds.
fn limited(mut schema: JsonObject, name: &str, most: Duration) -> Arc<JsonObject> {
    if let Some(Value::Object(property)) = property(&mut schema, name) {
        property.insert("minimum".into(), 0.into());
        property.insert("maximum".into(), most.as_secs_f64().into());
    }
    Arc::new(schema)
}

/// The schema of arguments, as plain as clients need it: some of them know neither references nor
/// types that are a list.
pub(super) fn input_schema<T: JsonSchema>() -> JsonObject {
    let mut schema = schema::<T>(Contract::Deserialize);
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(without_null);
    }
    schema.insert("additionalProperties".into(), false.into());
    schema
}

/// The schema of structured content.
pub(super) fn output_schema<T: JsonSchema>() -> JsonObject {
    schema::<T>(Contract::Serialize)
}

/// The schema of a type in one piece, as it is read or as it is written.
fn schema<T: JsonSchema>(contract: Contract) -> JsonObject {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.contract = contract;
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    plain(&mut schema);
    schema.remove("title");
    schema.remove("description");
    schema.as_object().cloned().unwrap_or_default()
}

/// Leaves out the widths of Rust's numbers, which are no formats of JSON Schema, and what only
/// rustdoc understands.
fn plain(schema: &mut Schema) {
    schema.remove("format");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ").replace("[`", "`").replace("`]", "`");
    }
    transform_subschemas(&mut plain, schema);
}

/// An argument is left out, not null.
fn without_null(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("default");
    if let Some(Value::Array(types)) = fields.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            fields.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
        choices.iter_mut().for_each(without_null);
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            fields.remove("anyOf");
            for (name, value) in only {
                fields.entry(name).or_insert(value);
            }
        }
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(without_null);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openbrain::{Settings, settings::Mode};
    use serde_json::Value;

    use super::list;

    /// Settings under which a command has nothing but its sandbox.
    fn closed() -> Settings {
        let mut settings = Settings::default();
        settings.security.mode = Mode::Sandbox;
        settings.security.allow_direct = false;
        settings.security.sandbox.network.allow_egress = false;
        settings
    }

    fn hints(settings: &Settings, tool: usize) -> [Option<bool>; 4] {
        let hints = list(settings)[tool].annotations.clone().unwrap();
        [hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint]
    }

    #[test]
    fn annotations_tell_what_the_settings_allow() {
        let loose = [Some(false), Some(true), Some(false), Some(true)];
        let strict = [Some(false), Some(false), Some(false), Some(false)];
        assert_eq!(hints(&Settings::default(), 0), loose);
        assert_eq!(hints(&closed(), 0), strict);
        let changes: [fn(&mut Settings); 4] = [
            |settings| settings.security.allow_direct = true,
            |settings| settings.security.sandbox.network.allow_egress = true,
            |settings| settings.security.sandbox.workspace_mount = Some("/w".into()),
            |settings| settings.server.allowed_mounts = vec!["/w".into()],
        ];
        for change in changes {
            let mut settings = closed();
            change(&mut settings);
            assert_eq!(hints(&settings, 0), loose);
            assert_eq!(hints(&settings, 2), loose);
        }
        assert_eq!(hints(&Settings::default(), 1), [Some(true), None, None, Some(false)]);
    }

    #[test]
    fn the_list_is_small_plain_and_always_the_same() {
        let settings = Settings::default();
        let text = serde_json::to_string(&list(&settings)).unwrap();
        assert_eq!(text, serde_json::to_string(&list(&settings)).unwrap());
        for unwanted in ["$ref", "$defs", "\"format\"", "inherit", "\"default\":null"] {
            assert!(!text.contains(unwanted), "{unwanted} in {text}");
        }
        for tool in list(&settings) {
            let schema = Value::Object(tool.input_schema.as_ref().clone());
            assert_eq!(
                (&schema["type"], &schema["additionalProperties"]),
                (&"object".into(), &false.into())
            );
            let described = tool.description.unwrap();
            assert!(described.len() < 500, "{described}");
            let input = schema.to_string();
            assert!(!input.contains("\"null\""), "{input}");
            assert!(input.len() < 6000, "{} bytes: {input}", input.len());
        }
    }

    #[test]
    fn every_argument_is_described() {
        let names: BTreeSet<_> = list(&Settings::default())
            .iter()
            .flat_map(|tool| tool.input_schema["properties"].as_object().unwrap().clone())
            .inspect(|(name, schema)| {
                assert!(schema["description"].is_string(), "{name}: {schema}")
            })
            .map(|(name, _)| name)
            .collect();
        assert!(names.contains("command") && names.contains("wait_seconds"));
    }
}
