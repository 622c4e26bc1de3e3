//! What the exit code says.

use crate::support::Place;

#[test]
fn the_code_of_the_command_is_passed_on() {
    for code in [0, 1, 2, 77, 124, 125, 255] {
        Place::new().run(&["exec", &format!("exit {code}")]).code(code).prints("");
    }
}

#[test]
fn a_signal_is_128_and_its_number() {
    Place::new().run(&["exec", "kill -9 $$"]).code(137).prints("");
    Place::new().run(&["exec", "kill -15 $$"]).code(143).prints("");
}

#[test]
fn a_timeout_is_124_and_keeps_the_output() {
    let ran = Place::new().run(&["exec", "-t", "200ms", "echo before; sleep 30"]).code(124);
    assert_eq!(ran.stdout, "before\n");
    assert_eq!(ran.stderr, "openbrain: timed out after 200ms\n");
}

#[test]
fn quiet_says_nothing_about_a_timeout() {
    Place::new().run(&["exec", "-q", "-t", "0.2", "sleep 30"]).code(124).prints("");
}

#[test]
fn a_timeout_ends_us_though_nobody_reads() {
    let place = Place::new();
    let going = place.start(&["exec", "-t", "300ms", "yes"]);
    assert_eq!(going.end_unread(), Some(124));
}

#[test]
fn a_program_that_is_missing_is_127() {
    Place::new().run(&["exec", "--", "no-such-program"]).code(127).complains("no-such-program");
}

#[test]
fn a_program_that_cannot_be_executed_is_126() {
    Place::new().run(&["exec", "--", "/etc/passwd"]).code(126).complains("/etc/passwd");
}

#[test]
fn help_and_version_succeed() {
    for args in [&["--help"][..], &["--version"], &["exec", "--help"], &["exec", "-h"]] {
        let ran = Place::new().run(args).code(0);
        assert!(ran.stdout.contains("openbrain") && ran.stderr.is_empty(), "{ran:#?}");
    }
}

#[test]
fn no_subcommand_shows_the_help() {
    let ran = Place::new().run(&[]).code(125);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("Usage: openbrain"), "{ran:#?}");
}
