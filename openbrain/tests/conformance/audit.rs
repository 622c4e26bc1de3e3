//! The audit log, with real commands.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use openbrain::{
    Caller, Engine, ErrorKind, Event, Exec, Surface,
    audit::{End, Line, Record, Refused, Start, Status, read},
    settings::AuditedExecs,
};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::support::{Fixture, runtime, succeeds};

fn file(f: &Fixture) -> PathBuf {
    f.directory().join("state/audit.jsonl")
}

/// An engine for the requests of somebody that records them.
fn engine_for(f: &Fixture, caller: Caller) -> Engine {
    let mut settings = f.engine.settings().clone();
    settings.audit.execs = AuditedExecs::All;
    settings.audit.file = Some(file(f));
    Engine::new(settings).for_caller(caller)
}

fn engine(f: &Fixture) -> Engine {
    engine_for(f, Caller::new(Surface::Library))
}

fn records(f: &Fixture) -> Vec<Record> {
    let mut records = Vec::new();
    read(&file(f), |line| match line {
        Line::Record(record, _) => records.push(record),
        Line::Damaged { .. } => panic!("{line:?}"),
    })
    .unwrap();
    records
}

/// The records of the only command.
#[track_caller]
fn both(f: &Fixture) -> (Start, End) {
    match &records(f)[..] {
        [Record::Start(start), Record::End(end)] => ((**start).clone(), (**end).clone()),
        other => panic!("{other:?}"),
    }
}

/// Waits until the end of a command is there.
async fn end(f: &Fixture) -> End {
    while records(f).len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    both(f).1
}

pub(crate) async fn start_and_end_are_recorded(f: &Fixture) {
    let engine = engine_for(f, Caller::new(Surface::Rest).named("token"));
    let exec = f.shell("echo $TOKEN; echo error >&2; exit 3").env("TOKEN", "hunter2");
    let output = engine.run(exec.stdin_bytes("hunter3")).await.unwrap();
    assert_eq!(output.stdout_text(), "hunter2\n");
    let (start, end) = both(f);
    let request = &start.request;
    assert_eq!((request.surface, request.caller.as_deref()), (Surface::Rest, Some("token")));
    assert_eq!((&request.exec_id, &end.exec_id), (&output.exec_id, &output.exec_id));
    assert_eq!((&request.env[..], request.pid), (&["TOKEN".to_owned()][..], std::process::id()));
    assert_eq!(start.backend, output.backend);
    assert_eq!(start.policy.is_some(), request.sandbox == Some(true));
    assert!(start.timeout_seconds.is_some());
    assert_eq!((end.status, end.exit_code, end.signal), (Status::Exited, Some(3), None));
    let run = end.run.unwrap();
    assert_eq!(run.isolation, output.isolation);
    assert_eq!((run.stdout_bytes, run.stderr_bytes), (8, 6));
    assert_eq!((run.stdout_truncated, run.stderr_truncated), (Some(false), Some(false)));
    assert_eq!((run.sandbox_id, run.warnings), (output.sandbox_id, output.warnings));
    assert_eq!(run.duration_ms, output.duration.as_millis() as u64);
    let text = fs::read_to_string(file(f)).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("hunter3"), "{text}");
}

pub(crate) async fn endings_are_told_apart_in_the_log(f: &Fixture) {
    let engine = engine(f);
    let short = f.place.start() + Duration::from_millis(100);
    engine.run(f.shell("kill -9 $$")).await.unwrap();
    engine.run(f.shell("sleep 1000").timeout(short)).await.unwrap();
    let process = engine.spawn(f.shell("sleep 1000")).await.unwrap();
    process.kill();
    process.wait().await.unwrap();
    let ends: Vec<_> = records(f)
        .into_iter()
        .filter_map(|record| match record {
            Record::End(end) => Some((end.status, end.exit_code, end.signal)),
            Record::Start(_) | Record::Refused(_) => None,
        })
        .collect();
    let expected = [
        (Status::Signaled, None, Some(9)),
        (Status::TimedOut, None, None),
        (Status::Cancelled, None, None),
    ];
    assert_eq!(ends, expected);
}

pub(crate) async fn what_is_cut_is_cut_in_the_log(f: &Fixture) {
    let mut exec = f.shell("printf 12345678; printf 1234 >&2");
    exec.limits.output = Some(4);
    engine(f).run(exec).await.unwrap();
    let run = both(f).1.run.unwrap();
    assert_eq!((run.stdout_bytes, run.stderr_bytes), (8, 4));
    assert_eq!((run.stdout_truncated, run.stderr_truncated), (Some(true), Some(false)));
}

pub(crate) async fn a_refused_request_is_recorded(f: &Fixture) {
    let engine = engine_for(f, Caller::new(Surface::Mcp));
    let error = engine.run(f.shell("true").timeout(Duration::from_secs(4000))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PolicyDenied);
    let [Record::Refused(refused)] = &records(f)[..] else { panic!() };
    let Refused { request, error: recorded } = &**refused;
    assert_eq!(request.surface, Surface::Mcp);
    assert_eq!((recorded.code.as_str(), &recorded.message), ("policy_denied", &error.to_string()));
}

