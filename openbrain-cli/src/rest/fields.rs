//! A request's JSON: an [`Exec`] or a [`NewSandbox`], or every field that is wrong, with the name that was
//! probably meant.

use std::sync::LazyLock;

use openbrain::{Exec, NewSandbox, nearest};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value};

use super::problem::{BadField, Problem, Result};

/// A request whose every mistake is told.
pub(super) trait Asked: DeserializeOwned {
    /// Names that are read and not in the schema, because they are second names.
    const ALIASES: &[&str];
    /// The field that must be there, if there is one.
    const REQUIRED: Option<&str>;
    /// A body that can be meant.
    const EXAMPLE: &str;

    /// The schema, without references.
    fn schema() -> &'static Value;
}

impl Asked for Exec {
    const ALIASES: &[&str] = &["mount"];
    const REQUIRED: Option<&str> = Some("command");
    const EXAMPLE: &str = "{\"command\": \"ls -la\"}";

    fn schema() -> &'static Value {
        static SCHEMA: LazyLock<Value> = LazyLock::new(schema_of::<Exec>);
        &SCHEMA
    }
}

impl Asked for NewSandbox {
    const ALIASES: &[&str] = &[];
    const REQUIRED: Option<&str> = None;
    const EXAMPLE: &str = "{\"timeout\": 600}";

    fn schema() -> &'static Value {
        static SCHEMA: LazyLock<Value> = LazyLock::new(schema_of::<NewSandbox>);
        &SCHEMA
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().into()
}

/// How many wrong fields are told of, and how much of a name or of a complaint about a value.
const MOST_ERRORS: usize = 32;
const MOST_TEXT: usize = 300;

/// Bodies longer than this are not searched for every mistake.
const LONG: usize = 64 << 10;

/// Reads the JSON of a request.
pub(super) fn read<T: Asked>(json: &[u8]) -> Result<T> {
    check_object(json, T::EXAMPLE)?;
    // Serde would take a list of values, too, and tells of the first mistake alone.
    serde_json::from_slice(json).map_err(|error| {
        let complaints = complaints::<T>(json).map(|errors| (!errors.is_empty()).then_some(errors));
        match complaints {
            Err(malformed) => malformed,
            Ok(Some(errors)) => Problem::fields(errors),
            // A name that is there twice, of which a value does not tell.
            Ok(None) => Problem::invalid(cut(&error.to_string())),
        }
    })
}

/// Reads a JSON object of another kind, of which there is an example.
pub(super) fn read_as<'de, T: Deserialize<'de>>(json: &'de [u8], example: &str) -> Result<T> {
    check_object(json, example)?;
    syntax::<IgnoredAny>(json)?;
    serde_json::from_slice(json).map_err(|error| Problem::invalid(cut(&error.to_string())))
}

/// Refuses what does not begin as an object.
fn check_object(json: &[u8], example: &str) -> Result<()> {
    let remedy = format!("send a JSON object: {example}");
    if json.trim_ascii().is_empty() {
        return Err(Problem::malformed("the body is empty").remedy(remedy));
    }
    std::str::from_utf8(json).map_err(|error| {
        let at = error.valid_up_to();
        Problem::malformed(format!("the body is not UTF-8 at byte {at}"))
    })?;
    if json.trim_ascii_start().starts_with(b"{") {
        return Ok(());
    }
    syntax::<IgnoredAny>(json)?;
    Err(Problem::invalid("the body is no JSON object").remedy(remedy))
}

fn syntax<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        Problem::malformed(format!("the body is not JSON: {error}"))
            .remedy("`curl -d @file` strips line breaks: use `--data-binary @file`")
    })
}

/// Every field that is wrong. A long body is not looked at for more than its form: its values would
/// take many times its memory.
fn complaints<T: Asked>(json: &[u8]) -> Result<Vec<BadField>> {
    if json.len() > LONG {
        return syntax::<IgnoredAny>(json).map(|_| Vec::new());
    }
    let fields: Map<String, Value> = syntax(json)?;
    let mut errors = Vec::new();
    for (name, value) in &fields {
        if !T::ALIASES.contains(&name.as_str()) {
            unknown(T::schema(), "", name, value, &mut errors);
        }
    }
    let unknown = errors.len();
    for (name, value) in &fields {
        if errors[..unknown].iter().all(|error| !is_within(&error.pointer, &join("", name))) {
            errors.extend(wrong::<T>(name, value));
        }
    }
    if let Some(name) = T::REQUIRED.filter(|name| !fields.contains_key(*name)) {
        errors.push(BadField { pointer: join("", name), detail: format!("`{name}` is missing") });
    }
    errors.truncate(MOST_ERRORS);
    errors.iter_mut().for_each(|error| error.pointer = cut(&error.pointer).to_owned());
    Ok(errors)
}

