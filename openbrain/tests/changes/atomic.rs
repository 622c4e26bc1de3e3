//! Whoever looks at a file while changes are applied sees what it was or what it becomes.

use std::{
    env, fs,
    io::{Read, Seek},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use openbrain::SavedChanges;

use crate::support::{Host, told};

/// What a process of its own is to apply: the directory of saved changes, and the name.
const DIRECTORY: &str = "OPENBRAIN_TEST_SAVED";
const NAME: &str = "OPENBRAIN_TEST_CHANGES";

const FILES: usize = 40;
const LENGTH: usize = 1 << 20;

/// A host with files that are all `a`, and changes that make all of them `b`.
fn with_changes() -> (Host, SavedChanges) {
    let host = Host::new();
    for n in 0..FILES {
        host.write(&format!("{n}"), vec![b'a'; LENGTH]);
    }
    let script = "for f in *; do tr a b < $f > /tmp/new; cat /tmp/new > $f; done; mkdir d; \
                  for n in 1 2 3 4 5 6 7 8 9; do cp 0 d/$n; done";
    let saved = host.save(script);
    assert_eq!(saved.changes().entries.len(), FILES + 10);
    (host, saved)
}

/// Whether a content is whole, and which it is.
fn whole(content: &[u8]) -> Option<u8> {
    let first = *content.first()?;
    (content.len() == LENGTH && content.iter().all(|byte| *byte == first)).then_some(first)
}

#[test]
fn a_reader_keeps_the_file_that_it_has_opened() {
    let (host, mut saved) = with_changes();
    let mut opened = fs::File::open(host.path("7")).unwrap();
    let mut half = vec![0; LENGTH / 2];
    opened.read_exact(&mut half).unwrap();
    saved.apply(&[]).unwrap();
    let mut rest = Vec::new();
    opened.read_to_end(&mut rest).unwrap();
    assert_eq!(whole(&[half, rest].concat()), Some(b'a'));
    opened.rewind().unwrap();
    assert_eq!(opened.metadata().unwrap().len(), LENGTH as u64);
    assert_eq!(whole(&fs::read(host.path("7")).unwrap()), Some(b'b'));
}

#[test]
fn a_reader_sees_the_old_file_or_the_new_one() {
    let (host, mut saved) = with_changes();
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for start in [0, FILES / 2] {
            let (host, done, reads) = (&host, &done, &reads);
            scope.spawn(move || {
                for n in (0..FILES).cycle().skip(start) {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let content = fs::read(host.path(&n.to_string())).expect("it has its name");
                    assert!(whole(&content).is_some(), "{n} is a mixture");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while reads.load(Ordering::Relaxed) < 10 {
            std::thread::yield_now();
        }
        saved.apply(&[]).unwrap();
        done.store(true, Ordering::Relaxed);
    });
}

/// Applies changes in a process of its own; elsewhere it does nothing.
#[test]
fn applies_for_another_test() {
    let (Some(directory), Ok(name)) = (env::var_os(DIRECTORY), env::var(NAME)) else { return };
    SavedChanges::load(Path::new(&directory), &name).unwrap().apply(&[]).unwrap();
}

#[test]
fn who_is_killed_leaves_each_file_old_or_new() {
    let (mut seen, mut wait) = ([0; 2], Duration::ZERO);
    for _ in 0..12 {
        let (host, saved) = with_changes();
        let name = saved.id().to_owned();
        drop(saved);
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "atomic::applies_for_another_test"])
            .env(DIRECTORY, host.saved())
            .env(NAME, &name)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Something has changed; from there on it is killed later each time.
        let end = Instant::now() + Duration::from_secs(30);
        let is_new = |n: usize| fs::read(host.path(&n.to_string())).unwrap()[0] == b'b';
        while !(0..FILES).any(is_new) && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "nothing is applied");
        }
        std::thread::sleep(wait);
        wait += Duration::from_millis(4);
        child.kill().unwrap();
        child.wait().unwrap();
        for n in 0..FILES {
            let content = fs::read(host.path(&n.to_string())).unwrap();
            let kind = whole(&content).unwrap_or_else(|| panic!("{n} is a mixture"));
            seen[usize::from(kind == b'b')] += 1;
        }
        for entry in fs::read_dir(host.path("d")).into_iter().flatten() {
            let path: PathBuf = entry.unwrap().path();
            let is_in_the_making = path.to_string_lossy().contains("/.openbrain-");
            assert!(is_in_the_making || whole(&fs::read(&path).unwrap()) == Some(b'b'), "{path:?}");
        }
        // The record still has everything, and applying it again goes on.
        let Ok(mut saved) = SavedChanges::load(&host.saved(), &name) else { continue };
        assert_eq!(told(&saved.changes()).len(), FILES + 10);
        assert_eq!(saved.apply(&[]).unwrap().paths.len(), FILES + 10);
        assert!((0..FILES).all(is_new));
        let mode = fs::metadata(host.path("d")).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode & !0o022, 0o755);
        for n in 1..10 {
            assert_eq!(whole(&fs::read(host.path(&format!("d/{n}"))).unwrap()), Some(b'b'));
        }
        assert!(SavedChanges::list(&host.saved()).unwrap().is_empty());
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}
