//! The keys of a settings file, read from its schema: the one list behind the environment
//! variables, the layering and the suggestions for a misspelt key.

use std::sync::LazyLock;

use serde_yaml::Value;

use super::Settings;
use crate::units::nearest;

/// Every key that holds a value, in the order of the documentation.
pub(super) static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = Vec::new();
    collect(&Settings::schema(), "", &mut keys);
    keys
});

/// A key that holds a value.
pub(super) struct Key {
    /// Its name with those of its sections: `security.sandbox.image`.
    pub(super) path: String,
    /// The environment variable that sets it: the last name in capitals, `OPENBRAIN_IMAGE`; outside
    /// of `security` with the section before it, `OPENBRAIN_SERVER_LISTEN`.
    pub(super) variable: String,
    kind: Kind,
}

/// How an environment variable writes the value.
enum Kind {
    Flag,
    Number,
    Text,
    Numbers,
    Texts,
    Pairs,
}

impl Key {
    fn new(path: &str, schema: &serde_json::Value) -> Self {
        let is = |schema: &serde_json::Value, name: &str| match &schema["type"] {
            serde_json::Value::Array(names) => names.iter().any(|n| n == name),
            one => one == name,
        };
        let kind = match schema {
            s if is(s, "boolean") => Kind::Flag,
            s if is(s, "integer") || is(s, "number") => Kind::Number,
            s if is(s, "array") && is(&s["items"], "integer") => Kind::Numbers,
            s if is(s, "array") => Kind::Texts,
            s if is(s, "object") => Kind::Pairs,
            _ => Kind::Text,
        };
        let name = if path.starts_with("security.") { leaf(path) } else { &path.replace('.', "_") };
        let variable = format!("OPENBRAIN_{}", name.to_ascii_uppercase());
        Self { path: path.to_owned(), variable, kind }
    }

    /// Reads the value of the environment variable; what is wrong with it otherwise.
    pub(super) fn parse(&self, text: &str) -> Result<Value, &'static str> {
        match self.kind {
            Kind::Text => Ok(Value::from(text)),
            Kind::Flag => match text {
                "true" | "1" => Ok(Value::from(true)),
                "false" | "0" => Ok(Value::from(false)),
                _ => Err("is neither `true` nor `false`"),
            },
            Kind::Number => number(text),
            Kind::Texts => Ok(items(text).map(Value::from).collect()),
            Kind::Numbers => items(text).map(number).collect(),
            Kind::Pairs => items(text).map(pair).collect::<Result<_, _>>().map(Value::Mapping),
        }
    }
}

/// The last name of a dotted key.
pub(super) fn leaf(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The value at a dotted key, if the layer has one.
pub(super) fn get<'a>(layer: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(layer, |value, name| value.get(name))
}

/// A layer that says nothing but this key, or why the value does not suit it.
pub(super) fn layer_of(path: &str, value: Value) -> Result<Value, serde_yaml::Error> {
    let mut layer = Value::Null;
    set(&mut layer, path, value);
    serde_yaml::from_value::<Settings>(layer.clone())?;
    Ok(layer)
}

/// The first key whose value does not suit it, and why.
pub(super) fn first_wrong(layer: &Value) -> Option<(&'static str, serde_yaml::Error)> {
    KEYS.iter().find_map(|key| {
        let error = layer_of(&key.path, get(layer, &key.path)?.clone()).err()?;
        Some((key.path.as_str(), error))
    })
}

/// Sets the value at a dotted key, creating the sections on the way.
pub(super) fn set(layer: &mut Value, path: &str, value: Value) {
    let mut place = layer;
    for name in path.split('.') {
        place = &mut place[name];
    }
    *place = value;
}

/// The first key of `layer`, in its own order, that no settings file has.
pub(super) fn first_unknown(layer: &Value, section: &str) -> Option<String> {
    for (name, value) in layer.as_mapping()? {
        let path = join(section, name.as_str()?);
        let is_section = KEYS.iter().any(|key| key.path.starts_with(&format!("{path}.")));
        if !is_section && !KEYS.iter().any(|key| key.path == path) {
            return Some(path);
        }
        if let Some(unknown) = is_section.then(|| first_unknown(value, &path)).flatten() {
            return Some(unknown);
        }
    }
    None
}

/// The key that was probably meant: the same name in another section, a similar name in the same
/// section, or a similar name anywhere.
pub(super) fn suggestion(unknown: &str) -> Option<String> {
    let name = leaf(unknown);
    let section = unknown.rsplit_once('.').map_or("", |(section, _)| section);
    if let Some(key) = KEYS.iter().find(|key| leaf(&key.path) == name) {
        return Some(key.path.clone());
    }
    if let Some(sibling) = nearest(name, KEYS.iter().filter_map(|key| child(&key.path, section))) {
        return Some(join(section, sibling));
    }
    let near = nearest(name, KEYS.iter().map(|key| leaf(&key.path)))?;
    KEYS.iter().find(|key| leaf(&key.path) == near).map(|key| key.path.clone())
}

fn collect(schema: &serde_json::Value, path: &str, keys: &mut Vec<Key>) {
    match schema["properties"].as_object() {
        Some(fields) => fields.iter().for_each(|(name, s)| collect(s, &join(path, name), keys)),
        None => keys.push(Key::new(path, schema)),
    }
}

/// The name directly below `section` on the way to `path`.
fn child<'a>(path: &'a str, section: &str) -> Option<&'a str> {
    let below = match section {
        "" => path,
        _ => path.strip_prefix(section)?.strip_prefix('.')?,
    };
    below.split('.').next()
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn pair(text: &str) -> Result<(Value, Value), &'static str> {
    let (name, value) = text.split_once('=').ok_or("is not a list of NAME=VALUE")?;
    Ok((Value::from(name), Value::from(value)))
}

fn number(text: &str) -> Result<Value, &'static str> {
    let whole = text.parse::<u64>().map(Value::from);
    whole.or_else(|_| text.parse::<f64>().map(Value::from)).map_err(|_| "is not a number")
}
