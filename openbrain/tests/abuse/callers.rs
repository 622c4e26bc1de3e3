//! Requests of others: what they may mount stays within what the settings list, whatever their
//! earlier commands have left there.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use openbrain::{
    Caller, Engine, Error, ErrorKind, Exec, Mount, MountMode, Output, Sandbox, Settings, Surface,
    settings::AuditedExecs,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::host::Place;

/// The engine of a server whose callers may mount what is below these.
fn engine(workspace: Option<&Path>, mounts: &[PathBuf]) -> Engine {
    let mut settings = Settings::default();
    settings.audit.execs = AuditedExecs::None;
    settings.server.allowed_mounts = mounts.to_vec();
    settings.security.sandbox.workspace_mount = workspace.map(Into::into);
    Engine::new(settings).for_caller(Caller::new(Surface::Rest))
}

/// Mounts a path and lists it.
fn list(engine: &Engine, path: &Path) -> Result<Output, Error> {
    let mount = Mount::new(path, "/seen", MountMode::Ro);
    engine.run_blocking(Exec::new("cd /seen && ls && cat *").sandbox().mount_at(mount))
}

fn denied(engine: &Engine, path: &Path) {
    let error = list(engine, path).expect_err(&format!("{path:?}"));
    assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{path:?}: {error:?}");
    assert!(error.remedy().is_some(), "{error:?}");
    let exposed = engine.run_blocking(Exec::new("true").sandbox().expose(path)).unwrap_err();
    assert_eq!(exposed.kind(), ErrorKind::PolicyDenied, "{path:?}: {exposed:?}");
}

#[test]
fn links_that_a_command_has_planted_lead_nowhere() {
    let place = Place::new();
    let work = place.work();
    let engine = engine(Some(&work), &[]);
    let outside = place.outside();
    let plant = format!(
        "ln -s /etc etc && ln -s {0} out && ln -s ../outside up && ln -s sub/../../outside far \
         && ln -s {0}/secret file-out && ln -s / root && ln -s /proc/self/root magic \
         && ln -s sub near && mkdir -p deep/er && ln -s ../../up deep/er/chain",
        outside.display()
    );
    let planted = engine.run_blocking(Exec::new(plant).sandbox()).unwrap();
    assert!(planted.success(), "{}", planted.stderr_text());
    for name in [
        "etc",
        "out",
        "up",
        "far",
        "file-out",
        "root",
        "magic",
        "deep/er/chain",
        "etc/ssl",
        "root/etc",
        "magic/etc",
        "deep/er/chain/secret",
    ] {
        denied(&engine, &work.join(name));
    }
    // What stays below is what it says.
    let output = list(&engine, &work.join("near")).unwrap();
    assert_eq!(output.stdout_text(), "deep\ndeep", "{}", output.stderr_text());
    let output = list(&engine, &work.join("sub")).unwrap();
    assert_eq!(output.stdout_text(), "deep\ndeep", "{}", output.stderr_text());
    place.assert_outside_unchanged();
}

#[test]
fn the_ways_around_the_list_are_closed() {
    let place = Place::new();
    let (work, outside) = (place.work(), place.outside());
    let engine = engine(None, std::slice::from_ref(&work));
    denied(&engine, &outside);
    denied(&engine, Path::new("/etc"));
    for climbing in [work.join("../outside"), work.join("sub/../../outside")] {
        let error = list(&engine, &climbing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
    }
    place.assert_outside_unchanged();
}

#[test]
fn the_directory_of_the_settings_may_be_a_link_of_its_administrator() {
    let place = Place::new();
    let link = place.dir.path().join("link");
    symlink(place.work(), &link).unwrap();
    let engine = engine(None, std::slice::from_ref(&link));
    let output = list(&engine, &link.join("sub")).unwrap();
    assert_eq!(output.stdout_text(), "deep\ndeep", "{}", output.stderr_text());
    // The list has the name of the link, and that alone.
    denied(&engine, &place.work());
}

/// What was checked is what is mounted: there is no moment between the two.
#[test]
fn a_directory_that_turns_into_a_link_never_shows_what_is_outside() {
    let place = Place::new();
    let (work, outside) = (place.work(), place.outside());
    let (shown, link) = (work.join("sub"), work.join("link"));
    fs::create_dir(shown.join("in")).unwrap();
    fs::write(shown.join("in/mark"), "right").unwrap();
    fs::create_dir(outside.join("in")).unwrap();
    fs::write(outside.join("in/mark"), "wrong").unwrap();
    symlink(&outside, &link).unwrap();
    let engine = engine(Some(&work), &[]);
    let stop = AtomicBool::new(false);
    let (mut right, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &shown, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..150 {
                match list(&engine, &shown.join("in")) {
                    Ok(output) => {
                        let text = output.stdout_text();
                        assert_eq!(text, "mark\nright", "{}", output.stderr_text());
                        right += 1;
                    }
                    Err(error) => {
                        let kinds = [
                            ErrorKind::PolicyDenied,
                            ErrorKind::InvalidRequest,
                            ErrorKind::SandboxUnavailable,
                        ];
                        assert!(kinds.contains(&error.kind()), "{error:?}");
                        refused += 1;
                    }
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    println!("{right} right, {refused} refused");
    assert!(refused > 0, "the link was never there when somebody looked");
}

/// An OpenSandbox server gets a path as text: no link may be in it, wherever it leads. The server is
/// not asked for anything before.
#[test]
fn a_server_gets_no_path_with_a_link() {
    let place = Place::new();
    let work = place.work();
    symlink("/etc", work.join("etc")).unwrap();
    symlink("sub", work.join("near")).unwrap();
    let mut settings = Settings::default();
    settings.audit.execs = AuditedExecs::None;
    settings.server.allowed_mounts = vec![work.clone()];
    // Nobody listens there.
    settings.security.sandbox.server_url = Some("http://127.0.0.1:1".into());
    let engine = Engine::new(settings).for_caller(Caller::new(Surface::Mcp));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kind = |path: &Path| {
        let mount = Mount::new(path, "/seen", MountMode::Ro);
        let open = engine.create(Sandbox::builder().mount_at(mount.clone()));
        let open = runtime.block_on(open).unwrap_err().kind();
        let exec = Exec::new("true").sandbox().mount_at(mount);
        assert_eq!(engine.run_blocking(exec).unwrap_err().kind(), open, "{path:?}");
        open
    };
    for name in ["etc", "near", "etc/ssl"] {
        assert_eq!(kind(&work.join(name)), ErrorKind::PolicyDenied, "{name}");
    }
    assert_eq!(kind(&work.join("sub")), ErrorKind::SandboxUnavailable);
}

/// A sandbox that stays open sees no more than one for a command.
#[test]
fn an_open_sandbox_of_a_caller_follows_no_link_out() {
    let place = Place::new();
    let work = place.work();
    symlink(place.outside(), work.join("out")).unwrap();
    let engine = engine(Some(&work), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let open = |path: PathBuf| {
        runtime.block_on(async {
            let mount = Mount::new(path, "/seen", MountMode::Ro);
            let sandbox = engine.create(Sandbox::builder().mount_at(mount)).await?;
            let output = sandbox.run(Exec::new("cat /seen/*")).await?;
            sandbox.kill().await?;
            Ok::<_, Error>(output.stdout_text())
        })
    };
    assert_eq!(open(work.join("sub")).unwrap(), "deep");
    assert_eq!(open(work.join("out")).unwrap_err().kind(), ErrorKind::PolicyDenied);
}
