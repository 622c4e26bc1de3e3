//! Sandboxes whose system is a directory of the host.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use openbrain::{ErrorKind, Exec, Mount, MountMode, NewSandbox, Sandbox};
use rustix::fs::{CWD, FileType, Mode};

use crate::{files::shell, image::unpack_image, support::Fixture};

fn image(f: &Fixture) -> PathBuf {
    let root = f.directory().join("image");
    unpack_image(&root);
    root
}

async fn open(f: &Fixture, new: NewSandbox) -> Sandbox {
    f.create(new.rootfs(f.directory().join("image"))).await
}

pub(crate) async fn a_rootfs_is_the_system(f: &Fixture) {
    image(f);
    let sandbox = open(f, NewSandbox::default()).await;
    assert_eq!(shell(&sandbox, "cat /etc/os-release").await, "ID=image\n");
    assert_eq!(shell(&sandbox, "ls /usr/bin | grep -c .").await, "8\n");
    let top = "bin\ndev\netc\nhome\nlib\nlib64\nopt\nproc\nrun\ntmp\nusr\nvar\nworkspace\n";
    assert_eq!(shell(&sandbox, "ls /").await, top);
    // Users are those of the image and the sandbox's own; names are found as in every sandbox.
    assert_eq!(
        shell(&sandbox, "id -un; grep -c ^ /etc/passwd; grep -c app /etc/group").await,
        "sandbox\n3\n1\n"
    );
    let plain = f.create(NewSandbox::default()).await;
    for file in ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"] {
        let script = format!("cat {file}");
        assert_eq!(shell(&sandbox, &script).await, shell(&plain, &script).await, "{file}");
    }
    assert_eq!(sandbox.isolation().layers, plain.isolation().layers);
    assert!(sandbox.isolation().filesystem.contains("unpacked image"));
    // What every sandbox has of its own is there.
    shell(
        &sandbox,
        "cd; touch file /tmp/file /var/tmp/file /workspace/file /dev/shm/file; cat /dev/null",
    )
    .await;
    assert_eq!(sandbox.files().read("/home/sandbox/file").await.unwrap(), b"");
    let error = sandbox.run(Exec::argv(["python3", "-c", "1"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound, "{error}");
}

pub(crate) async fn a_rootfs_is_never_written_to(f: &Fixture) {
    let root = image(f);
    let listing = || Command::new("find").arg(&root).args(["-ls"]).output().unwrap().stdout;
    let before = listing();
    let sandbox = open(f, NewSandbox::default()).await;
    let script = "echo mine >/opt/app/file; rm /var/lib/file; mkdir /opt/new; echo x >/etc/os-release; \
                  rm -r /usr/bin/ls; touch /usr/bin/mine; cat /opt/app/file /etc/os-release";
    assert_eq!(shell(&sandbox, script).await, "mine\nx\n");
    assert!(sandbox.run(Exec::new("cat /var/lib/file")).await.unwrap().exit_code() == Some(1));
    assert!(
        sandbox.run(Exec::new("touch /proc/sys/kernel/hostname /new")).await.unwrap().exit_code()
            != Some(0)
    );
    assert!(listing() == before);
    let other = open(f, NewSandbox::default()).await;
    assert_eq!(
        shell(&other, "cat /opt/app/file /var/lib/file; ls /opt").await,
        "of the image\nof the image\napp\n"
    );
}

pub(crate) async fn mounts_lie_above_a_rootfs(f: &Fixture) {
    image(f);
    let (data, file) = (f.directory().join("data"), f.file("single", "single\n", 0o644));
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(data.join("file"), "of the host\n").unwrap();
    let at = |source: &Path, target: &str, mode| Mount::new(source, target, mode);
    let new = NewSandbox::default()
        .mount(&data)
        .mount_at(at(&data, "/opt/app", MountMode::Ro))
        .mount_at(at(&data, "/usr/share/deep/data", MountMode::Rw))
        .mount_at(at(&data, "/srv", MountMode::Overlay))
        .mount_at(at(&file, "/etc/single", MountMode::Ro))
        .expose(f.directory().join("single"));
    let sandbox = open(f, new).await;
    let script = format!(
        "cat file /opt/app/file /usr/share/deep/data/file /srv/file /etc/single {}",
        file.display()
    );
    assert_eq!(shell(&sandbox, &script).await, "of the host\n".repeat(4) + &"single\n".repeat(2));
    shell(&sandbox, "echo rw >/usr/share/deep/data/new; echo thrown away >/srv/file").await;
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "rw\n");
    assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "of the host\n");
}

