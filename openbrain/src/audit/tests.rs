//! Tests of the log as a file; `tests/conformance/audit.rs` has those with commands.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat};
use tempfile::TempDir;

use super::{Entry, Line, Log, Record, read};
use crate::{
    BackendName, Caller, Error, Exec, Isolation, NewSandbox, Settings, Surface, output,
    process::{self, Facts, Observer},
};

/// A log of its own.
struct Place {
    directory: TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("state/openbrain/audit.jsonl");
        Self { directory, file }
    }

    /// A place whose directory is there.
    fn made() -> Self {
        let place = Self::new();
        fs::create_dir_all(place.file.parent().unwrap()).unwrap();
        place
    }

    fn log(&self, max_size: u64, keep_files: u32) -> Arc<Log> {
        Arc::new(Log::new(Some(self.file.clone()), max_size, keep_files))
    }

    /// What refuses to write.
    fn error(&self) -> Error {
        start(&self.log(1 << 20, 4), "exec_1", &Exec::new("true")).unwrap_err()
    }

    fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        read(&self.file, |line| match line {
            Line::Record(record, _) => records.push(record),
            Line::Damaged { .. } => panic!("{line:?}"),
        })
        .unwrap();
        records
    }

    fn ids(&self) -> Vec<String> {
        self.records().iter().map(|record| record.exec_id().to_owned()).collect()
    }

    /// The files of the log.
    fn files(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.file.parent().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn start(log: &Arc<Log>, exec_id: &str, exec: &Exec) -> Result<Entry, Error> {
    let spec = Settings::default().resolve(exec.clone()).unwrap();
    log.asked(exec_id, &Caller::new(Surface::Rest).named("uid:7"), exec).start(&spec)
}

/// Writes one record.
fn refuse(log: &Arc<Log>, exec_id: &str, exec: &Exec) -> Result<(), Error> {
    log.asked(exec_id, &Caller::new(Surface::Mcp), exec).refused(&Error::denied("no"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn the_log_is_its_owners_alone() {
    let place = Place::new();
    refuse(&place.log(1 << 20, 4), "exec_1", &Exec::new("true")).unwrap();
    assert_eq!(mode(&place.file), 0o600);
    assert_eq!(mode(place.file.parent().unwrap()), 0o700);
    assert_eq!(mode(&place.directory.path().join("state")), 0o700);
}

#[test]
fn values_of_variables_and_input_are_not_recorded() {
    let place = Place::new();
    let exec = Exec::new("echo").env("TOKEN", "hunter2").stdin_bytes("hunter2");
    let log = place.log(1 << 20, 4);
    start(&log, "exec_1", &exec).unwrap().not_started(&Error::invalid("no"));
    let text = fs::read_to_string(&place.file).unwrap();
    assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_start_that_is_given_up_has_an_end() {
    let place = Place::new();
    drop(start(&place.log(1 << 20, 4), "exec_1", &Exec::new("true")).unwrap());
    let [Record::Start(start), Record::End(end)] = &place.records()[..] else { panic!() };
    assert_eq!(start.request.exec_id, end.exec_id);
    assert_eq!(start.request.caller.as_deref(), Some("uid:7"));
    assert_eq!((end.status, &end.run), (super::Status::Cancelled, &None));
}

#[test]
fn without_a_place_the_key_is_named() {
    let log = Arc::new(Log::new(None, 1 << 20, 4));
    let error = start(&log, "exec_1", &Exec::new("true")).unwrap_err();
    assert_eq!(error.code(), "invalid_settings");
    assert!(error.remedy().unwrap().contains("`audit.file`"), "{error:?}");
}

#[test]
fn a_file_that_is_not_ours_alone_is_refused() {
    let check = |place: &Place, reason: &str| {
        let error = place.error();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.remedy().unwrap().contains("`audit.execs: none`"), "{error:?}");
    };
    let place = Place::made();
    let other = place.directory.path().join("other");
    fs::write(&other, "kept").unwrap();
    symlink(&other, &place.file).unwrap();
    check(&place, "is a symbolic link");
    fs::remove_file(&place.file).unwrap();

    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&other, &place.file).unwrap();
    check(&place, "a second name");
    fs::remove_file(&place.file).unwrap();
    assert_eq!(fs::read_to_string(&other).unwrap(), "kept");

    mknodat(CWD, &place.file, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    check(&place, "not a file");
    fs::remove_file(&place.file).unwrap();

    fs::write(&place.file, "").unwrap();
    fs::set_permissions(&place.file, fs::Permissions::from_mode(0o640)).unwrap();
    check(&place, "others may read");
    fs::remove_file(&place.file).unwrap();

    let directory = place.file.parent().unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o770)).unwrap();
    check(&place, "others may write to its directory");
    assert!(place.files().is_empty());
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    drop(start(&place.log(1 << 20, 4), "exec_1", &Exec::new("true")).unwrap());

    // Only root can make what belongs to somebody else.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&place.file, Some(12345), None).unwrap();
        check(&place, "belongs to user 12345");
        std::os::unix::fs::chown(directory, Some(12345), None).unwrap();
        check(&place, "directory belongs to user 12345");
    }
}

/// The file is looked at for each record, and not only when it is opened.
#[test]
fn a_file_that_is_replaced_is_not_written_on() {
    let place = Place::new();
    let log = place.log(1 << 20, 4);
    refuse(&log, "exec_1", &Exec::new("x")).unwrap();
    let moved = place.directory.path().join("moved");
    fs::rename(&place.file, &moved).unwrap();
    refuse(&log, "exec_2", &Exec::new("x")).unwrap();
    assert_eq!(place.ids(), ["exec_2"]);
    fs::set_permissions(&place.file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refuse(&log, "exec_3", &Exec::new("x")).is_err());
    fs::remove_file(&place.file).unwrap();
    symlink(&moved, &place.file).unwrap();
    assert!(refuse(&log, "exec_4", &Exec::new("x")).is_err());
    assert_eq!(fs::read_to_string(&moved).unwrap().lines().count(), 1);
}

#[test]
fn a_line_that_was_torn_takes_no_other_with_it() {
    let place = Place::new();
    let log = place.log(1 << 20, 4);
    refuse(&log, "exec_1", &Exec::new("x")).unwrap();
    let text = fs::read_to_string(&place.file).unwrap();
    fs::write(&place.file, format!("{text}{}", &text[..text.len() / 2])).unwrap();
    refuse(&log, "exec_2", &Exec::new("x")).unwrap();
    let mut found = Vec::new();
    read(&place.file, |line| {
        found.push(match line {
            Line::Record(record, text) => {
                assert_eq!(serde_json::from_str::<Record>(text).unwrap(), record);
                record.exec_id().to_owned()
            }
            Line::Damaged { file, number, reason } => {
                assert_eq!(file, place.file);
                format!("{number}: {reason}")
            }
        });
    })
    .unwrap();
    let [first, damaged, last] = &found[..] else { panic!("{found:?}") };
    assert_eq!((first.as_str(), last.as_str()), ("exec_1", "exec_2"));
    assert!(damaged.starts_with("2: "), "{damaged}");
}

#[test]
fn full_files_are_kept_up_to_a_number() {
    let place = Place::new();
    let id = |n: u32| format!("exec_{n:04}");
    let exec = Exec::new("x".repeat(300));
    for n in 0..40 {
        refuse(&place.log(2000, 2), &id(n), &exec).unwrap();
    }
    let names = ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"].map(str::to_owned);
    assert_eq!(place.files(), BTreeSet::from(names));
    let ids = place.ids();
    let last: Vec<_> = (0..40).skip(40 - ids.len()).map(id).collect();
    assert_eq!(ids, last, "the youngest, in order");
    assert!(ids.len() >= 6);
    for name in place.files() {
        let path = place.file.with_file_name(name);
        assert!(fs::metadata(&path).unwrap().len() <= 2000);
        assert_eq!(mode(&path), 0o600);
    }
    // Settings that keep fewer remove the others.
    refuse(&place.log(1, 1), "a", &exec).unwrap();
    assert_eq!(place.files().len(), 2);
    refuse(&place.log(1, 0), "b", &exec).unwrap();
    assert_eq!(place.ids(), ["b"]);
}

#[test]
fn a_log_that_does_not_exist_is_empty() {
    assert_eq!(Place::new().records(), []);
    assert_eq!(Place::made().records(), []);
}

/// Locks belong to open files, so that a log of each thread is like a process.
#[test]
fn no_record_is_lost_or_torn_when_many_write() {
    const THREADS: usize = 8;
    const RECORDS: usize = 200;
    let place = Place::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let place = &place;
            scope.spawn(move || {
                let log = place.log(20_000, 10_000);
                for n in 0..RECORDS {
                    let exec = Exec::new("x".repeat(n * 7));
                    refuse(&log, &format!("{thread} {n:04}"), &exec).unwrap();
                }
            });
        }
    });
    assert!(place.files().len() > 10, "{:?}", place.files());
    let ids = place.ids();
    assert_eq!(ids.len(), THREADS * RECORDS);
    for thread in 0..THREADS {
        let own: Vec<_> = ids.iter().filter(|id| id.starts_with(&format!("{thread} "))).collect();
        assert_eq!(own.len(), RECORDS);
        assert!(own.is_sorted(), "the records of each writer are in order");
    }
}

