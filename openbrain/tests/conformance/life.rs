//! The life of a sandbox that stays open, as those who wait for its end see it, and as the audit log
//! does; and its files in pieces.

use std::{io, time::Duration};

use openbrain::{
    Caller, Engine, ErrorKind, Exec, FileKind, NewSandbox, Sandbox, SessionEnd, Surface,
    WriteOptions,
    audit::{End, Line, Record, Start, Status, read},
    settings::AuditedExecs,
};

use crate::support::Fixture;

const LONG: Duration = Duration::from_secs(1000);

pub(crate) async fn the_end_of_a_sandbox_is_told(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default().timeout(LONG)).await;
    let orders = async {
        // Orders are answered while somebody waits for the end.
        sandbox.pause().await.unwrap();
        sandbox.resume().await.unwrap();
        sandbox.renew(LONG).await.unwrap();
        assert!(sandbox.run(Exec::new("true")).await.unwrap().success());
        sandbox.renew(Duration::from_millis(50)).await.unwrap();
    };
    let (one, other, ()) = tokio::join!(sandbox.ended(), sandbox.ended(), orders);
    assert_eq!([one, other, sandbox.ended().await], [SessionEnd::Expired; 3]);
    let sandbox = f.create(NewSandbox::default()).await;
    let kill = async { sandbox.kill().await.unwrap() };
    assert_eq!(tokio::join!(sandbox.ended(), kill).0, SessionEnd::Killed);
    assert_eq!(sandbox.ended().await, SessionEnd::Killed);
}

pub(crate) async fn the_time_that_is_left_is_told(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default().timeout(LONG)).await;
    let left = || sandbox.expires_at().elapsed().unwrap_err().duration();
    assert!((LONG - left()).as_secs() < 60, "{:?}", left());
    sandbox.renew(LONG * 2).await.unwrap();
    assert!((LONG * 2 - left()).as_secs() < 60, "{:?}", left());
}

/// An engine for a caller of the REST server, whose log is of its own.
fn recording(f: &Fixture) -> Engine {
    let mut settings = f.engine.settings().clone();
    settings.audit.execs = AuditedExecs::All;
    settings.audit.file = Some(f.directory().join("state/audit.jsonl"));
    Engine::new(settings).for_caller(Caller::new(Surface::Rest).named("uid:7"))
}

fn records(f: &Fixture) -> Vec<Record> {
    let mut records = Vec::new();
    let file = f.directory().join("state/audit.jsonl");
    read(&file, |line| match line {
        Line::Record(record, _) => records.push(record),
        Line::Damaged { .. } => panic!("{line:?}"),
    })
    .unwrap();
    records
}

/// The records of the sandbox alone, without those of its commands.
#[track_caller]
fn both(f: &Fixture, sandbox_id: &str) -> (Start, End) {
    let records = records(f);
    let end = records.iter().find_map(|record| match record {
        Record::End(end) if end.run.as_ref()?.sandbox_id.as_deref() == Some(sandbox_id) => {
            Some(end)
        }
        _ => None,
    });
    let end = end.unwrap_or_else(|| panic!("no end in {records:?}"));
    let start = records.iter().find_map(|record| match record {
        Record::Start(start) if start.request.exec_id == end.exec_id => Some(start),
        _ => None,
    });
    ((**start.unwrap()).clone(), (**end).clone())
}

pub(crate) async fn the_life_of_a_sandbox_is_recorded(f: &Fixture) {
    let engine = recording(f);
    let create = async |new: NewSandbox| engine.create(new).await.unwrap();
    let new = NewSandbox::default().name("mine").label("a", "b").env("TOKEN", "hunter2");
    let sandbox = create(new.timeout(LONG)).await;
    let id = sandbox.id().to_owned();
    let Record::Start(start) = &records(f)[0] else { panic!() };
    assert_eq!(records(f).len(), 1);
    let (request, opens) = (&start.request, start.request.opens.as_ref().unwrap());
    assert_eq!((request.surface, request.caller.as_deref()), (Surface::Rest, Some("uid:7")));
    assert_eq!((&request.command, &request.env[..]), (&None, &["TOKEN".to_owned()][..]));
    assert_eq!((opens.name.as_deref(), opens.labels["a"].as_str()), (Some("mine"), "b"));
    assert_eq!((start.backend, start.timeout_seconds), (sandbox.backend(), Some(1000.0)));
    assert!(start.policy.is_some());
    sandbox.kill().await.unwrap();
    let (_, end) = both(f, &id);
    assert_eq!((end.status, end.error), (Status::Cancelled, None));
    let again = records(f).len();
    sandbox.kill().await.unwrap();
    drop(sandbox);
    assert_eq!(records(f).len(), again, "an end is recorded once");

    let sandbox = create(NewSandbox::default().timeout(LONG)).await;
    sandbox.renew(Duration::from_millis(50)).await.unwrap();
    sandbox.ended().await;
    assert_eq!(both(f, sandbox.id()).1.status, Status::TimedOut);
    let sandbox = create(NewSandbox::default()).await;
    let id = sandbox.id().to_owned();
    drop(sandbox);
    assert_eq!(both(f, &id).1.status, Status::Cancelled);

    let error = engine.create(NewSandbox::default().mount("/etc")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PolicyDenied);
    let records = records(f);
    let Some(Record::Refused(refused)) = records.last() else { panic!("{records:?}") };
    assert_eq!((refused.error.code.as_str(), &refused.request.command), ("policy_denied", &None));
    let text = std::fs::read_to_string(f.directory().join("state/audit.jsonl")).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
}

