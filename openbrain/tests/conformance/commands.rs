//! What can be run, how it gets its arguments, and what is refused.

use std::os::fd::AsRawFd;

use openbrain::{Command, ErrorKind, Exec, Stdin};

use crate::support::{Fixture, text};

pub(crate) async fn a_string_is_a_script_for_the_shell(f: &Fixture) {
    let output = f.run(f.shell("for i in 1 2; do echo \"$i $0\"; done | tr 1 x")).await;
    assert_eq!(output.stdout_text(), "x /bin/sh\n2 /bin/sh\n");
}

pub(crate) async fn another_shell_can_be_chosen(f: &Fixture) {
    let script = "words=(a b); echo ${words[1]} ${BASH_VERSION:+bash}";
    let output = f.run(f.shell(script).shell("bash")).await;
    assert_eq!(output.stdout_text(), "b bash\n");
    let error = f.refused(f.shell("true").shell("no-such-shell")).await;
    assert_eq!(error.kind(), ErrorKind::CommandNotFound, "{error:?}");
}

pub(crate) async fn arguments_arrive_unchanged(f: &Fixture) {
    let arguments =
        ["a b", "*", "", "$HOME `id` \\", "\"'", "two\nlines", "-n", "é\u{1f600}", "\x01"];
    let mut command = vec!["printf".to_owned(), "%s\\0".to_owned()];
    command.extend(arguments.map(str::to_owned));
    let output = f.run(f.of(Command::Argv(command))).await;
    let expected: String = arguments.iter().map(|argument| format!("{argument}\0")).collect();
    assert_eq!(output.stdout_text(), expected);
}

pub(crate) async fn a_list_has_no_shell(f: &Fixture) {
    let output = f.run(f.argv(["echo", "$0", ";", "exit", "3", "#"])).await;
    assert_eq!(output.stdout_text(), "$0 ; exit 3 #\n");
    assert!(output.success());
}

pub(crate) async fn a_program_without_language_is_python(f: &Fixture) {
    let output = f.run(f.script(None, "import sys\nprint(sys.version_info[0])\nsys.exit(4)")).await;
    assert_eq!((output.stdout_text().as_str(), output.exit_code()), ("3\n", Some(4)));
}

pub(crate) async fn a_shebang_decides(f: &Fixture) {
    for (source, expected) in [
        ("#!/bin/sh\necho \"sh ${BASH_VERSION:-}\"", "sh \n"),
        ("#!/usr/bin/env bash\nwords=(a b); echo ${words[1]}", "b\n"),
        ("#!/usr/bin/env python3\nprint(1 // 2)", "0\n"),
        ("#!/usr/bin/awk -f\nBEGIN { print \"awk\" }", "awk\n"),
        ("#!/bin/cat\nitself\n", "#!/bin/cat\nitself\n"),
    ] {
        let output = f.run(f.script(None, source)).await;
        assert_eq!(output.stdout_text(), expected, "{source}: {}", output.stderr_text());
    }
}

pub(crate) async fn a_language_can_be_named(f: &Fixture) {
    for (language, source, expected) in [
        ("python", "print('a b')", "a b\n"),
        ("sh", "set -- x y; echo $#", "2\n"),
        ("bash", "words=(a b); echo ${words[1]}", "b\n"),
        ("sh", "#!/usr/bin/python3\necho sh", "sh\n"),
    ] {
        let output = f.run(f.script(Some(language), source)).await;
        assert_eq!(output.stdout_text(), expected, "{language}: {}", output.stderr_text());
    }
}

pub(crate) async fn an_unknown_language_is_refused(f: &Fixture) {
    let error = f.refused(f.script(Some("pyhton"), "1")).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(error.to_string(), "`pyhton` is not a known language");
}

/// One argument of a program is at most 128 KiB long (`MAX_ARG_STRLEN`).
pub(crate) async fn a_long_script_runs(f: &Fixture) {
    let script = format!("echo start; : '{}'; echo \"end $0\"; exit 5", "x".repeat(200 << 10));
    for shell in ["/bin/sh", "bash"] {
        let output = f.run(f.shell(script.as_str()).shell(shell)).await;
        assert_eq!(output.stdout_text(), format!("start\nend {shell}\n"));
        assert_eq!(output.exit_code(), Some(5));
    }
}

pub(crate) async fn long_programs_run(f: &Fixture) {
    let filling = "x".repeat(1 << 20);
    for (language, source) in [
        ("python", format!("x = '{filling}'\nprint(len(x))")),
        ("sh", format!("x={filling}; echo ${{#x}}")),
        ("bash", format!("x={filling}; echo ${{#x}}")),
    ] {
        let output = f.run(f.script(Some(language), source)).await;
        assert_eq!(output.stdout_text(), "1048576\n", "{language}: {}", output.stderr_text());
    }
}