/// What an image has in the place of what every sandbox has of its own.
pub(crate) async fn a_hostile_rootfs_leads_nowhere(f: &Fixture) {
    let root = image(f);
    let beside = f.directory().join("beside");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("file"), "untouched").unwrap();
    for name in ["resolv.conf", "passwd", "group"] {
        fs::remove_file(root.join("etc").join(name)).unwrap();
    }
    for (path, target) in [
        ("etc/resolv.conf", beside.join("file")),
        ("etc/hosts", beside.join("new")),
        ("etc/hostname", "../../beside/new".into()),
        ("etc/mtab", beside.join("file")),
        ("etc/group", beside.join("file")),
        ("var/tmp", beside.clone()),
        ("home/sandbox", beside.clone()),
        ("opt/mount", beside.clone()),
        ("opt/single", beside.join("file")),
        ("srv", beside.clone()),
        ("tmp", beside.clone()),
        ("proc", "/".into()),
        ("dev", beside.clone()),
        ("out", "..".into()),
        ("host", beside.clone()),
    ] {
        symlink(target, root.join(path)).unwrap();
    }
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, root.join("etc/passwd"), FileType::Fifo, mode, 0).unwrap();
    fs::create_dir_all(f.directory().join("data")).unwrap();
    let single = f.file("single", "single", 0o644);
    let new = NewSandbox::default()
        .mount_at(Mount::new(f.directory().join("data"), "/opt/mount", MountMode::Rw))
        .mount_at(Mount::new(single, "/opt/single", MountMode::Ro));
    let sandbox = open(f, new).await;
    let script = "touch /opt/mount/a /var/tmp/a /home/sandbox/a /tmp/a; cat /opt/single; id -un; \
                  cat /etc/hosts >/dev/null; ls /out /host /srv; true";
    let output = sandbox.run(Exec::new(script)).await.unwrap();
    let said = output.stdout_text();
    assert!(said.starts_with("singlesandbox\n") && !said.contains("beside"), "{output:?}");
    assert!(f.directory().join("data/a").exists());
    assert_eq!(fs::read_to_string(beside.join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(&beside).unwrap().count(), 1);
}

pub(crate) async fn what_is_no_rootfs_is_refused(f: &Fixture) {
    let empty = f.directory().join("empty");
    fs::create_dir(&empty).unwrap();
    let file = f.file("file", "", 0o644);
    let link = f.directory().join("with-link");
    fs::create_dir_all(link.join("usr")).unwrap();
    symlink("/etc", link.join("etc")).unwrap();
    let refused = async |path: &Path| {
        let error = f.engine.create(NewSandbox::default().rootfs(path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{path:?}: {error}");
        assert!(error.remedy().is_some());
        error.io_kind()
    };
    assert_eq!(refused(&f.directory().join("none")).await, Some(io::ErrorKind::NotFound));
    assert_eq!(refused(&empty).await, Some(io::ErrorKind::NotFound));
    assert_eq!(refused(&link).await, Some(io::ErrorKind::NotADirectory));
    for path in [&*file, Path::new("/"), Path::new("/proc"), Path::new("/..")] {
        refused(path).await;
    }
    // A directory without a shell is a system without a shell.
    fs::create_dir(empty.join("opt")).unwrap();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).unwrap();
    let sandbox = f.create(NewSandbox::default().rootfs(&empty)).await;
    let error = sandbox.run(Exec::new("true")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommandNotFound, "{error}");
    assert!(error.to_string().contains("/bin/sh"), "{error}");
    sandbox.files().write("/opt/file", "x").await.unwrap();
}
