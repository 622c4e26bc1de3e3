//! What surrounds the command: variables, directory, arguments.

use std::fs;

use crate::support::{Place, openbrain};

#[test]
fn variables_are_set_and_copied() {
    let place = Place::new();
    let mut command = place.command(&["exec", "-e", "A=1=2", "--env", "B", "echo $A $B"]);
    command.env("B", "copied");
    crate::support::Ran::of(command, b"").code(0).prints("1=2 copied\n");
}

#[test]
fn flags_win_over_files_and_later_over_earlier() {
    let place = Place::new();
    place.file("one", "# a comment\n\nA=file one\nB=\"quotes stay\"\r\nC=1\n");
    place.file("two", "C=2\n");
    let args = ["exec", "-e", "A=flag", "--env-file", "one", "--env-file", "two", "echo $A $B $C"];
    place.run(&args).code(0).prints("flag \"quotes stay\" 2\n");
}

#[test]
fn a_wrong_variable_is_an_error() {
    let place = Place::new();
    place.file("bad", "A=1\nexport B=2\n");
    for (args, complaint) in [
        (["-e", "NOT_SET_HERE"], "`NOT_SET_HERE` is not set here"),
        (["-e", "=x"], "cannot be an environment variable"),
        (["--env-file", "bad"], "`bad` line 2 is not NAME=VALUE"),
        (["--env-file", "missing"], "cannot read `missing`"),
    ] {
        place.run(&["exec", args[0], args[1], "true"]).code(125).complains(complaint);
    }
}

#[test]
fn the_working_directory_is_chosen() {
    let place = Place::new();
    fs::create_dir(place.path().join("sub")).unwrap();
    let expected = format!("{}\n", place.path().join("sub").canonicalize().unwrap().display());
    for flag in ["-w", "--workdir", "--cwd"] {
        place.run(&["exec", flag, "sub", "pwd -P"]).code(0).prints(&expected);
    }
}

#[test]
fn arguments_are_not_joined() {
    let place = Place::new();
    place.run(&["exec", "printf", "<%s>", "a b", "$HOME", "--json"]).prints("<a b><$HOME><--json>");
    place.run(&["exec", "--", "printf", "<%s>", "a b"]).prints("<a b>");
    place.run(&["exec", "printf", "<%s>", "--", "-t"]).prints("<--><-t>");
    place.run(&["exec", "--", "echo one word"]).code(127).complains("echo one word");
}

#[test]
fn the_shell_is_chosen() {
    if !crate::support::installed("bash") {
        return;
    }
    let ran = Place::new().run(&["exec", "--shell", "bash", "echo ${BASH_VERSION:+bash}"]);
    ran.code(0).prints("bash\n");
}

#[test]
fn descriptors_that_the_caller_left_open_change_nothing() {
    let place = Place::new();
    let leaking = |flags: &str| {
        let mut shell = std::process::Command::new("sh");
        place.surround(&mut shell);
        let script = format!("exec \"$0\" exec {flags} 'echo out; ls /proc/$$/fd' 3</ 4</ 5</");
        shell.arg("-c").arg(script).arg(openbrain());
        crate::support::Ran::of(shell, b"").code(0).stdout
    };
    assert_eq!(leaking(""), "out\n0\n1\n2\n");
    if crate::support::sandboxes() {
        assert_eq!(leaking("--sandbox"), "out\n0\n1\n2\n");
    }
}
