//! What a command prints, collected and live.

use std::time::Duration;

use openbrain::{
    Captured, Data, Engine, ErrorKind, Event, Exec, Limits, Output, Process, RecordKind, Recorder,
    Settings, Status, Stdin,
};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::support::{Fixture, UP, until};

const BLOCK: usize = 64 * 1024;

pub(crate) async fn both_streams_are_apart_and_complete(f: &Fixture) {
    let script = "i=0; while [ $i -lt 2000 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done";
    let output = f.run(f.shell(script)).await;
    let lines = |word: &str| (0..2000).map(|i| format!("{word}{i}\n")).collect::<String>();
    assert!(output.stdout_text() == lines("out"));
    assert!(output.stderr_text() == lines("err"));
}

pub(crate) async fn bytes_are_exact(f: &Fixture) {
    let all: Vec<u8> = (0..=255).collect();
    let octal: String = all.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let output = f.run(f.shell(format!("printf '{octal}'; printf '{octal}' >&2"))).await;
    let whole = Captured { bytes: all, truncated: false, total: 256 };
    assert_eq!((output.stdout, output.stderr), (whole.clone(), whole));
}

pub(crate) async fn nothing_is_added_to_the_last_line(f: &Fixture) {
    let output = f.run(f.shell("printf 'a\\rb\\r\\nc'; printf '\\n\\n' >&2")).await;
    assert_eq!(output.stdout_text(), "a\rb\r\nc");
    assert_eq!(output.stderr_text(), "\n\n");
}

pub(crate) async fn a_split_character_is_one_record(f: &Fixture) {
    let script = "printf '\\342\\202'; read go; printf '\\254!'";
    let mut process = f.spawn(f.shell(script).stdin(openbrain::Stdin::Pipe)).await;
    let mut stdin = process.take_stdin().unwrap();
    let mut recorder = Recorder::default();
    let event = process.next_event().await.unwrap().unwrap();
    assert!(matches!(&event, Event::Stdout(bytes) if bytes == b"\xe2\x82"), "{event:?}");
    assert!(recorder.record(event).is_empty());
    stdin.write_all(b"\n").await.unwrap();
    let records = recorder.record(process.next_event().await.unwrap().unwrap());
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.seq, 1);
    let RecordKind::Stdout(Data::Data(text)) = &record.kind else { panic!("{record:?}") };
    assert_eq!(text, "€!");
    let records = recorder.record(process.next_event().await.unwrap().unwrap());
    assert!(matches!(&records[..], [record] if matches!(record.kind, RecordKind::Ended { .. })));
}

pub(crate) async fn the_end_is_told_once(f: &Fixture) {
    let mut process = f.spawn(f.shell("exit 3")).await;
    let end = process.next_event().await.unwrap();
    assert!(matches!(&end, Some(Event::Ended(output)) if output.exit_code() == Some(3)), "{end:?}");
    assert!(process.next_event().await.unwrap().is_none());
    assert_eq!(process.wait().await.unwrap_err().kind(), ErrorKind::InvalidRequest);
}

pub(crate) async fn events_come_while_the_command_runs(f: &Fixture) {
    let script = "echo out; read go; echo err >&2; read go; exit 3";
    let mut process = f.spawn(f.shell(script).stdin(openbrain::Stdin::Pipe)).await;
    let mut stdin = process.take_stdin().unwrap();
    assert_eq!(until(&mut process, "\n").await, "out\n");
    stdin.write_all(b"\n").await.unwrap();
    let event = process.next_event().await.unwrap();
    assert!(matches!(&event, Some(Event::Stderr(bytes)) if bytes == b"err\n"), "{event:?}");
    stdin.write_all(b"\n").await.unwrap();
    let event = process.next_event().await.unwrap();
    let Some(Event::Ended(output)) = event else { panic!("{event:?}") };
    assert_eq!(output.status, Status::Exited(3));
    // The bytes were events; what is left is how many.
    let streamed = Captured { total: 4, ..Captured::default() };
    assert_eq!((output.stdout, output.stderr), (streamed.clone(), streamed));
    assert!(process.next_event().await.unwrap().is_none());
    assert!(process.next_event().await.unwrap().is_none());
}

