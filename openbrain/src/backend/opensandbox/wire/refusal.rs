//! The shapes of refusals: the server's four, the agent's two, the sidecar's plain text.

use serde::Deserialize;
use serde_json::Value;

use super::super::failure::quote;

/// What an answer that refuses says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Refusal {
    /// The code, where there is one.
    pub(in super::super) code: Option<String>,
    /// The words, or what was received instead of any.
    pub(in super::super) message: String,
}

/// Every shape in JSON at once.
#[derive(Deserialize)]
struct Shapes {
    code: Option<Value>,
    message: Option<String>,
    detail: Option<Value>,
    error: Option<Value>,
}

impl Refusal {
    pub(in super::super) fn read(body: &[u8]) -> Self {
        let Ok(shapes) = serde_json::from_slice::<Shapes>(body) else {
            return Self { code: None, message: plain(body) };
        };
        let code = shapes.code.as_ref().and_then(Value::as_str).map(str::to_owned);
        let nested = shapes.detail.as_ref().filter(|detail| detail.is_object());
        match (shapes.message, nested) {
            (Some(message), _) => Self { code, message },
            (None, Some(detail)) => Self::read(detail.to_string().as_bytes()),
            (None, None) => {
                let said = shapes.detail.as_ref().or(shapes.error.as_ref());
                let message = said.and_then(words).unwrap_or_else(|| quote(body));
                Self { code, message }
            }
        }
    }
}

/// A text as it is, a list of findings as one sentence.
fn words(said: &Value) -> Option<String> {
    match said {
        Value::String(text) => Some(text.clone()),
        Value::Array(findings) => {
            let all: Vec<String> = findings.iter().filter_map(finding).collect();
            (!all.is_empty()).then(|| all.join("; "))
        }
        _ => None,
    }
}

/// One finding of a validation. What was sent is in it too, and may hold secrets: left out.
fn finding(entry: &Value) -> Option<String> {
    let message = entry.get("msg")?.as_str()?;
    let path = entry.get("loc").and_then(Value::as_array).into_iter().flatten();
    let path: Vec<String> = path
        .filter(|part| part.as_str() != Some("body"))
        .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
        .collect();
    match path.is_empty() {
        true => Some(message.to_owned()),
        false => Some(format!("`{}`: {message}", path.join("."))),
    }
}

/// A short plain text as it is; anything else is quoted.
fn plain(body: &[u8]) -> String {
    match std::str::from_utf8(body).map(str::trim) {
        Ok("") => String::new(),
        Ok(text) if text.len() <= 200 && !text.contains(['<', '{', '\n']) => text.to_owned(),
        _ => quote(body),
    }
}
