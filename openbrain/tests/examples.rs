//! Every example does what it says. `cargo test` builds them beside the tests.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// All of them: a file in `examples/` that is not tried here is a failure.
const EXAMPLES: [&str; 6] = ["blocking", "limits", "mount", "opensandbox", "sandbox", "stream"];

/// What an example printed on standard output and standard error.
struct Printed {
    stdout: String,
    stderr: String,
}

/// Runs an example in an empty directory, with no settings but the defaults.
fn run(name: &str, arguments: &[&Path]) -> Printed {
    run_with(name, arguments, None)
}

/// Runs an example with the key of a server, if it is given one.
fn run_with(name: &str, arguments: &[&Path], key: Option<&str>) -> Printed {
    assert!(EXAMPLES.contains(&name));
    let directory = TempDir::new().unwrap();
    let program = built().join(name);
    assert!(program.exists(), "{} is not built; run `cargo test`", program.display());
    let variables = env::vars_os().map(|(name, _)| name);
    let mut command = Command::new(program);
    for name in variables.filter(|name| name.to_string_lossy().starts_with("OPENBRAIN_")) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir(&directory);
    command.env("HOME", directory.path()).env_remove("XDG_CONFIG_HOME");
    command.env_remove("OPEN_SANDBOX_API_KEY");
    command.envs(key.map(|key| ("OPEN_SANDBOX_API_KEY", key)));
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let printed = Printed { stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(output.status.success(), "{name}: {}{}", printed.stdout, printed.stderr);
    printed
}

/// Where the examples of this build are: `target/<profile>/examples`.
fn built() -> PathBuf {
    let tests = env::current_exe().unwrap();
    tests.ancestors().nth(2).unwrap().join("examples")
}

#[test]
fn every_example_is_tried() {
    let root = env::var_os("OPENBRAIN_TEST_ROOT").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let files = fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    assert_eq!(found, EXAMPLES);
}

#[test]
fn sandbox() {
    let printed = run("sandbox", &[]).stdout;
    assert!(printed.starts_with("sandbox\n/workspace\n0\n"), "{printed}");
    assert!(printed.contains("\nstatus: Exited(0)\n"), "{printed}");
    assert!(printed.contains("\nfiles: own root"), "{printed}");
    assert!(printed.contains("no_capabilities, no_new_privs, seccomp"), "{printed}");
}

#[test]
fn stream() {
    let Printed { stdout, stderr } = run("stream", &[]);
    assert_eq!(stdout, "got one\ngot two\nExited(0)\n");
    assert_eq!(stderr, "all read\n");
}

#[test]
fn mount() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("old"), "").unwrap();
    let printed = run("mount", &[directory.path()]).stdout;
    let mut parts = printed.split_terminator("\n\n");
    let refused = parts.next().unwrap();
    assert!(refused.starts_with("read-only: Exited(1)\n"), "{printed}");
    assert!(refused.contains("Read-only file system"), "{printed}");
    assert_eq!(parts.next(), Some("overlay: Exited(0)\nnew\nold"));
    assert_eq!(parts.next(), Some("read-write: Exited(0)\nnew\nold"));
    assert!(directory.path().join("new").exists());
}

#[test]
fn limits() {
    let printed = run("limits", &[]).stdout;
    assert!(printed.starts_with("timed out, and said: working\n"), "{printed}");
    assert!(printed.contains("\nout of memory: "), "{printed}");
    assert!(printed.contains("\nmemory by "), "{printed}");
}

#[test]
fn opensandbox() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/opensandbox/env");
    let file = fs::read_to_string(file).unwrap_or_default();
    let variable = |name: &str| {
        let name = format!("TEST_OPENSANDBOX_{name}");
        let line = file.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix('='));
        env::var(&name).ok().or_else(|| line.map(str::to_owned)).unwrap_or_else(|| {
            panic!("{name} is not set and no server was started: run `.ci/opensandbox up`")
        })
    };
    let (url, image, key) = (variable("URL"), variable("IMAGE"), variable("KEY"));
    let printed = run_with("opensandbox", &[Path::new(&url), Path::new(&image)], Some(&key)).stdout;
    let expected = "hello\ngot a line\nstatus: Exited(3)\nlines: 2\nExited(0)\ndeleted: true\n";
    assert_eq!(printed, expected);
}

#[test]
fn blocking() {
    let expected = "2\n1\n\n\
                    the command exited with code 3: no such luck\n\
                    `no-such-program` was not found (command_not_found)\n";
    assert_eq!(run("blocking", &[]).stdout, expected);
}