/// 64 MiB of a pattern whose length is prime, so that a block that is lost or twice there shows.
pub(crate) async fn a_stream_of_any_length_takes_little_memory(f: &Fixture) {
    f.alone(async || {
        let pattern: Vec<u8> = (0..1_048_583u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        f.file("pattern", &pattern, 0o644);
        let stream = async |times: usize| {
            let script = format!("for i in $(seq {times}); do cat \"$DIR/pattern\"; done");
            let mut process = f.spawn(f.share(f.shell(&script))).await;
            let mut total = 0;
            while let Some(event) = process.next_event().await.unwrap() {
                let Event::Stdout(bytes) = event else { continue };
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let at = total % pattern.len();
                    let n = rest.len().min(pattern.len() - at);
                    assert!(rest[..n] == pattern[at..at + n], "differs after {total} bytes");
                    (total, rest) = (total + n, &rest[n..]);
                }
            }
            assert_eq!(total, times * pattern.len());
        };
        // The first one brings the code that it takes into memory.
        stream(1).await;
        let before = peak_memory();
        stream(64).await;
        let more = peak_memory() - before;
        let most = if f.place.is_on_a_server() { 16 << 20 } else { 4 << 20 };
        assert!(more < most, "{more} bytes of memory for a stream");
    })
    .await;
}

/// Largest resident set of this process so far, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn at_most(exec: Exec, bytes: u64) -> Exec {
    exec.limits(Limits { output: Some(bytes), ..Limits::default() })
}

fn cut(head: &str, missing: u64, tail: &str, total: u64) -> Captured {
    let bytes = format!("{head}\n[openbrain: {missing} bytes omitted]\n{tail}").into_bytes();
    Captured { bytes, truncated: true, total }
}

pub(crate) async fn beyond_the_limit_both_ends_are_kept(f: &Fixture) {
    let script = "printf AAAAA; head -c 3000000 /dev/zero; printf ZZZZ; exit 3";
    let output = f.run(at_most(f.shell(script), 9)).await;
    assert_eq!(output.stdout, cut("AAAAA", 3_000_000, "ZZZZ", 3_000_009));
    assert_eq!(output.status, Status::Exited(3));
    let output = f.run(at_most(f.shell("printf 12345"), 4)).await;
    assert_eq!(output.stdout, cut("12", 1, "45", 5));
}

pub(crate) async fn at_the_limit_nothing_is_cut(f: &Fixture) {
    let output = f.run(at_most(f.shell("printf 1234"), 4)).await;
    let whole = Captured { bytes: b"1234".to_vec(), truncated: false, total: 4 };
    assert_eq!(output.stdout, whole);
}

pub(crate) async fn a_limit_of_nothing_keeps_the_count(f: &Fixture) {
    let output = f.run(at_most(f.shell("printf 1234"), 0)).await;
    assert_eq!((output.stdout, output.stderr), (cut("", 4, "", 4), Captured::default()));
}

pub(crate) async fn streams_have_a_limit_each(f: &Fixture) {
    let output = f.run(at_most(f.shell("printf 1234; printf abcde >&2"), 4)).await;
    let Output { stdout, stderr, .. } = output;
    assert_eq!((stdout.text().as_str(), stderr), ("1234", cut("ab", 1, "de", 5)));
}

pub(crate) async fn a_closed_output_is_not_the_end(f: &Fixture) {
    let mut leash = f.leash();
    let script = format!("echo last; exec >&- 2>&-; {UP}; read go; exit 3");
    let exec = leash.hold(f, f.shell(script)).stdin(openbrain::Stdin::Pipe);
    let mut process = f.spawn(exec).await;
    let mut stdin = process.take_stdin().unwrap();
    leash.up(1).await;
    assert_eq!(until(&mut process, "\n").await, "last\n");
    let (event, ()) = tokio::join!(process.next_event(), async {
        dawdle().await;
        stdin.write_all(b"\n").await.unwrap();
    });
    let Some(Event::Ended(output)) = event.unwrap() else { panic!("no end") };
    assert_eq!(output.status, Status::Exited(3));
}

