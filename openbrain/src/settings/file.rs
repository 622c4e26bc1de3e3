//! Reading one settings file: whom it belongs to, and what is wrong with its text.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde_yaml::Value;

use super::{
    Settings,
    keys::{first_unknown, first_wrong, leaf, suggestion},
};
use crate::error::{Error, Result};

/// The largest settings file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a file that the user named. It must exist; whom it belongs to is the user's business.
pub(super) fn read_named(path: &Path) -> Result<Value> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    parse(path, &text_of(path, file)?)
}

/// Reads a file at a place where openbrain looks by itself; `None` when there is none.
pub(super) fn read_found(path: &Path) -> Result<Option<Value>> {
    // Without O_NONBLOCK, opening a FIFO that somebody placed here would wait for ever.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if is_absent(path, error.kind()) => return Ok(None),
        Err(error) => return Err(unreadable(path, error)),
    };
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    if !metadata.is_file() {
        return Err(Error::settings(format!("settings `{}` are not a file", path.display()))
            .with_remedy("name a file; `openbrain config init` writes one"));
    }
    let euid = rustix::process::geteuid().as_raw();
    check_trust(path, metadata.uid(), metadata.mode(), euid)?;
    parse(path, &text_of(path, file)?).map(Some)
}

/// Whether nothing is there. A link to nowhere is something: a file that cannot be read.
fn is_absent(path: &Path, kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
        && path.symlink_metadata().is_err()
}

/// Refuses a file that somebody else could have written.
fn check_trust(path: &Path, owner: u32, mode: u32, euid: u32) -> Result<()> {
    let path = path.display();
    if owner != euid && owner != 0 {
        return Err(Error::settings(format!(
            "settings file `{path}` belongs to user {owner}, not to you (user {euid})"
        ))
        .with_remedy(format!(
            "read it, then take it over (`chown {euid} {path}`) or name it with `--config`"
        )));
    }
    if mode & 0o002 != 0 {
        return Err(Error::settings(format!("settings file `{path}` can be written by everybody"))
            .with_remedy(format!("read it, then `chmod o-w {path}`")));
    }
    Ok(())
}

fn text_of(path: &Path, file: File) -> Result<String> {
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| unreadable(path, error))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::settings(format!("settings file `{}` is too long", path.display()))
            .with_remedy("a settings file has at most 1 MiB"));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::settings(format!("cannot read settings file `{}`", path.display()))
        .with_source(error)
        .with_remedy("make it readable, or name another with `--config`")
}

/// Reads the text of a settings file, refusing everything that is not valid on its own.
pub(super) fn parse(path: &Path, text: &str) -> Result<Value> {
    let wrong = |what: String| Error::settings(format!("settings file `{}`{what}", path.display()));
    let value: Value =
        serde_yaml::from_str(text).map_err(|error| wrong(syntax_error(&error, text)))?;
    if value.is_null() {
        return Err(wrong(" is empty".into())
            .with_remedy("remove it, or write the template: `openbrain config init`"));
    }
    if !value.is_mapping() {
        return Err(wrong(" has no keys at its top level".into())
            .with_remedy("it begins with `security:`; `openbrain config init` writes a template"));
    }
    let Err(error) = serde_yaml::from_str::<Settings>(text) else {
        return Ok(value);
    };
    let what = unknown_key(&value, &error).or_else(|| wrong_value(&value, text));
    Err(wrong(what.unwrap_or_else(|| format!(": {error}")))
        .with_remedy("`openbrain config schema` prints every key and what it may hold"))
}

/// Where the unknown key is that the error is about, and which one was probably meant; `None` for
/// every other error.
fn unknown_key(value: &Value, error: &serde_yaml::Error) -> Option<String> {
    let unknown = first_unknown(value, "")?;
    if !error.to_string().contains(&format!("unknown field `{}`", leaf(&unknown))) {
        return None;
    }
    let place = error.location()?;
    let hint = suggestion(&unknown).map(|key| format!(", did you mean `{key}`?"));
    let hint = hint.unwrap_or_default();
    Some(format!(" line {} column {}: unknown key `{unknown}`{hint}", place.line(), place.column()))
}

/// Which key has a value that does not suit it, and where. The deserializer's own error may name
/// no more than the section and its first line.
fn wrong_value(value: &Value, text: &str) -> Option<String> {
    let (key, error) = first_wrong(value)?;
    let (line, column) = places(text, leaf(key)).next()?;
    Some(format!(" line {line} column {column}: `{key}`: {error}"))
}

/// What is wrong with a text that is no YAML; the error names the place itself, except that of a
/// key that is there twice.
fn syntax_error(error: &serde_yaml::Error, text: &str) -> String {
    let own = error.to_string();
    let twice =
        own.split_once("duplicate entry with key \"").and_then(|(_, name)| name.split_once('"'));
    let place = twice.and_then(|(name, _)| Some((name, places(text, name).nth(1)?)));
    match place {
        Some((name, (line, column))) => {
            format!(" line {line} column {column}: the key `{name}` is there twice")
        }
        None => format!(": {own}"),
    }
}

