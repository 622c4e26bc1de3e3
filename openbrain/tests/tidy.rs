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

/// Rooms of the library and what each may not import. Lower rooms know nothing of higher ones.
const FORBIDDEN_IMPORTS: [(&str, &[&str]); 21] = [
    ("error", &["exec", "output", "settings", "process", "backend", "audit", "engine", "doctor"]),
    ("units", &["exec", "output", "settings", "process", "backend", "audit", "engine", "doctor"]),
    ("check", &["exec", "output", "settings", "process", "backend", "audit", "engine", "doctor"]),
    ("sandbox", &["exec", "output", "settings", "process", "backend", "audit", "engine", "doctor"]),
    ("exec", &["settings", "process", "backend", "audit", "engine", "doctor"]),
    ("script", &["exec", "settings", "process", "backend", "audit", "engine", "doctor"]),
    ("output", &["exec", "settings", "process", "backend", "audit", "engine", "doctor"]),
    ("event", &["exec", "settings", "process", "backend", "audit", "engine", "doctor"]),
    ("spec", &["settings", "process", "audit", "engine", "doctor"]),
    ("settings", &["process", "backend", "audit", "engine", "doctor"]),
    (
        "process",
        &[
            "settings",
            "session",
            "audit",
            "engine",
            "doctor",
            "backend::direct",
            "backend::embedded",
        ],
    ),
    ("new_sandbox", &["settings", "session", "process", "backend", "audit", "engine", "doctor"]),
    (
        "session",
        &[
            "settings",
            "audit",
            "engine",
            "doctor",
            "backend::direct",
            "backend::embedded",
            "backend::opensandbox",
        ],
    ),
    (
        "share",
        &[
            "settings",
            "audit",
            "engine",
            "doctor",
            "backend::direct",
            "backend::embedded",
            "backend::opensandbox",
        ],
    ),
    (
        "changes",
        &[
            "exec", "output", "spec", "settings", "session", "process", "backend", "audit",
            "engine", "doctor",
        ],
    ),
    ("audit", &["settings", "backend", "engine", "doctor"]),
    ("backend/contained", &["spec", "settings", "process", "audit", "engine", "doctor"]),
    (
        "backend/helper",
        &["settings", "session", "process", "audit", "engine", "doctor", "backend::embedded"],
    ),
    (
        "backend/direct",
        &["settings", "session", "process", "audit", "engine", "doctor", "backend::embedded"],
    ),
    (
        "backend/embedded",
        &["settings", "session", "process", "audit", "engine", "doctor", "backend::direct"],
    ),
    (
        "backend/opensandbox",
        &[
            "settings",
            "session",
            "process",
            "audit",
            "engine",
            "doctor",
            "backend::direct",
            "backend::embedded",
        ],
    ),
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
    for (name, text) in sources("openbrain/src") {
        if name.ends_with("/tests.rs") {
            continue;
        }
        let rules = FORBIDDEN_IMPORTS.iter().filter(|(room, _)| name.starts_with(room));
        for (room, forbidden) in rules {
            let paths = imports(without_tests(&text));
            for module in *forbidden {
                let found = paths
                    .iter()
                    .any(|path| path == module || path.starts_with(&format!("{module}::")));
                assert!(!found, "{name}: {room} imports {module}");
            }
        }
    }
}

/// The paths below `crate::` that a file names, with one level of braces opened.
fn imports(text: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for part in text.split("crate::").skip(1) {
        if let Some(group) = part.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        paths.insert(std::mem::take(&mut item));
                    }
                    c if c.is_whitespace() => {}
                    c if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            paths.insert(item);
        } else {
            let end = part.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            paths.insert(part[..end.unwrap_or(part.len())].to_owned());
        }
    }
    paths
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
