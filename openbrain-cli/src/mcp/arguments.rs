//! The arguments of the tools.

use std::{collections::BTreeSet, time::Duration};

use openbrain::{Exec, nearest};
use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::failure::Failure;

/// What `exec_command` is told: the request of the library, in which sandbox, and how long to wait.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ExecCommand {
    #[serde(flatten)]
    pub(super) exec: Exec,
    /// The `sandbox_id` that create_sandbox returned: run in that sandbox, which keeps its files and
    /// processes. What belongs to the sandbox (mounts, network, memory) was decided there.
    #[serde(default)]
    pub(super) sandbox_id: Option<String>,
    /// Return the handle at once and let the command run on.
    #[serde(default)]
    pub(super) background: bool,
    /// Seconds to wait for the end before the handle of a command that still runs is returned.
    #[serde(default)]
    pub(super) yield_seconds: Option<f64>,
}

/// What `exec_output` is told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ExecOutput {
    /// The `exec_id` that `exec_command` returned.
    pub(super) exec_id: String,
    /// The stream to read from `offset` on. Absent: beginning and end of both.
    #[serde(default)]
    pub(super) stream: Option<StreamName>,
    /// The first byte to return; `next_offset` of the answer is the one after the last.
    #[serde(default)]
    pub(super) offset: Option<u64>,
    /// Seconds to wait for the end of the command, or with `stream` for bytes after `offset`.
    #[serde(default)]
    pub(super) wait_seconds: Option<f64>,
    /// The most bytes to return of `stream`.
    #[serde(default)]
    pub(super) max_bytes: Option<u64>,
}

/// What `exec_input` is told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ExecInput {
    /// The `exec_id` that `exec_command` returned for a command with `"stdin": {"pipe": true}`.
    pub(super) exec_id: String,
    /// The text to write, with its line feeds.
    pub(super) data: String,
    /// Whether this is the end of the input.
    #[serde(default)]
    pub(super) eof: bool,
}

/// What `exec_kill` is told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ExecKill {
    /// The `exec_id` that `exec_command` returned.
    pub(super) exec_id: String,
    /// A signal to send instead, such as `INT`; the command may go on then. Absent: end the command
    /// and everything that it started.
    #[serde(default)]
    pub(super) signal: Option<SignalName>,
}

/// What `end_sandbox` is told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct EndSandbox {
    /// The `sandbox_id` that create_sandbox returned.
    pub(super) sandbox_id: String,
}

/// What `read_file` is told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ReadFile {
    /// The `sandbox_id` that create_sandbox returned.
    pub(super) sandbox_id: String,
    /// The file; a relative path starts in the sandbox's working directory.
    pub(super) path: String,
    /// The first byte to return; `next_offset` of the answer is the one after the last.
    #[serde(default)]
    pub(super) offset: Option<u64>,
    /// The most bytes to return.
    #[serde(default)]
    pub(super) max_bytes: Option<u64>,
}

/// What `write_file` is told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct WriteFile {
    /// The `sandbox_id` that create_sandbox returned.
    pub(super) sandbox_id: String,
    /// The file; a relative path starts in the sandbox's working directory.
    pub(super) path: String,
    /// The text to write.
    pub(super) content: String,
    /// Whether the text is added to the file, instead of taking its place.
    #[serde(default)]
    pub(super) append: bool,
    /// Whether the file is made executable (0755).
    #[serde(default)]
    pub(super) executable: bool,
}

/// What `list_files` is told.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct ListFiles {
    /// The `sandbox_id` that create_sandbox returned.
    pub(super) sandbox_id: String,
    /// The directory. Absent: the sandbox's working directory.
    #[serde(default)]
    pub(super) path: Option<String>,
    /// Instead of the directory's own entries, everything below it whose name matches: `*` is any
    /// text, `?` one byte.
    #[serde(default)]
    pub(super) pattern: Option<String>,
}

/// An output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StreamName {
    Stdout,
    Stderr,
}

/// The signals that a command can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum SignalName {
    #[serde(alias = "SIGINT")]
    Int,
    #[serde(alias = "SIGTERM")]
    Term,
    #[serde(alias = "SIGKILL")]
    Kill,
    #[serde(alias = "SIGHUP")]
    Hup,
    #[serde(alias = "SIGQUIT")]
    Quit,
    #[serde(alias = "SIGUSR1")]
    Usr1,
    #[serde(alias = "SIGUSR2")]
    Usr2,
    #[serde(alias = "SIGSTOP")]
    Stop,
    #[serde(alias = "SIGCONT")]
    Cont,
}

/// Reads the arguments of a call by the schema of its tool: a name that is not in it is an error
/// that tells the nearest one.
pub(super) fn parse<T: DeserializeOwned>(
    schema: &JsonObject,
    arguments: Option<JsonObject>,
) -> Result<T, Failure> {
    let arguments = arguments.unwrap_or_default();
    let known = names(schema);
    if let Some(unknown) = arguments.keys().find(|name| !known.contains(name.as_str())) {
        return Err(unknown_argument(unknown, &known));
    }
    serde_json::from_value(Value::Object(arguments.clone())).map_err(|error| {
        let culprit = arguments.keys().find(|name| {
            let mut others = arguments.clone();
            others.remove(name.as_str());
            serde_json::from_value::<T>(Value::Object(others)).is_ok()
        });
        match culprit {
            Some(name) => Failure::invalid(format!("argument `{name}`: {error}")),
            None => Failure::invalid(error.to_string()),
        }
    })
}

/// The arguments that a tool knows.
fn names(schema: &JsonObject) -> BTreeSet<&str> {
    let properties = schema.get("properties").and_then(Value::as_object);
    // The command line says `--mount`, and so do some who call.
    let aliases = properties.filter(|names| names.contains_key("mounts")).map(|_| "mount");
    properties.into_iter().flatten().map(|(name, _)| name.as_str()).chain(aliases).collect()
}

