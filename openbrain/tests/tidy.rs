//! Rules of the house that a tool can check: who may import whom, where `unsafe` is, how long files
//! are, what dependencies may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Licences of dependencies. `OR` needs one of them, `AND` all.
const LICENCES: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

/// Crates of which more than one version is in the lock file, because others ask for them; `syn` is
/// there while building alone.
const KNOWN_DUPLICATES: [&str; 2] = ["getrandom", "syn"];

/// Files of the library that may say `unsafe`: `(file, what for)`.
const UNSAFE: [(&str, &str); 1] = [("src/backend/sys.rs", "two calls that no library makes safe")];

/// The rooms of the library in levels: one imports from lower levels alone, which come first.
const LEVELS: [&[&str]; 16] = [
    &["error"],
    &["units", "beneath", "caller", "secret", "check"],
    &["sandbox"],
    &["changes", "script"],
    &["exec"],
    &["new_sandbox", "output"],
    &["event", "spec"],
    &["settings", "backend"],
    &["backend/sys", "backend/contained"],
    &["backend/helper"],
    &["process", "backend/direct", "backend/embedded", "backend/opensandbox"],
    &["audit"],
    &["session"],
    &["share"],
    &["engine"],
    &["doctor", "server"],
];

/// Groups of rooms that know nothing of each other, whatever their levels.
const APART: [&[&str]; 5] = [
    &["settings"],
    &["process", "audit", "session", "share"],
    &["backend/direct"],
    &["backend/embedded"],
    &["backend/opensandbox"],
];

/// The longest a source file may be without its tests.
const MOST_LINES: usize = 550;

/// The checkout: tests run in the folder of their crate.
fn root() -> PathBuf {
    Path::new("..").canonicalize().unwrap()
}

fn sources(below: &str) -> Vec<(String, String)> {
    sources_in(below, "rs")
}

fn sources_in(below: &str, extension: &str) -> Vec<(String, String)> {
    let root = root().join(below);
    let mut found = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {below}");
    found.sort();
    found
}

/// The text without what a test module at the end adds.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

#[test]
fn unsafe_stays_in_its_place() {
    for (name, text) in sources("openbrain/src") {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let says =
            code.into_iter().any(|line| line.contains("unsafe ") || line.contains("unsafe{"));
        let allowed = UNSAFE.iter().any(|(file, _)| file.ends_with(&format!("/{name}")));
        assert!(!says || allowed || name == "lib.rs", "{name} says unsafe");
    }
    for (name, text) in sources("openbrain-py/src") {
        assert!(!text.contains("unsafe "), "openbrain-py: {name} says unsafe");
    }
}

#[test]
fn imports_go_one_way() {
    let level = |room| LEVELS.iter().position(|rooms| rooms.contains(&room)).unwrap();
    let group = |room| APART.iter().position(|rooms| rooms.contains(&room));
    for (name, text) in sources("openbrain/src") {
        // The root names everything.
        if name == "lib.rs" || name.ends_with("/tests.rs") {
            continue;
        }
        let module = name.trim_end_matches(".rs").trim_end_matches("/mod");
        let room = room(module).unwrap_or_else(|| panic!("{name} is in no room"));
        for path in imports(module, without_tests(&text)) {
            let Some(other) = self::room(&path).filter(|other| *other != room) else { continue };
            assert!(level(other) < level(room), "{name}: {room} imports {path}");
            let (own, others) = (group(room), group(other));
            let are_apart = own.is_some() && others.is_some() && own != others;
            assert!(!are_apart, "{name}: {room} imports {path}");
        }
    }
}

/// The room of a module or of something in it, by its path: the longest name that fits.
fn room(path: &str) -> Option<&'static str> {
    let fits = |room: &&str| path == *room || path.starts_with(&format!("{room}/"));
    LEVELS.iter().copied().flatten().copied().filter(fits).max_by_key(|room| room.len())
}

/// The paths in the crate that a module names, with `/` between their parts.
fn imports(module: &str, text: &str) -> BTreeSet<String> {
    let code: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut paths = BTreeSet::new();
    for part in code.split("use ").skip(1) {
        let item = part.split(';').next().unwrap_or_default();
        let item: String = item.chars().filter(|c| !c.is_whitespace()).collect();
        expand("", &mut item.replace("::", "/").as_str(), &mut paths);
    }
    let inline = code.split("crate::").skip(1).map(|part| {
        let end = part.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        format!("crate/{}", part[..end.unwrap_or(part.len())].replace("::", "/"))
    });
    paths.extend(inline);
    let named = paths.iter().filter(|path| !path.ends_with('/'));
    named.filter_map(|path| absolute(module, path)).collect()
}