/// Never is more written than was read and fits in a pipe, however long nobody reads on.
pub(crate) async fn a_slow_reader_slows_the_command(f: &Fixture) {
    let blocks = 8 * f.place.ahead() / BLOCK;
    let mut leash = f.leash();
    let script = format!(
        "{UP}; i=0; while [ $i -lt {blocks} ]; do \
         head -c {BLOCK} /dev/zero; echo written >&9; i=$((i+1)); done"
    );
    let mut process = f.spawn(leash.hold(f, f.shell(script))).await;
    leash.up(1).await;
    let mut read = 0;
    for _ in 0..4 {
        dawdle().await;
        let written = (leash.heard() - 1) * BLOCK;
        assert!(written <= read + f.place.ahead(), "{written} bytes written, {read} read");
        read += next_length(&mut process).await;
    }
    while read < blocks * BLOCK {
        read += next_length(&mut process).await;
    }
    let output = process.wait().await.unwrap();
    assert!(output.success() && output.stdout.bytes.is_empty());
}

/// Whatever standard output says, standard error is heard too.
pub(crate) async fn a_busy_output_does_not_hide_the_errors(f: &Fixture) {
    let mut process = f.spawn(f.shell("yes & echo err >&2; wait")).await;
    for _ in 0..20 {
        // Until the pipe is full again.
        dawdle().await;
        match process.next_event().await.unwrap() {
            Some(Event::Stdout(_)) => {}
            Some(Event::Stderr(bytes)) => return assert_eq!(bytes, b"err\n"),
            other => panic!("{other:?}"),
        }
    }
    panic!("standard error was not heard");
}

async fn next_length(process: &mut Process) -> usize {
    match process.next_event().await.unwrap() {
        Some(Event::Stdout(bytes)) => bytes.len(),
        other => panic!("{other:?}"),
    }
}

/// Lets other commands run, from start to end: time in which a command could do much.
pub(crate) async fn dawdle() {
    let engine = Engine::new(Settings::default());
    for _ in 0..3 {
        let exec = Exec::new("head -c 1048576 /dev/zero | tail -c 1").direct();
        engine.run(exec).await.unwrap();
    }
}

pub(crate) async fn output_is_waited_for_and_still_delivered(f: &Fixture) {
    let script = "printf 'on the '; echo errors >&2; printf 'way: rea'; sleep 0.1; echo dy; \
                  echo and more; echo ready again; read line; echo \"$line\"";
    let mut process = f.spawn(f.shell(script).stdin(Stdin::Pipe)).await;
    assert!(process.wait_for_output("ready\n").await.unwrap());
    assert!(process.wait_for_output("errors").await.unwrap());
    assert!(process.wait_for_output("ready").await.unwrap());
    // What was given up waiting for can be waited for again.
    let never = process.wait_for_output("never");
    assert!(timeout(Duration::from_millis(100), never).await.is_err());
    process.take_stdin().unwrap().write_all(b"typed\n").await.unwrap();
    assert!(process.wait_for_output("typed").await.unwrap());
    assert!(!process.wait_for_output("typed").await.unwrap());
    assert!(!process.wait_for_output("never").await.unwrap());
    let output = process.wait().await.unwrap();
    assert_eq!(output.stdout_text(), "on the way: ready\nand more\nready again\ntyped\n");
    assert_eq!((output.stderr_text().as_str(), output.exit_code()), ("errors\n", Some(0)));
}

pub(crate) async fn output_that_does_not_come_is_not_waited_for_without_bound(f: &Fixture) {
    let mut process = f.spawn(f.shell("yes")).await;
    let error = process.wait_for_output("never").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitFailed, "{error}");
    assert!(error.remedy().is_some());
    for silly in [&b""[..], &[b'x'; 5000]] {
        let error = process.wait_for_output(silly).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
    // It reads as if nobody had waited.
    let mut said = 0;
    while said < 9 << 20 {
        match process.next_event().await.unwrap() {
            Some(Event::Stdout(bytes)) => {
                let expected = [b"y\n", b"\ny"][said % 2];
                assert!(bytes.chunks(2).all(|pair| expected.starts_with(pair)));
                said += bytes.len();
            }
            other => panic!("{other:?}"),
        }
    }
}