/// The lines and columns, from 1, at which this name is a key.
fn places<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    let is_key = move |line: &str, at: usize| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let begins = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let after = after.trim_start_matches(['"', '\'']).trim_start();
        begins && after.starts_with(':') && !before.contains('#')
    };
    text.lines().enumerate().flat_map(move |(number, line)| {
        let keys = line.match_indices(name).filter(move |(at, _)| is_key(line, *at));
        keys.map(move |(at, _)| (number + 1, line[..at].chars().count() + 1))
    })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, path::Path};

    use proptest::prelude::proptest;

    use super::{check_trust, parse, read_found, read_named};
    use crate::error::ErrorKind;

    fn message(text: &str) -> String {
        let error = parse(Path::new("/s.yaml"), text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSettings);
        error.to_string()
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_key() {
        for (text, expected) in [
            (
                "security:\n  sandbox:\n    timeout_second: 3\n",
                "settings file `/s.yaml` line 3 column 5: unknown key \
                 `security.sandbox.timeout_second`, did you mean `security.sandbox.timeout_seconds`?",
            ),
            (
                "securty: {}\n",
                "settings file `/s.yaml` line 1 column 1: unknown key `securty`, \
                 did you mean `security`?",
            ),
            (
                "security:\n  mode: direct\n  server_url: http://a\n",
                "settings file `/s.yaml` line 3 column 3: unknown key `security.server_url`, \
                 did you mean `security.sandbox.server_url`?",
            ),
            (
                "security:\n  zzz: 1\n",
                "settings file `/s.yaml` line 2 column 3: unknown key `security.zzz`",
            ),
        ] {
            assert_eq!(message(text), expected);
        }
    }

    #[test]
    fn a_wrong_value_names_its_key_and_line() {
        for (text, expected) in [
            ("security:\n  mode: sandbx\n", "line 2 column 3: `security.mode`: unknown variant"),
            (
                "security: {mode: direct,\n allow_direct: no}",
                "line 2 column 2: `security.allow_direct`: invalid type: string \"no\"",
            ),
            (
                "security:\n  sandbox:\n    image: a\n    # server_url: x\n    server_url: b\n",
                "line 5 column 5: `security.sandbox.server_url`: \"b\" is no address",
            ),
            (
                "security:\n  sandbox:\n    limits:\n      pids: 9\n      disk: lots\n",
                "line 5 column 7: `security.sandbox.limits.disk`: `lots` is not a size",
            ),
            ("security:\n  mode: direct\n  mode: sandbox\n", "line 3 column 3: the key `mode`"),
            ("security:\n  mode: [\n", "at line 3 column 1"),
            ("security: {sandbox: 3}\n", "security.sandbox: invalid type: integer `3`"),
        ] {
            let message = message(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn absurd_values_are_refused() {
        for (section, field) in [
            ("sandbox", "timeout_seconds: 0"),
            ("sandbox", "timeout_seconds:"),
            ("sandbox", "server_url: 'http://'"),
            ("sandbox", "workspace_mount: here"),
            ("sandbox", "expose: [/a, here]"),
            ("sandbox", "image: ''"),
            ("sandbox: {limits", "memory: 1k}"),
            ("sandbox: {network", "allowed_ports: [0]}"),
            ("sandbox: {network", "allowed_domains:}"),
            ("sandbox: {network", "allowed_domains: ['http://a']}"),
        ] {
            message(&format!("security: {{{section}: {{{field}}}}}"));
        }
    }

    #[test]
    fn a_file_without_keys_is_an_error() {
        for text in ["", "# only a comment\n", "---\n", "~", "- a\n", "text\n", "a: 1\n---\nb: 1\n"]
        {
            message(text);
        }
    }

    #[test]
    fn an_empty_section_says_nothing() {
        for text in ["security:\n", "security:\n  sandbox:\n    # image: a\n", "{}"] {
            assert!(parse(Path::new("/s.yaml"), text).is_ok(), "{text}");
        }
    }

    #[test]
    fn somebody_elses_file_is_refused() {
        let check = |owner, mode, euid| check_trust(Path::new("/s"), owner, mode, euid).is_ok();
        assert!(check(1000, 0o100644, 1000));
        assert!(check(0, 0o100644, 1000));
        assert!(!check(1001, 0o100644, 1000));
        assert!(!check(1000, 0o100644, 0));
        assert!(!check(1000, 0o100646, 1000));
    }

    #[test]
    fn a_file_that_is_there_is_never_taken_for_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.yaml");
        assert!(read_found(&path).unwrap().is_none());
        assert!(read_found(&path.join("below")).unwrap().is_none());
        assert!(read_named(&path).is_err());
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(read_found(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(read_found(&path).is_err());
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, b"security: {mode: \xff}").unwrap();
        assert!(read_found(&path).is_err());
        std::fs::write(&path, "#".repeat(2 << 20)).unwrap();
        assert!(read_found(&path).is_err());
        std::fs::write(&path, "security: {}").unwrap();
        assert!(read_found(&path).unwrap().is_some());
        assert!(read_found(&path.join("below")).unwrap().is_none());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read_found(&path).unwrap_err().remedy().unwrap().contains("chmod"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n]{0,200}") {
            let _ = parse(Path::new("/s"), &text);
        }

        #[test]
        fn no_value_panics(key in "mode|sandbox|network|expose|limits|<<", value in "[ -~\n]{0,40}") {
            let _ = parse(Path::new("/s"), &format!("security:\n  {key}: {value}\n"));
            let _ = parse(Path::new("/s"), &format!("security:\n  sandbox:\n    {key}: {value}\n"));
        }
    }
}