fn unknown_argument(name: &str, known: &BTreeSet<&str>) -> Failure {
    let remedy = match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
    };
    Failure::invalid(format!("there is no argument `{name}`")).with_remedy(remedy)
}

/// Reads a number of seconds that is at most `most`; `key` is the setting that says how many that is.
pub(super) fn seconds(
    name: &str,
    asked: Option<f64>,
    most: Duration,
    key: &str,
) -> Result<Duration, Failure> {
    let Some(asked) = asked else { return Ok(most) };
    match Duration::try_from_secs_f64(asked) {
        Ok(time) if time <= most => Ok(time),
        _ => Err(Failure::invalid(format!(
            "`{name}` is {asked} and must be between 0 and {}",
            most.as_secs_f64()
        ))
        .with_remedy(format!("ask for less and call again; the key is `{key}`"))),
    }
}

/// The number of a signal, `signal(7)`.
impl From<SignalName> for i32 {
    fn from(name: SignalName) -> Self {
        use rustix::process::Signal;
        let signal = match name {
            SignalName::Int => Signal::INT,
            SignalName::Term => Signal::TERM,
            SignalName::Kill => Signal::KILL,
            SignalName::Hup => Signal::HUP,
            SignalName::Quit => Signal::QUIT,
            SignalName::Usr1 => Signal::USR1,
            SignalName::Usr2 => Signal::USR2,
            SignalName::Stop => Signal::STOP,
            SignalName::Cont => Signal::CONT,
        };
        signal.as_raw()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openbrain::{Exec, Mount, Stdin};
    use serde_json::{Value, json};

    use super::{ExecCommand, ExecKill, Failure, SignalName, parse, seconds};
    use crate::mcp::tools::input_schema;

    fn command(arguments: Value) -> Result<ExecCommand, Failure> {
        parse(&input_schema::<ExecCommand>(), arguments.as_object().cloned())
    }

    #[test]
    fn the_documented_arguments_are_the_library_s_request() {
        let read =
            command(json!({"command": "pip install requests", "sandbox": true, "timeout": 300}))
                .unwrap();
        let exec = Exec::new("pip install requests").sandbox().timeout(Duration::from_secs(300));
        assert_eq!((read.exec, read.background, read.yield_seconds), (exec, false, None));
    }

    #[test]
    fn every_field_of_the_library_is_an_argument() {
        let exec = Exec::argv(["a", "b"])
            .sandbox()
            .timeout(Duration::from_millis(1500))
            .workdir("/w")
            .env("A", "b")
            .stdin(Stdin::Pipe)
            .shell("bash")
            .mount_at(Mount::workspace("/m"))
            .expose("/e")
            .allow_port(1)
            .allow_domain("a.b")
            .allow_host("10.0.0.1:1")
            .allow_network(true)
            .limits(openbrain::Limits { pids: Some(3), ..Default::default() })
            .tty(1, 2);
        let mut arguments = serde_json::to_value(&exec).unwrap();
        arguments["background"] = true.into();
        assert_eq!(command(arguments).unwrap().exec, exec);
    }

    #[test]
    fn an_unknown_argument_is_an_error_with_the_nearest_name() {
        for (name, remedy) in [
            ("timeot", "did you mean `timeout`?"),
            ("sandboxed", "did you mean `sandbox`?"),
            ("yield_second", "did you mean `yield_seconds`?"),
        ] {
            let failure = command(json!({"command": "true", name: 1})).unwrap_err();
            assert_eq!(failure.message, format!("there is no argument `{name}`"));
            assert_eq!(failure.remedy.as_deref(), Some(remedy));
        }
        let failure = command(json!({"command": "true", "zzz": 1})).unwrap_err();
        assert!(failure.remedy.unwrap().contains("allow_network, "));
        assert!(command(json!({"command": "true", "mount": "/w"})).is_ok());
    }

    #[test]
    fn a_bad_value_is_an_error_with_its_name() {
        for (arguments, part) in [
            (json!({"command": "true", "timeout": true}), "argument `timeout`: "),
            (json!({"command": "true", "env": 3}), "argument `env`: "),
            (json!({"command": "true", "limits": {"memry": 3}}), "argument `limits`: "),
            (json!({"command": 3}), "expected a text, a list of texts"),
            (json!({}), "missing field `command`"),
        ] {
            let failure = command(arguments).unwrap_err();
            assert_eq!(failure.code, "invalid_request");
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }

    #[test]
    fn signals_are_names() {
        let kill = |signal: &str| {
            let arguments = json!({"exec_id": "e", "signal": signal});
            parse::<ExecKill>(&input_schema::<ExecKill>(), arguments.as_object().cloned())
        };
        assert_eq!(kill("INT").unwrap().signal, Some(SignalName::Int));
        assert_eq!(i32::from(kill("SIGKILL").unwrap().signal.unwrap()), 9);
        assert!(kill("WINCH").unwrap_err().message.contains("`INT`"));
    }

    #[test]
    fn nobody_waits_longer_than_the_settings_say() {
        let most = Duration::from_secs(50);
        let read = |asked| seconds("yield_seconds", asked, most, "server.yield_seconds");
        assert_eq!(read(None).unwrap(), most);
        assert_eq!(read(Some(0.5)).unwrap(), Duration::from_millis(500));
        for asked in [50.1, -1.0, f64::NAN, f64::INFINITY] {
            let failure = read(Some(asked)).unwrap_err();
            assert!(failure.remedy.unwrap().contains("`server.yield_seconds`"));
        }
    }
}
