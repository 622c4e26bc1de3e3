//! Faults on the way to a server, and through it to an agent.

use std::time::{Duration, Instant};

use openbrain::{Engine, Exec, Status};
use tokio::time::sleep;

use crate::{
    front::{Fault, answer},
    lab::{Lab, assert_error, python, rest, run, shell},
};

const BUSY: &str = r#"{"code":"GENERAL::BUSY","message":"too many requests"}"#;

#[test]
fn a_busy_server_is_asked_again_after_the_time_it_names() {
    run("busy", async |lab: &Lab| {
        let busy = |status| Fault::Answer(answer(status, "retry-after: 1\r\n", BUSY));
        lab.front.fault("GET", "/endpoints/", 1, busy(429));
        lab.front.fault("GET", "/endpoints/", 1, busy(503));
        lab.front.fault("DELETE", "/sandboxes/", 1, Fault::Answer(answer(502, "", BUSY)));
        let start = Instant::now();
        let output = lab.engine().run(shell("echo done")).await.unwrap();
        assert_eq!(output.stdout_text(), "done\n");
        assert_eq!(output.warnings, Vec::<String>::new());
        assert_eq!(lab.front.count("GET", "/endpoints/"), 3);
        assert_eq!(lab.front.count("DELETE", "/sandboxes/"), 2);
        assert!(start.elapsed() >= Duration::from_secs(2));
    });
}

#[test]
fn a_server_without_capacity_is_not_asked_twice_for_a_sandbox() {
    run("exhausted", async |lab: &Lab| {
        let busy = Fault::Answer(answer(429, "retry-after: 1\r\n", BUSY));
        lab.front.fault("POST", "/sandboxes", 9, busy);
        let (error, _) = lab.error(&lab.engine(), shell("true")).await;
        assert_eq!(error.code(), "resource_exhausted");
        assert!(error.retryable() && error.to_string().contains("too many requests"), "{error}");
        assert_eq!(lab.creations().len(), 1);
    });
}

#[test]
fn a_sandbox_whose_answer_was_lost_is_found_and_deleted() {
    run("lost-answer", async |lab: &Lab| {
        lab.front.fault("POST", "/sandboxes", 1, Fault::LoseAnswer);
        let (error, _) = lab.error(&lab.engine(), shell("true")).await;
        assert_eq!(error.code(), "sandbox_unavailable");
        assert!(error.to_string().contains("the connection broke"), "{error}");
        lab.front.until("DELETE", "/sandboxes/").await;
        lab.empty(Duration::from_secs(10)).await;
        assert_eq!(lab.creations().len(), 1);
    });
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    run("silence", async |lab: &Lab| {
        lab.front.fault("GET", "/endpoints/", 9, Fault::Silence);
        let mut settings = lab.settings();
        settings.security.sandbox.request_timeout = Duration::from_secs(2);
        let (error, time) = lab.error(&Engine::new(settings), shell("true")).await;
        assert_error(&error, "sandbox_unavailable", &["no answer in time", "2 s"], "");
        assert!(time < Duration::from_secs(15), "{time:?}");
    });
}

#[test]
fn a_creation_without_an_answer_is_given_up() {
    run("no-creation", async |lab: &Lab| {
        lab.front.fault("POST", "/sandboxes", 9, Fault::Silence);
        let mut settings = lab.settings();
        settings.security.sandbox.start_timeout = Duration::from_secs(2);
        let (error, time) = lab.error(&Engine::new(settings), shell("true")).await;
        assert_error(&error, "sandbox_unavailable", &["create a sandbox", "no answer in time"], "");
        assert!(time < Duration::from_secs(10), "{time:?}");
    });
}

#[test]
fn an_answer_that_stalls_in_the_middle_is_given_up() {
    run("half", async |lab: &Lab| {
        lab.front.fault("GET", "/endpoints/", 9, Fault::StallAfter(5));
        let mut settings = lab.settings();
        settings.security.sandbox.request_timeout = Duration::from_secs(2);
        let (error, time) = lab.error(&Engine::new(settings), shell("true")).await;
        assert_error(&error, "sandbox_unavailable", &["no answer in time"], "");
        assert!(time < Duration::from_secs(15), "{time:?}");
    });
}