/// Opens the braces of `a/{b,c/{d,e}}`, up to the end of the innermost group that is open.
fn expand(prefix: &str, rest: &mut &str, paths: &mut BTreeSet<String>) {
    loop {
        let end = rest.find(['{', '}', ',']).unwrap_or(rest.len());
        let path = format!("{prefix}{}", &rest[..end]);
        let next = rest[end..].chars().next();
        *rest = &rest[(end + 1).min(rest.len())..];
        match next {
            Some('{') => expand(&path, rest, paths),
            _ => drop(paths.insert(path)),
        }
        if matches!(next, Some('}') | None) {
            return;
        }
    }
}

/// A path from the root of the crate; `None` for one of another crate.
fn absolute(module: &str, path: &str) -> Option<String> {
    if let Some(path) = path.strip_prefix("crate/") {
        return Some(path.to_owned());
    }
    let (mut from, mut path) = (module, path.strip_prefix("self/").unwrap_or(path));
    if !path.starts_with("super/") && !path.starts_with("self") {
        return None;
    }
    while let Some(rest) = path.strip_prefix("super/") {
        from = from.rsplit_once('/').map_or("", |(parent, _)| parent);
        path = rest;
    }
    Some(format!("{from}/{path}").trim_start_matches('/').to_owned())
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::{a::{self, B}, c};\nuse super::{d, super::e::F};\nlet x = crate::g::h();\n\
                use std::io;\n// use crate::comment;\nuse self::inner::I;";
    let found: Vec<_> = imports("one/two", text).into_iter().collect();
    assert_eq!(found, ["a/B", "a/self", "c", "e/F", "g/h", "one/d"]);
}

#[test]
fn every_room_is_on_the_map() {
    let map = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for room in LEVELS.iter().copied().flatten() {
        let names = ["", "/", "/mod"].map(|end| format!("`{room}{end}`"));
        assert!(names.iter().any(|name| map.contains(name)), "the map lacks `{room}`");
    }
}

#[test]
fn only_the_settings_read_the_environment() {
    for (name, text) in sources("openbrain/src") {
        let reads = without_tests(&text)
            .lines()
            .any(|line| line.contains("env::var") && !line.trim_start().starts_with("//"));
        // The direct backend hands the caller's environment on without looking into it.
        let allowed = name.starts_with("settings/")
            || name == "backend/direct.rs"
            || name.ends_with("/tests.rs");
        assert!(!reads || allowed, "{name} reads the environment");
    }
}

#[test]
fn files_stay_short() {
    for folder in ["openbrain/src", "openbrain/helper", "openbrain-cli/src", "openbrain-py/src"] {
        for (name, text) in sources(folder) {
            let lines = without_tests(&text).lines().count();
            assert!(lines <= MOST_LINES, "{folder}/{name} has {lines} lines");
        }
    }
    for (name, text) in sources_in("openbrain-py", "py") {
        let lines = text.lines().count();
        assert!(lines <= MOST_LINES, "openbrain-py/{name} has {lines} lines");
    }
}

#[test]
fn versions_agree() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(changelog.contains(&format!("## {version}")), "CHANGELOG.md lacks {version}");
}

#[test]
fn documents_point_to_what_exists() {
    let mut documents = vec![root().join("README.md")];
    documents.extend(fs::read_dir(root().join("docs")).unwrap().flatten().map(|e| e.path()));
    for document in documents.iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let target = document.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{}: {link} does not exist", document.display());
        }
    }
}

/// The packages that the command is made of, with their licences.
fn packages() -> Option<BTreeMap<(String, String), String>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()?
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let packages = metadata["packages"].as_array()?.iter();
    let packages = packages.filter(|package| used.contains(package["id"].as_str().unwrap_or("")));
    Some(
        packages
            .map(|package| {
                let text = |key: &str| package[key].as_str().unwrap_or("none").to_owned();
                ((text("name"), text("version")), text("license"))
            })
            .collect(),
    )
}

#[test]
fn licences_are_allowed_and_versions_single() {
    // The ordinary user's half of the tests has no cargo; the first half has checked.
    let Some(packages) = packages() else { return };
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for ((name, version), licence) in &packages {
        assert!(is_allowed(licence), "{name} {version} is under {licence}");
        versions.entry(name).or_default().push(version);
    }
    let twice: Vec<_> = versions
        .iter()
        .filter(|(name, versions)| versions.len() > 1 && !KNOWN_DUPLICATES.contains(name))
        .collect();
    assert!(twice.is_empty(), "more than one version: {twice:?}");
}

fn is_allowed(licence: &str) -> bool {
    let plain = licence.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|one| LICENCES.contains(&one.trim())))
}