pub(crate) async fn a_long_program_keeps_its_exit_code(f: &Fixture) {
    let filling = "#".repeat(200 << 10);
    for (language, source) in [
        ("python", format!("import sys\nsys.exit(7) {filling}")),
        ("sh", format!("exit 7 {filling}")),
        ("python", format!("{filling}\nif True: raise SystemExit(7)")),
    ] {
        let output = f.run(f.script(Some(language), source)).await;
        assert_eq!(output.exit_code(), Some(7), "{language}: {}", output.stderr_text());
    }
}

pub(crate) async fn a_long_program_can_read_its_input(f: &Fixture) {
    let source = format!("import sys\nprint(sys.stdin.read()) #{}", "x".repeat(200 << 10));
    let output = f.run(f.script(None, source).stdin(Stdin::Bytes(b"input".to_vec()))).await;
    assert_eq!(output.stdout_text(), "input\n", "{}", output.stderr_text());
}

pub(crate) async fn a_missing_program_is_not_found(f: &Fixture) {
    for name in ["no-such-program", "/no/such/program", "./no-such-program", "/etc/passwd/x"] {
        let error = f.refused(f.argv([name, "argument"])).await;
        assert_eq!(error.kind(), ErrorKind::CommandNotFound, "{error:?}");
        assert_eq!(error.to_string(), format!("`{name}` was not found"));
    }
}

pub(crate) async fn a_missing_program_in_a_shell_is_127(f: &Fixture) {
    assert_eq!(f.run(f.shell("no-such-program")).await.exit_code(), Some(127));
}

pub(crate) async fn a_missing_interpreter_is_not_found(f: &Fixture) {
    let file = f.file("script", "#!/no/such/interpreter\n", 0o755);
    let error = f.refused(f.share(f.argv([text(&file)]))).await;
    assert_eq!(error.kind(), ErrorKind::CommandNotFound, "{error:?}");
    assert!(error.remedy().unwrap().contains("interpreter"), "{error:?}");
}

pub(crate) async fn what_is_no_program_is_not_executable(f: &Fixture) {
    let plain = f.file("plain", "#!/bin/sh\n", 0o644);
    let wrong = f.file("wrong", b"\x7fELF\x02\x01\x01 of another machine", 0o755);
    let text_only = f.file("text", "echo without a first line\n", 0o755);
    for path in [text(&plain), text(&wrong), text(&text_only), text(f.directory()), "/usr"] {
        let error = f.refused(f.share(f.argv([path]))).await;
        assert_eq!(error.kind(), ErrorKind::CommandNotExecutable, "{path}: {error:?}");
        assert!(error.to_string().contains(&format!("`{path}`")), "{error:?}");
    }
}

pub(crate) async fn a_forbidden_entry_does_not_end_the_search(f: &Fixture) {
    f.file("first/tool", "#!/bin/sh\n", 0o644);
    f.file("second/tool", "#!/bin/sh\necho found\n", 0o755);
    let directory = text(f.directory());
    let path = format!("/etc/passwd:{directory}/none:{directory}/first:{directory}/second");
    let output = f.run(f.share(f.argv(["tool"])).env("PATH", path)).await;
    assert_eq!(output.stdout_text(), "found\n");
}

pub(crate) async fn a_forbidden_entry_alone_is_the_reason(f: &Fixture) {
    f.file("first/tool", "#!/bin/sh\n", 0o644);
    let directory = text(f.directory());
    for path in [format!("{directory}/first:/usr/bin"), format!("/usr/bin:{directory}/first")] {
        let error = f.refused(f.share(f.argv(["tool"])).env("PATH", path)).await;
        assert_eq!(error.kind(), ErrorKind::CommandNotExecutable, "{error:?}");
    }
}

pub(crate) async fn what_cannot_be_meant_is_refused(f: &Fixture) {
    let touch = format!("touch {}/marker", text(f.directory()));
    for exec in [
        f.shell(""),
        f.shell(" \n"),
        f.shell(format!("{touch}\0")),
        f.script(None, ""),
        f.of(Command::Argv(Vec::new())),
        f.argv(["", "x"]),
        f.argv(["touch", "a\0b"]),
        f.shell(touch.as_str()).timeout(std::time::Duration::ZERO),
    ] {
        let error = f.refused(f.share(exec)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
    }
    assert!(!f.directory().join("marker").exists());
}

pub(crate) async fn too_large_arguments_are_refused(f: &Fixture) {
    let long = "x".repeat(256 << 10);
    let error = f.refused(f.argv(["true", &long])).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
    assert!(error.remedy().unwrap().contains("standard input"), "{error:?}");
}

/// Descriptors that are not closed on `execve`, as careless libraries open them.
pub(crate) async fn the_command_has_no_descriptors_of_the_host(f: &Fixture) {
    let file = std::fs::File::open("/dev/zero").unwrap();
    let careless = rustix::io::dup(&file).unwrap();
    assert!(careless.as_raw_fd() > 2);
    let exec: Exec = f.shell("ls /proc/$$/fd; :");
    assert_eq!(f.run(exec).await.stdout_text(), "0\n1\n2\n");
}
