//! Agents of every release, and agents that fail.

use std::time::Duration;

use openbrain::{Command, Engine, Status};

use crate::lab::{Lab, assert_error, python, run, shell};

/// How long an agent waits after the terminal event, and how much sooner every run must be over.
const TAIL: Duration = Duration::from_secs(30);
const WITHOUT_TAIL: Duration = Duration::from_secs(20);

/// Everything that gets lost on the way when somebody is careless.
const EVERYTHING: &str = r#"
import sys
out, err = sys.stdout.buffer, sys.stderr.buffer
out.write(bytes(range(256)) + b"\n\n\r\n\r\ra\rb\n\n" + "\u2028\u2029\u0085".encode())
out.write(b"x" * (1 << 20) + b"\n" + b"\xff" * 3 + b"\n\n\n")
err.write(bytes(range(255, -1, -1)) + b"\n\r\n" + b"e" * (1 << 20) + b"no newline")
sys.exit(7)
"#;

fn everything() -> (Vec<u8>, Vec<u8>) {
    let mut out: Vec<u8> = (0..=255).collect();
    out.extend(b"\n\n\r\n\r\ra\rb\n\n");
    out.extend("\u{2028}\u{2029}\u{85}".as_bytes());
    out.extend(std::iter::repeat_n(b'x', 1 << 20));
    out.extend(b"\n\xff\xff\xff\n\n\n");
    let mut err: Vec<u8> = (0..=255).rev().collect();
    err.extend(b"\n\r\n");
    err.extend(std::iter::repeat_n(b'e', 1 << 20));
    err.extend(b"no newline");
    (out, err)
}

/// Checks that results are exact with an agent that has these variables, and that nothing waits for
/// its tail.
fn exact(name: &str, variables: &[(&str, &str)]) {
    run(name, async |lab: &Lab| {
        for (name, value) in variables {
            lab.front.variable(name, value);
        }
        lab.front.variable("AGENT_TAIL_MS", TAIL.as_millis());
        let engine = lab.engine();
        let all = async { tokio::join!(streams(&engine), endings(&engine), input(&engine)) };
        tokio::time::timeout(WITHOUT_TAIL, all).await.expect("nothing waits for the tail");
    });
}

async fn streams(engine: &Engine) {
    let output = engine.run(python(EVERYTHING)).await.unwrap();
    let (stdout, stderr) = everything();
    assert_eq!(output.status, Status::Exited(7));
    assert!(output.stdout.bytes == stdout, "standard output is {} bytes", output.stdout.total);
    assert!(output.stderr.bytes == stderr, "standard error is {} bytes", output.stderr.total);
    assert_eq!(output.warnings, Vec::<String>::new());
}

async fn endings(engine: &Engine) {
    let output = engine.run(shell("echo a; echo b >&2; kill -SEGV $$")).await.unwrap();
    assert_eq!(output.status, Status::Signaled(11));
    assert_eq!((output.stdout.bytes, output.stderr.bytes), (b"a\n".to_vec(), b"b\n".to_vec()));
    let late = shell("printf before; exec sleep 100").timeout(Duration::from_secs(1));
    let output = engine.run(late).await.unwrap();
    assert_eq!((output.status, output.stdout.bytes), (Status::TimedOut, b"before".to_vec()));
}