#[test]
fn results_are_exact_one_byte_at_a_time() {
    run("trickle", async |lab: &Lab| {
        lab.front.fault("POST", "/command", 1, Fault::Trickle);
        lab.front.fault("GET", "/endpoints/", 1, Fault::Trickle);
        let output =
            lab.engine_through_server().run(shell("seq 500; seq 9 >&2; exit 3")).await.unwrap();
        let lines = |last| (1..=last).map(|i| format!("{i}\n")).collect::<String>();
        assert_eq!(output.status, Status::Exited(3));
        assert_eq!((output.stdout_text(), output.stderr_text()), (lines(500), lines(9)));
    });
}

fn stream_fault(name: &str, fault: Fault, code: &str, words: &[&str]) {
    run(name, async |lab: &Lab| {
        lab.front.fault("POST", "/command", 1, fault);
        let endless = shell("while echo line; do sleep 0.1; done");
        let (error, time) = lab.error(&lab.engine_through_server(), endless).await;
        assert_error(&error, code, words, "");
        assert!(time < Duration::from_secs(30), "{time:?}");
    });
}

#[test]
fn a_stream_through_the_server_that_is_cut_loses_the_sandbox() {
    stream_fault("wire-cut", Fault::CutAfter(1500), "sandbox_lost", &["ended without a result"]);
}

#[test]
fn a_stream_through_the_server_that_stalls_loses_the_sandbox() {
    stream_fault("wire-stall", Fault::StallAfter(1500), "sandbox_lost", &["stalled"]);
}

#[test]
fn a_page_in_place_of_the_stream_is_quoted() {
    let page = b"<html>\n\n<body>sign in</body></html>\n\n".to_vec();
    stream_fault("wire-page", Fault::Inject(page), "sandbox_unavailable", &["html"]);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let bytes =
        [b"{\"type\":\"stdout\",\"text\":\"\xff\xfe\x00\"}\n\n".to_vec(), vec![0; 64]].concat();
    stream_fault("wire-bytes", Fault::Inject(bytes), "sandbox_unavailable", &["run a command"]);
}

#[test]
fn a_stray_event_in_the_stream_is_refused() {
    let event = b"{\"type\":\"stdout\",\"text\":\"somebody else's words;\"}\n\n".to_vec();
    stream_fault("wire-stray", Fault::Inject(event), "internal", &["somebody else's words"]);
}

#[test]
fn a_huge_event_in_the_stream_is_refused() {
    let bytes = [b"{\"type\":\"stdout\",\"text\":\"".to_vec(), vec![b'x'; 20 << 20]].concat();
    stream_fault("wire-huge", Fault::Inject(bytes), "sandbox_unavailable", &["too long"]);
}

/// Who reads slowly slows the command down; nothing piles up in between and nothing is lost.
#[test]
fn a_slow_reader_holds_the_command_back() {
    const SIZE: usize = 24 << 20;
    run("slow", async |lab: &Lab| {
        let program =
            format!("import sys\nfor i in range({}): sys.stdout.write('%015d\\n' % i)", SIZE / 16);
        let process = lab.engine_through_server().spawn(python(&program)).await.unwrap();
        let mut passed = 0;
        while passed != lab.front.passed() || passed < 1 << 20 {
            passed = lab.front.passed();
            sleep(Duration::from_secs(1)).await;
        }
        assert!(passed < 16 << 20, "{passed} bytes came that nobody has read");
        let (stdout, output) = rest(process).await.unwrap();
        assert_eq!(output.status, Status::Exited(0));
        let expected: String = (0..SIZE / 16).map(|i| format!("{i:015}\n")).collect();
        assert!(stdout == expected.as_bytes(), "{} bytes came", stdout.len());
    });
}

#[test]
fn input_through_the_server_is_exact() {
    run("wire-input", async |lab: &Lab| {
        let input: Vec<u8> = (0..5_000_000u32).map(|i| (i * 13 + i / 257) as u8).collect();
        let exec: Exec = shell("cat").stdin_bytes(input.clone());
        let output = lab.engine_through_server().run(exec).await.unwrap();
        assert!(output.stdout.bytes == input, "{} bytes came back", output.stdout.total);
    });
}