pub(crate) async fn a_remote_caller_renews_within_the_settings(f: &Fixture) {
    let mut settings = f.engine.settings().clone();
    settings.server.max_timeout = Duration::from_secs(600);
    settings.audit.execs = AuditedExecs::None;
    let engine = Engine::new(settings).for_caller(Caller::new(Surface::Mcp));
    let sandbox = engine.create(NewSandbox::default()).await.unwrap();
    sandbox.renew(Duration::from_secs(600)).await.unwrap();
    let error = sandbox.renew(Duration::from_secs(601)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{error}");
    assert!(error.remedy().unwrap().contains("server.max_timeout_seconds"));
}

/// Work on files has the time of any command.
pub(crate) async fn work_that_takes_too_long_names_the_setting(f: &Fixture) {
    let mut settings = f.engine.settings().clone();
    settings.security.sandbox.timeout = Duration::from_millis(500);
    let sandbox = Engine::new(settings).create(NewSandbox::default().timeout(LONG)).await.unwrap();
    let mut writer = sandbox.files().writer("/tmp/file", WriteOptions::default()).await.unwrap();
    let error = loop {
        if let Err(error) = writer.write(b"on and on").await {
            break error;
        }
    };
    assert_eq!(error.io_kind(), Some(io::ErrorKind::TimedOut), "{error}");
    assert!(error.remedy().unwrap().contains("security.sandbox.timeout_seconds"), "{error:?}");
}

async fn read_from(sandbox: &Sandbox, path: &str, offset: u64) -> openbrain::Result<Vec<u8>> {
    let mut reader = sandbox.files().reader(path, offset).await?;
    let mut all = Vec::new();
    while let Some(piece) = reader.next().await? {
        all.extend(piece);
    }
    Ok(all)
}

pub(crate) async fn a_file_goes_both_ways_in_pieces(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let (first, second) = content.split_at(700_000);
    for (options, pieces) in [
        (WriteOptions { append: false, mode: Some(0o750) }, first),
        (WriteOptions { append: true, mode: None }, second),
    ] {
        let mut writer = files.writer("/tmp/new/file", options).await.unwrap();
        for piece in pieces.chunks(50_000) {
            writer.write(piece).await.unwrap();
        }
        writer.finish().await.unwrap();
    }
    let found = files.stat("/tmp/new/file").await.unwrap();
    assert_eq!((found.size, found.mode, found.kind), (1_200_000, 0o750, FileKind::File));
    for offset in [0, 1, 700_001, 1_199_999, 1_200_000, 5_000_000] {
        let read = read_from(&sandbox, "/tmp/new/file", offset).await.unwrap();
        let expected = content.get(offset as usize..).unwrap_or_default();
        assert!(read == expected, "{} bytes from {offset}", read.len());
    }
    let reason = |error: openbrain::Error| (error.kind(), error.io_kind().unwrap());
    let missing = reason(read_from(&sandbox, "/tmp/none", 0).await.unwrap_err());
    assert_eq!(missing, (ErrorKind::FileFailed, io::ErrorKind::NotFound));
    let mut writer = files.writer("/tmp/new", WriteOptions::default()).await.unwrap();
    let failed = async {
        // A pipe takes some before it is known that nobody reads.
        for _ in 0..100 {
            writer.write(first).await?;
        }
        writer.finish().await
    };
    let failed = reason(failed.await.unwrap_err());
    assert_eq!(failed, (ErrorKind::FileFailed, io::ErrorKind::IsADirectory));
}

pub(crate) async fn no_more_entries_are_told_than_wanted(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let script = "mkdir -p /tmp/d/sub; cd /tmp/d; touch a.c b.c sub/c.c d";
    sandbox.run(Exec::new(script)).await.unwrap().check().unwrap();
    let find = async |pattern, most| {
        let found = sandbox.files().find("/tmp/d", pattern, most).await.unwrap();
        (found.entries.len(), found.truncated)
    };
    assert_eq!(find(None, 4).await, (4, false));
    assert_eq!(find(None, 3).await, (3, true));
    assert_eq!(find(None, 0).await, (0, true));
    assert_eq!(find(Some("*.c"), 10).await, (3, false));
    assert_eq!(find(Some("*.c"), 2).await, (2, true));
}
