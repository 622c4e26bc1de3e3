//! Standard input: the program, the input of the program, or nothing.

use crate::support::{Place, Ran, installed, openbrain};

#[test]
fn a_command_reads_our_stdin() {
    Place::new().run_with(&["exec", "cat"], "in\n").code(0).prints("in\n");
    Place::new().run_with(&["exec", "--stdin", "-", "cat"], "in\n").code(0).prints("in\n");
}

#[test]
fn without_stdin_a_loop_keeps_its_lines() {
    let place = Place::new();
    let mut shell = std::process::Command::new("sh");
    place.surround(&mut shell);
    shell.arg("-c").arg(r#"while read -r line; do "$0" exec -n "cat; echo $line"; done"#);
    shell.arg(openbrain()).stdin(std::process::Stdio::piped());
    Ran::of(shell, b"1\n2\n3\n").code(0).prints("1\n2\n3\n");
}

#[test]
fn a_file_can_be_the_input() {
    let place = Place::new();
    place.file("input", "from the file\n");
    let ran = place.run_with(&["exec", "--stdin", "input", "cat"], "not this");
    ran.code(0).prints("from the file\n");
}

#[test]
fn a_shebang_decides_the_language() {
    let program = "#!/bin/sh\necho \"from $0\" | cut -c1-4\n";
    Place::new().run_with(&["exec"], program).code(0).prints("from\n");
    Place::new().run_with(&["exec", "-"], program).code(0).prints("from\n");
    Place::new().run_with(&["exec", "-f", "-"], program).code(0).prints("from\n");
}

#[test]
fn a_named_language_decides() {
    Place::new().run_with(&["exec", "--lang", "sh"], "echo $((1+1))").code(0).prints("2\n");
    Place::new().run(&["exec", "--lang", "sh", "echo $((1+1))"]).code(0).prints("2\n");
}

#[test]
fn a_program_from_stdin_has_nothing_to_read() {
    Place::new().run_with(&["exec", "--lang", "sh"], "cat\necho end\n").code(0).prints("end\n");
}

#[test]
fn a_program_from_a_file_reads_our_stdin() {
    let place = Place::new();
    place.file("program.sh", "cat; echo end\n");
    place.run_with(&["exec", "--file", "program.sh"], "in\n").code(0).prints("in\nend\n");
}

#[test]
fn the_extension_of_a_file_tells_the_language() {
    let place = Place::new();
    let extensions = [
        ("sh", "/bin/sh", "echo 3"),
        ("py", "python3", "print(3)"),
        ("pl", "perl", "print \"3\\n\""),
    ];
    for (extension, program, source) in extensions {
        if program.starts_with('/') || installed(program) {
            let name = format!("program.{extension}");
            place.file(&name, source);
            place.run(&["exec", "-f", &name]).code(0).prints("3\n");
        }
    }
}

#[test]
fn a_large_program_runs() {
    let program = format!("#!/bin/sh\n#{}\necho end\n", "x".repeat(200 << 10));
    Place::new().run_with(&["exec"], program).code(0).prints("end\n");
}

#[test]
fn a_large_command_runs() {
    // One argument of ours has at most 128 KiB, so the shell's own limit is not met before.
    let script = format!(": {}\necho end", "x".repeat(120 << 10));
    Place::new().run(&["exec", &script]).code(0).prints("end\n");
}

#[test]
fn input_that_nobody_reads_is_no_failure() {
    let input = vec![b'x'; 10 << 20];
    Place::new().run_with(&["exec", "true"], input).code(0).prints("");
}

#[test]
fn large_input_comes_back_unchanged() {
    let input = "0123456789abcde\n".repeat(64 << 10);
    let ran = Place::new().run_with(&["exec", "cat"], &input).code(0);
    assert!(ran.stdout == input, "{} bytes of {}", ran.stdout.len(), input.len());
}

#[test]
fn no_command_and_no_program_is_an_error() {
    Place::new().run(&["exec"]).code(125).complains("no command was given");
    Place::new().run_with(&["exec", "-"], " \n").code(125).complains("no program");
}