pub(crate) async fn what_cannot_start_is_recorded(f: &Fixture) {
    let error = engine(f).run(f.argv(["/no/such/program"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound);
    let (_, end) = both(f);
    assert_eq!((end.status, end.run), (Status::NotStarted, None));
    assert_eq!(end.error.unwrap().code, "command_not_found");
}

pub(crate) async fn nothing_runs_that_cannot_be_recorded(f: &Fixture) {
    fs::create_dir_all(file(f)).unwrap();
    let marker = f.directory().join("marker");
    let exec = f.share(f.shell("touch $DIR/marker"));
    let error = engine(f).run(exec.clone()).await.unwrap_err();
    assert!(error.remedy().unwrap().contains("`audit.file`"), "{error:?}");
    let mut settings = f.engine.settings().clone();
    settings.audit.execs = AuditedExecs::All;
    let error = Engine::new(settings).run(exec.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidSettings);
    assert!(error.remedy().unwrap().contains("`audit.file`"), "{error:?}");
    assert!(!marker.exists());
    // The same command, which nobody wants recorded.
    assert!(f.run(exec).await.success());
    assert!(marker.exists());
}

pub(crate) async fn an_end_that_cannot_be_recorded_is_a_warning(f: &Fixture) {
    let mut process =
        engine(f).spawn(f.shell("read x; echo $x").stdin(openbrain::Stdin::Pipe)).await.unwrap();
    fs::remove_file(file(f)).unwrap();
    symlink("/dev/null", file(f)).unwrap();
    drop(process.take_stdin());
    let output = process.wait().await.unwrap();
    let warning = output.warnings.last().unwrap();
    assert!(warning.contains("audit log") && warning.contains("symbolic link"), "{warning}");
}

pub(crate) async fn a_dropped_process_has_an_end_in_the_log(f: &Fixture) {
    let process = engine(f).spawn(f.shell("sleep 1000")).await.unwrap();
    let handle = process.handle();
    drop(process);
    handle.ended().await;
    let (_, end) = both(f);
    assert_eq!(end.status, Status::Cancelled);
}

pub(crate) async fn a_process_that_nobody_reads_has_an_end_in_the_log(f: &Fixture) {
    let mut process = engine(f).spawn(f.shell("echo unread")).await.unwrap();
    let recorded = end(f).await;
    let run = recorded.run.unwrap();
    assert_eq!((recorded.status, run.stdout_bytes), (Status::Exited, 0));
    assert_eq!((run.stdout_truncated, run.stderr_truncated), (None, None));
    // Reading it later adds nothing.
    let event = process.next_event().await.unwrap();
    assert!(matches!(event, Some(Event::Stdout(bytes)) if bytes == b"unread\n"));
    process.wait().await.unwrap();
    assert_eq!(records(f).len(), 2);
}

pub(crate) async fn a_dropped_runtime_leaves_an_end_in_the_log(f: &Fixture) {
    let (engine, exec) = (engine(f), f.shell("sleep 1000"));
    let process = tokio::task::spawn_blocking(move || {
        let inner = runtime();
        let process = inner.block_on(engine.spawn(exec)).unwrap();
        drop(inner);
        process
    });
    let process = process.await.unwrap();
    let (_, end) = both(f);
    assert_eq!(end.status, Status::Lost);
    assert!(end.run.is_some());
    drop(process);
    assert_eq!(records(f).len(), 2);
}

pub(crate) async fn a_start_that_is_dropped_has_an_end_in_the_log(f: &Fixture) {
    let engine = engine(f);
    for _ in 0..20 {
        let spawn = engine.spawn(f.shell("sleep 1000"));
        // Polled once: the start is on record, the command perhaps not there yet.
        let _ = tokio::time::timeout(Duration::ZERO, spawn).await;
    }
    let is_end = |record: &Record| matches!(record, Record::End(_));
    while records(f).iter().filter(|record| is_end(record)).count() < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(records(f).len(), 40);
}

pub(crate) async fn those_are_recorded_that_the_settings_name(f: &Fixture) {
    for (execs, expected) in [
        (AuditedExecs::None, [false; 4]),
        (AuditedExecs::Servers, [false, false, true, true]),
        (AuditedExecs::All, [true; 4]),
    ] {
        let surfaces = [Surface::Library, Surface::Cli, Surface::Rest, Surface::Mcp];
        for (surface, expected) in surfaces.into_iter().zip(expected) {
            let mut settings = f.engine.settings().clone();
            settings.audit.execs = execs;
            settings.audit.file = Some(file(f));
            let engine = Engine::new(settings).for_caller(Caller::new(surface));
            // Nothing is run, whoever asks.
            engine.run(Exec::new("")).await.unwrap_err();
            assert_eq!(records(f).len(), usize::from(expected), "{execs:?} {surface:?}");
            let _ = fs::remove_file(file(f));
        }
    }
}

/// Half a record would damage the next one, and a full disk must not be the end of the log.
pub(crate) async fn a_record_without_room_leaves_nothing(f: &Fixture) {
    if !f.is_own_process() {
        // The kernel's own way to say that a file becomes too long is a signal.
        return succeeds(f.own_process_that_ignores("SIGXFSZ")).await;
    }
    let engine = engine(f);
    engine.run(f.shell("true")).await.unwrap();
    let before = fs::read(file(f)).unwrap();
    let room = |bytes| {
        let limit = Rlimit { current: bytes, maximum: None };
        setrlimit(Resource::Fsize, limit).unwrap();
    };
    for more in [0, 1, 100] {
        room(Some(before.len() as u64 + more));
        let error = engine.run(f.shell("true")).await.unwrap_err();
        assert!(error.to_string().contains("audit log"), "{error}");
        assert_eq!(fs::read(file(f)).unwrap(), before, "{more} bytes of room");
    }
    room(None);
    engine.run(f.shell("true")).await.unwrap();
    assert_eq!(records(f).len(), 4);
}