async fn input(engine: &Engine) {
    let input: Vec<u8> = (0..5_000_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let output = engine.run(shell("cat").stdin_bytes(input.clone())).await.unwrap();
    assert_eq!(output.status, Status::Exited(0));
    assert!(output.stdout.bytes == input, "{} bytes came back", output.stdout.total);
}

#[test]
fn results_are_exact_by_the_newer_contract() {
    exact("newer", &[]);
}

#[test]
fn results_are_exact_by_the_older_contract() {
    exact("older", &[("AGENT_CONTRACT", "old")]);
}

#[test]
fn results_are_exact_in_server_sent_events() {
    exact("newer-sse", &[("AGENT_SSE", "1"), ("AGENT_DUP", "1")]);
}

#[test]
fn results_are_exact_by_the_older_contract_in_server_sent_events() {
    exact("older-sse", &[("AGENT_CONTRACT", "old"), ("AGENT_SSE", "1")]);
}

#[test]
fn results_are_exact_when_streams_end_unclean_and_without_a_terminal_event() {
    let variables = [("AGENT_UNCLEAN_END", "1"), ("AGENT_NO_TERMINAL", "1")];
    exact("unclean", &variables);
}

#[test]
fn an_agent_that_is_late_is_waited_for() {
    run("late", async |lab: &Lab| {
        lab.front.variable("AGENT_READY_DELAY_MS", 2500);
        let output = lab.engine().run(shell("echo here")).await.unwrap();
        assert_eq!(output.stdout_text(), "here\n");
    });
}

#[test]
fn an_agent_that_never_answers_is_given_up() {
    run("never", async |lab: &Lab| {
        lab.front.variable("AGENT_NEVER_READY", 1);
        let mut settings = lab.settings();
        settings.security.sandbox.start_timeout = Duration::from_secs(4);
        let (error, time) = lab.error(&Engine::new(settings), shell("true")).await;
        assert_error(&error, "sandbox_unavailable", &["never became ready"], "use_server_proxy");
        assert!(time < Duration::from_secs(15), "{time:?}");
    });
}

#[test]
fn an_agent_that_refuses_to_work_is_told_of() {
    run("refuses", async |lab: &Lab| {
        lab.front.variable("AGENT_FAIL_FIRST", "100:503");
        let (error, time) = lab.error(&lab.engine(), shell("true")).await;
        assert_eq!(error.code(), "sandbox_unavailable", "{error}");
        assert!(error.to_string().contains("told to fail"), "{error}");
        assert!(time < Duration::from_secs(15), "{time:?}");
    });
}

/// A command's error with an agent that has this variable, which must come in time.
fn fails(name: &str, variable: (&str, &str), code: &str, words: &[&str]) {
    run(name, async |lab: &Lab| {
        lab.front.variable(variable.0, variable.1);
        // Output without end: nothing that comes late can save it.
        let (error, time) =
            lab.error(&lab.engine(), shell("while echo line; do sleep 0.1; done")).await;
        assert_error(&error, code, words, "");
        assert!(time < Duration::from_secs(30), "{time:?}");
    });
}

#[test]
fn a_stream_that_is_cut_in_an_event_loses_the_sandbox() {
    fails(
        "cut",
        ("AGENT_CUT_AFTER", "1111"),
        "sandbox_lost",
        &["ended without a result", "into an event"],
    );
}

#[test]
fn a_stream_that_stalls_loses_the_sandbox() {
    fails("stall", ("AGENT_STALL_AFTER", "8"), "sandbox_lost", &["stalled", "15 s"]);
}

#[test]
fn garbage_is_quoted() {
    fails("garbage", ("AGENT_GARBAGE", "1"), "sandbox_unavailable", &["garbage"]);
}

#[test]
fn output_that_is_from_nobody_is_refused() {
    fails("huge", ("AGENT_HUGE", "100000"), "internal", &["not from openbrain's helper", "xxxx"]);
}

#[test]
fn an_event_without_end_is_refused() {
    fails("endless", ("AGENT_HUGE", "40000000"), "sandbox_unavailable", &["too long"]);
}

/// Where openbrain's helper cannot run, the agent's own words are all there is, and the result says so.
fn plain(name: &str, contract: &str, is_exact: bool) {
    run(name, async |lab: &Lab| {
        lab.front.variable("AGENT_NO_MODES", "1");
        lab.front.variable("AGENT_CONTRACT", contract);
        let engine = lab.engine();
        let script = "cat; echo one; echo; echo \"$MINE\"; pwd; echo err >&2; exit 3";
        let exec = shell(script).stdin_bytes("in\n").env("MINE", "it's");
        let output = engine.run(exec).await.unwrap();
        assert_eq!(output.status, Status::Exited(3));
        assert_eq!(output.stdout_text(), "in\none\n\nit's\n/workspace\n");
        assert_eq!(output.stderr_text(), "err\n");
        assert!(output.warnings[0].contains("cannot run openbrain's helper"), "{output:?}");
        let lossy = output.warnings.iter().any(|warning| warning.contains("may have been lost"));
        assert_eq!(lossy, !is_exact, "{:?}", output.warnings);
        let output = engine.run(shell("kill -SEGV $$")).await.unwrap();
        assert_eq!(output.status, Status::Signaled(11));
        let late = shell("echo so far; sleep 1000").timeout(Duration::from_millis(500));
        let output = engine.run(late).await.unwrap();
        assert_eq!((output.status, output.stdout_text().as_str()), (Status::TimedOut, "so far\n"));
        for length in [120 << 10, 200 << 10] {
            let long = format!("print(len('{}'))", "x".repeat(length));
            let command = Command::Script { language: None, source: long };
            let output = engine.run(openbrain::Exec::of(command).sandbox()).await.unwrap();
            assert_eq!(output.stdout_text(), format!("{length}\n"));
        }
        let (error, _) = lab.error(&engine, shell("cat").stdin(openbrain::Stdin::Pipe)).await;
        assert_error(&error, "sandbox_unavailable", &["live input"], "architecture");
    });
}

#[test]
fn without_the_helper_a_newer_agents_words_are_kept() {
    plain("plain-new", "new", true);
}

#[test]
fn without_the_helper_an_older_agents_lines_are_restored() {
    plain("plain-old", "old", false);
}
