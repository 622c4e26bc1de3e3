//! Input that cannot be meant: each case has its message, and never a hang or a panic.

use crate::support::Place;

#[test]
fn bad_command_lines_are_explained() {
    let cases: &[(&[&str], &str)] = &[
        (&["--sandbx", "ls"], "a similar argument exists: '--sandbox'"),
        (&["--timeot", "3", "ls"], "a similar argument exists: '--timeout'"),
        (&["--sandbox", "--direct", "ls"], "cannot be used with"),
        (&["-n", "--stdin", "x", "ls"], "cannot be used with"),
        (&["--allow-network", "ls"], "did you mean `--allow-network true`?"),
        (&["--allow-network", "ture", "ls"], "did you mean `--allow-network true`?"),
        (&["--allow-network", "--sandbox", "ls"], "did you mean `--allow-network true`?"),
        (&["--allow-network"], "a value is required"),
        (&["--sandbox", "--allow-port", "0", "ls"], "a number from 1 to 65535"),
        (&["--sandbox", "--allow-port", "https", "ls"], "a number from 1 to 65535"),
        (&["--sandbox", "--allow-domain", "https://a.b", "ls"], "write `example.com`"),
        (&["--sandbox", "--allow-host", "a b", "ls"], "write `10.0.0.5:5432`"),
        (&["--sandbox", "--allow-host", "localhost", "ls"], "needs a port"),
        (&["--sandbox", "--no-network", "--allow-port", "80", "ls"], "forbids the network"),
        (&["--timeout", "0", "ls"], "not a timeout between 1 ms and 365 days"),
        (&["--timeout", "-1", "ls"], "not a timeout between 1 ms and 365 days"),
        (&["--timeout", "1e300", "ls"], "not a timeout between 1 ms and 365 days"),
        (&["--timeout", "ten", "ls"], "give seconds, or a number with a unit"),
        (&["--memory", "lots", "ls"], "is not a size"),
        (&["--memory", "1k", "ls"], "below the least"),
        (&["--pids", "-1", "ls"], "--pids"),
        (&["--cpus", "-1", "ls"], "not between 0.01 and 4096"),
        (&["--lang", "pyton", "x"], "known languages are python"),
        (&["--lang", "sh", "--", "ls", "-l"], "`--lang` needs one script"),
        (&["--mount", "", "ls"], "--mount"),
        (&["--mount", "/x:relative", "ls"], "write SRC:DST with an absolute DST"),
        (&["--mount", "/:/x:rx", "ls"], "use rw, ro or overlay"),
        (&["--runtime", "docker", "--sandbox", "ls"], "--runtime"),
        (&["--server-url", "no url", "--sandbox", "ls"], "--server-url"),
        (&["--config", "missing.yaml", "ls"], "missing.yaml"),
        (&["-f", "missing.py"], "cannot read the program `missing.py`"),
        (&["-f", "x.py", "ls"], "cannot be used with"),
        (&["--stdin", "missing", "cat"], "missing"),
        (&["-w", "missing", "ls"], "missing"),
        (&[""], "the command is empty"),
        (&[" \n"], "the command is empty"),
        (&["--", ""], "the command is empty"),
    ];
    for (args, complaint) in cases {
        let args = [&["exec"], *args].concat();
        Place::new().run(&args).code(125).complains(complaint);
    }
}

#[test]
fn what_only_a_sandbox_gives_needs_a_sandbox() {
    for flag in [
        ["--mount", "/tmp"],
        ["--expose", "/opt"],
        ["--allow-network", "false"],
        ["--allow-port", "80"],
        ["--allow-domain", "a.example"],
        ["--allow-host", "10.0.0.1"],
    ] {
        let ran = Place::new().run(&["exec", flag[0], flag[1], "ls"]).code(125);
        ran.complains("--sandbox");
    }
}

#[test]
fn a_missing_mount_is_named() {
    let ran = Place::new().run(&["exec", "--sandbox", "--mount", "/no/such/dir", "ls"]).code(125);
    if crate::support::sandboxes() {
        ran.complains("/no/such/dir");
    }
}

#[test]
fn a_nul_byte_in_a_program_is_refused() {
    Place::new().run_with(&["exec"], "a\0b").code(125).complains("NUL byte");
}

#[test]
fn a_program_that_is_no_text_is_refused() {
    Place::new().run_with(&["exec"], b"\xff\xfe").code(125).complains("cannot read a program");
}

#[test]
fn stdin_cannot_be_program_and_input() {
    let ran = Place::new().run_with(&["exec", "--stdin", "-", "-"], "print(1)").code(125);
    ran.complains("cannot be both the program and its input");
}