#[test]
fn somebody_who_keeps_the_lock_does_not_hold_us_forever() {
    let place = Place::new();
    refuse(&place.log(1 << 20, 4), "exec_1", &Exec::new("x")).unwrap();
    let file = File::open(&place.file).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let error = place.error();
    assert!(error.to_string().contains("keeps it locked"), "{error}");
    drop(file);
    refuse(&place.log(1 << 20, 4), "exec_2", &Exec::new("x")).unwrap();
    assert_eq!(place.ids(), ["exec_1", "exec_2"]);
}

#[test]
fn a_record_has_a_bounded_size() {
    let place = Place::new();
    let mut exec = Exec::new("x".repeat(1 << 20)).workdir("/".repeat(1 << 20));
    for n in 0..20_000 {
        exec = exec.env(format!("VARIABLE_{n:020}"), "");
    }
    for n in 0..1000 {
        exec = exec.expose(format!("/{n}/{}", "y".repeat(1000)));
    }
    refuse(&place.log(1 << 30, 4), "exec_1", &exec).unwrap();
    let spec = Settings::default().resolve(exec.clone().sandbox()).unwrap();
    let log = place.log(1 << 30, 4);
    drop(log.asked("exec_2", &Caller::default(), &exec).start(&spec).unwrap());
    let labels = (0..10_000).map(|n| (format!("{n}{}", "k".repeat(1000)), "v".repeat(1000)));
    let new = NewSandbox { labels: labels.collect(), ..NewSandbox::default() };
    log.asked_to_open("exec_3", &Caller::default(), &new).refused(&Error::denied("no")).unwrap();
    let text = fs::read_to_string(&place.file).unwrap();
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().all(|line| line.len() < 256 << 10));
    let Record::Refused(refused) = &place.records()[0] else { panic!() };
    assert_eq!(refused.request.command_cut.as_ref().unwrap().bytes, 1 << 20);
    assert_eq!(refused.request.env.last().unwrap(), "…");
    assert!(refused.request.workdir.as_ref().unwrap().ends_with("/…"));
}