/// Notes a field that its schema does not know, or those inside of it.
fn unknown(schema: &Value, path: &str, name: &str, value: &Value, errors: &mut Vec<BadField>) {
    if errors.len() == MOST_ERRORS {
        return;
    }
    let pointer = join(path, name);
    let names = || objects(schema).flat_map(Map::keys).map(String::as_str);
    let Some(known) = objects(schema).find_map(|fields| fields.get(name)) else {
        let name = cut(name);
        let detail = match nearest(name, names()) {
            Some(near) => format!("`{name}` is unknown, did you mean `{near}`?"),
            None => format!("`{name}` is unknown"),
        };
        errors.push(BadField { pointer, detail });
        return;
    };
    inside(known, &pointer, value, errors);
}

/// Notes the unknown fields inside a value.
fn inside(schema: &Value, path: &str, value: &Value, errors: &mut Vec<BadField>) {
    match value {
        Value::Object(fields) if objects(schema).next().is_some() => {
            for (name, value) in fields {
                unknown(schema, path, name, value, errors);
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (index, value) in items.iter().enumerate() {
                inside(schema, &format!("{path}/{index}"), value, errors);
            }
        }
        _ => {}
    }
}

/// The named fields of every form that an object may have there.
fn objects(schema: &Value) -> impl Iterator<Item = &Map<String, Value>> {
    let forms = ["anyOf", "oneOf"].into_iter().filter_map(|word| schema.get(word)?.as_array());
    let schemas = std::iter::once(schema).chain(forms.flatten());
    schemas.filter_map(|schema| schema.get("properties")?.as_object())
}

/// What is wrong with the value of a field that is known, read for itself.
fn wrong<T: Asked>(name: &str, value: &Value) -> Option<BadField> {
    // What must be there is a text.
    let required = T::REQUIRED.map(|required| (required.to_owned(), Value::from("true")));
    let mut alone = Map::from_iter(required);
    alone.insert(name.to_owned(), value.clone());
    let error = serde_json::from_value::<T>(alone.into()).err()?;
    let detail = cut(&format!("`{name}`: {error}")).to_owned();
    Some(BadField { pointer: join("", name), detail })
}

/// The beginning of a text that may be as long as the body.
fn cut(text: &str) -> &str {
    text.char_indices().nth(MOST_TEXT).map_or(text, |(end, _)| &text[..end])
}

/// Whether a pointer is to this field or to something in it.
fn is_within(pointer: &str, field: &str) -> bool {
    pointer.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A JSON pointer to a field (RFC 6901, section 3).
fn join(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use serde_json::json;

    use super::{Asked, Exec, NewSandbox, Problem};
    use crate::rest::problem::Code;

    fn read(body: &[u8]) -> Result<Exec, Problem> {
        super::read(body)
    }

    fn refused(body: &str) -> (Code, serde_json::Value) {
        let problem: Problem = read(body.as_bytes()).unwrap_err();
        (problem.code(), serde_json::to_value(problem.form()).unwrap())
    }

    #[test]
    fn the_documented_body_is_read() {
        let exec = read(br#"{"command": "pip install requests", "sandbox": true}"#).unwrap();
        assert_eq!(exec, Exec::new("pip install requests").sandbox());
    }

    #[test]
    fn every_bad_field_is_listed_with_the_name_that_was_meant() {
        let body = r#"{"comand": "ls", "timeot": 3, "limits": {"memry": 1}, "env": {"any": "x"},
                       "sandbox": "yes", "zzz": 0, "tty": {"rows": 1, "colz": 2}}"#;
        let (code, problem) = refused(body);
        assert_eq!(code, Code::InvalidRequest);
        let expected = json!([
            {"pointer": "/comand", "detail": "`comand` is unknown, did you mean `command`?"},
            {"pointer": "/timeot", "detail": "`timeot` is unknown, did you mean `timeout`?"},
            {"pointer": "/limits/memry", "detail": "`memry` is unknown, did you mean `memory`?"},
            {"pointer": "/zzz", "detail": "`zzz` is unknown"},
            {"pointer": "/tty/colz", "detail": "`colz` is unknown, did you mean `cols`?"},
            {"pointer": "/sandbox",
             "detail": "`sandbox`: invalid type: string \"yes\", expected a boolean"},
            {"pointer": "/command", "detail": "`command` is missing"},
        ]);
        assert_eq!(problem["errors"], expected);
    }

    #[test]
    fn a_sandbox_is_read_by_its_own_schema() {
        let read = |body: &str| super::read::<NewSandbox>(body.as_bytes());
        assert_eq!(read("{}").unwrap(), NewSandbox::default());
        let problem = read(r#"{"tiemout": 1, "command": "ls", "labels": 3}"#).unwrap_err();
        let pointers: Vec<_> = serde_json::to_value(problem.form()).unwrap()["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["pointer"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(pointers, ["/tiemout", "/command", "/labels"]);
    }

    #[test]
    fn nested_forms_are_known() {
        for body in [
            r#"{"command": {"language": "python", "source": "1"}}"#,
            r#"{"command": ["ls", "-l"], "stdin": {"base64": "AA=="}}"#,
            r#"{"command": "ls", "stdin": {"pipe": true}, "limits": {"output": "1k"}}"#,
            r#"{"command": "ls", "mounts": [{"source": "/a", "target": "/b", "mode": "ro"}]}"#,
            r#"{"command": "ls", "mounts": ["/a:/b"], "tty": {"rows": 1, "cols": 1}}"#,
            r#"{"command": "ls", "env": {"a/b": "c"}, "timeout": "10m"}"#,
        ] {
            read(body.as_bytes()).unwrap();
        }
        for alias in Exec::ALIASES {
            read(format!(r#"{{"command": "ls", "{alias}": "/a"}}"#).as_bytes()).unwrap();
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = "[".repeat(100_000);
        for body in
            ["", " ", "{", "command=ls", r#"{"command":"ls"}x"#, "{\"a\":\"\\ud800\"}", &deep]
        {
            assert_eq!(refused(body).0, Code::MalformedRequest, "{:.20}", body);
        }
        assert_eq!(read(b"{\"command\":\"\xff\"}").unwrap_err().code(), Code::MalformedRequest);
        for body in ["[]", "3", "null", "\"ls\""] {
            assert_eq!(refused(body).0, Code::InvalidRequest, "{body}");
        }
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let (code, problem) = refused(r#"{"command": "ls", "sandbox": true, "sandbox": false}"#);
        assert_eq!(code, Code::InvalidRequest);
        assert!(problem["detail"].as_str().unwrap().contains("duplicate field `sandbox`"));
    }

    #[test]
    fn complaints_are_bounded() {
        let long = "x".repeat(1 << 20);
        for body in [
            format!(r#"{{"{long}": 1}}"#),
            format!(r#"{{"command": "ls", "sandbox": "{long}"}}"#),
            format!(r#"{{"command": "ls", "limits": {{"{long}": 1}}}}"#),
            format!(
                "{{{}}}",
                (0..9999).map(|i| format!("\"f{i}\":1")).collect::<Vec<_>>().join(",")
            ),
        ] {
            assert!(refused(&body).1.to_string().len() < 16 << 10);
        }
    }

    #[test]
    fn a_long_body_has_one_complaint() {
        let long = format!(r#"{{"command": "ls", "timeot": 1, "stdin": "{}""#, "x".repeat(99_999));
        assert_eq!(refused(&long).0, Code::MalformedRequest);
        let (code, problem) = refused(&(long + "}"));
        assert_eq!(code, Code::InvalidRequest);
        assert!(
            problem["detail"].as_str().unwrap().contains("unknown field `timeot`"),
            "{problem}"
        );
    }

    #[test]
    fn a_pointer_is_escaped() {
        let (_, problem) = refused(r#"{"command": "ls", "a/b~c": 1}"#);
        assert_eq!(problem["errors"][0]["pointer"], "/a~1b~0c");
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,80}", bytes in any::<Vec<u8>>()) {
            let _ = (read(text.as_bytes()), read(&bytes));
        }
    }
}
