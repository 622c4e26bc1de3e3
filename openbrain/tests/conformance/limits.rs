//! Limits that hold in every place, and those that a sandbox alone can give.

use openbrain::{ErrorKind, Limits};

use crate::support::Fixture;

pub(crate) async fn open_files_are_limited(f: &Fixture) {
    let limits = Limits { open_files: Some(32), ..Limits::default() };
    let output = f.run(f.shell("ulimit -n; ulimit -Hn").limits(limits.clone())).await;
    assert_eq!(output.stdout_text(), "32\n32\n");
    let source = "import errno\nfiles = []\ntry:\n  while True: files.append(open('/dev/null'))\n\
                  except OSError as e: print(errno.errorcode[e.errno], len(files))";
    let output = f.run(f.script(None, source).limits(limits)).await;
    assert_eq!(output.stdout_text(), "EMFILE 29\n");
}

pub(crate) async fn silly_limits_are_refused(f: &Fixture) {
    for limits in [
        Limits { open_files: Some(1), ..Limits::default() },
        Limits { memory: Some(1), ..Limits::default() },
        Limits { pids: Some(0), ..Limits::default() },
        Limits { disk: Some(0), ..Limits::default() },
        Limits { cpus: Some(-1.0), ..Limits::default() },
        Limits { cpus: Some(f64::NAN), ..Limits::default() },
    ] {
        let error = f.refused(f.argv(["true"]).limits(limits)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
    }
}

pub(crate) async fn a_memory_limit_needs_a_sandbox(f: &Fixture) {
    let limits = Limits { memory: Some(1 << 30), ..Limits::default() };
    let error = f.refused(f.argv(["true"]).limits(limits)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
    assert!(error.remedy().unwrap().contains("--sandbox"), "{error:?}");
}