/// What every record costs; run it in a release build.
#[test]
#[ignore = "a figure"]
fn cost_of_a_start_and_an_end() {
    let place = Place::new();
    let log = place.log(1 << 30, 4);
    let exec = Exec::new("make -j4 all").sandbox().env("A", "b");
    let times = 20_000;
    let begun = std::time::Instant::now();
    let id = "exec_0123456789abcdef0123456789abcdef";
    let words = |prefix: &str| (0..8).map(|n| format!("{prefix}_number_{n}")).collect::<Vec<_>>();
    let facts = Facts {
        exec_id: id.into(),
        backend: BackendName::Embedded,
        sandbox_id: None,
        start: None,
        isolation: Isolation {
            namespaces: words("namespace"),
            layers: words("layer"),
            limits: words("limit").into_iter().map(|name| (name, "cgroup v2".into())).collect(),
            ..Isolation::none()
        },
        warnings: Vec::new(),
        started_at: SystemTime::now(),
    };
    for _ in 0..times {
        let entry = Box::new(start(&log, id, &exec).unwrap());
        let warning = entry.ended(
            &facts,
            process::End {
                outcome: process::Outcome::Ended(output::Status::Exited(0)),
                duration: Duration::from_millis(5),
                bytes: [100, 0],
                truncated: Some([false; 2]),
                denials: 0,
                warnings: Vec::new(),
            },
        );
        assert_eq!(warning, None);
    }
    let each = begun.elapsed() / times;
    println!("{each:?} for each start and end");
}
