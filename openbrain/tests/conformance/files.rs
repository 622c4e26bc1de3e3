//! The files of a sandbox, from outside.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use openbrain::{ErrorKind, Exec, FileKind, NewSandbox, Result, Sandbox};

use crate::support::Fixture;

pub(crate) async fn shell(sandbox: &Sandbox, script: &str) -> String {
    let output = sandbox.run(Exec::new(script)).await.unwrap();
    assert!(output.success(), "{script}: {}", output.stderr_text());
    output.stdout_text()
}

/// The reason of a failure about a file.
fn reason<T: std::fmt::Debug>(result: Result<T>) -> io::ErrorKind {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileFailed, "{error}");
    error.io_kind().unwrap()
}

pub(crate) async fn what_is_written_is_read(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    let all: Vec<u8> = (0..=255).collect();
    for (path, content) in [
        ("plain", b"text\n".to_vec()),
        ("/tmp/empty", Vec::new()),
        ("/tmp/a directory/that is/new/file", all),
        ("/tmp/long", vec![7; 3 << 20]),
    ] {
        files.write(path, content.clone()).await.unwrap();
        assert_eq!(files.read(path).await.unwrap(), content, "{path}");
        files.append(path, "more").await.unwrap();
        assert_eq!(files.stat(path).await.unwrap().size, content.len() as u64 + 4);
        files.write(path, "less").await.unwrap();
        assert_eq!(files.read(path).await.unwrap(), b"less");
    }
    assert_eq!(shell(&sandbox, "cat plain /workspace/plain").await, "lessless");
}

pub(crate) async fn what_is_known_of_a_file_is_told(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let script = "mkdir /tmp/d; cd /tmp/d; printf 12345 >file; chmod 640 file; \
                  touch -d @1000000000.5 file; ln -s 'to nowhere' link; mkfifo pipe; mkdir sub; \
                  touch 'new\nline'";
    shell(&sandbox, script).await;
    let found = sandbox.files().list("/tmp/d").await.unwrap();
    let told: Vec<_> = found.iter().map(|e| (e.path.to_str().unwrap(), e.kind)).collect();
    let expected = [
        ("file", FileKind::File),
        ("link", FileKind::Link),
        ("new\nline", FileKind::File),
        ("pipe", FileKind::Other),
        ("sub", FileKind::Directory),
    ];
    assert_eq!(told, expected);
    assert_eq!((found[0].size, found[0].mode), (5, 0o640));
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_500);
    assert_eq!(found[0].modified, time);
    assert_eq!(found[1].target.as_deref(), Some(Path::new("to nowhere")));
    let link = sandbox.files().stat("/tmp/d/link").await.unwrap();
    assert_eq!((link.kind, link.path.as_path()), (FileKind::Link, Path::new("/tmp/d/link")));
    assert!(sandbox.files().list("/tmp/d/sub").await.unwrap().is_empty());
}

pub(crate) async fn files_are_made_moved_and_removed(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    files.mkdir("/tmp/a/b/c").await.unwrap();
    files.mkdir("/tmp/a/b/c").await.unwrap();
    files.write("/tmp/a/b/c/file", "x").await.unwrap();
    files.rename("/tmp/a/b/c/file", "/tmp/a/moved").await.unwrap();
    assert_eq!(shell(&sandbox, "cd /tmp/a; find . | sort").await, ".\n./b\n./b/c\n./moved\n");
    assert_eq!(reason(files.remove("/tmp/a").await), io::ErrorKind::DirectoryNotEmpty);
    files.remove("/tmp/a/moved").await.unwrap();
    files.remove("/tmp/a/b/c").await.unwrap();
    shell(
        &sandbox,
        "mkdir -p /tmp/kept /tmp/a/x/y; touch /tmp/kept/file; ln -s /tmp/kept /tmp/a/x/l",
    )
    .await;
    files.remove_all("/tmp/a").await.unwrap();
    assert_eq!(shell(&sandbox, "ls /tmp; ls /tmp/kept").await, "kept\nfile\n");
}

pub(crate) async fn files_are_found_by_name(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(
        &sandbox,
        "mkdir -p /tmp/t/deep/er; cd /tmp/t; touch a.rs deep/b.rs deep/er/c.rs deep/rs ab.rsx",
    )
    .await;
    for (pattern, expected) in [
        ("*.rs", vec!["a.rs", "deep/b.rs", "deep/er/c.rs"]),
        ("?.rs", vec!["a.rs", "deep/b.rs", "deep/er/c.rs"]),
        ("*s*", vec!["a.rs", "ab.rsx", "deep/b.rs", "deep/er/c.rs", "deep/rs"]),
        ("er", vec!["deep/er"]),
        ("*b*r*", vec!["ab.rsx", "deep/b.rs"]),
        ("", vec![]),
    ] {
        let Ok(found) = sandbox.files().search("/tmp/t", pattern).await else {
            assert!(pattern.is_empty());
            continue;
        };
        let paths: Vec<_> = found.iter().map(|entry| entry.path.to_str().unwrap()).collect();
        assert_eq!(paths, expected, "{pattern}");
    }
}

pub(crate) async fn what_is_wrong_with_a_file_is_told(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    shell(&sandbox, "mkdir /tmp/d; touch /tmp/f; mkfifo /tmp/pipe; ln -s /tmp/loop /tmp/loop")
        .await;
    assert_eq!(reason(files.read("/tmp/none").await), io::ErrorKind::NotFound);
    assert_eq!(reason(files.read("/tmp/d").await), io::ErrorKind::IsADirectory);
    assert_eq!(reason(files.read("/tmp/f/x").await), io::ErrorKind::NotADirectory);
    assert_eq!(reason(files.list("/tmp/f").await), io::ErrorKind::NotADirectory);
    assert_eq!(reason(files.stat("/tmp/none").await), io::ErrorKind::NotFound);
    assert_eq!(reason(files.remove("/tmp/none").await), io::ErrorKind::NotFound);
    assert_eq!(reason(files.mkdir("/tmp/f").await), io::ErrorKind::AlreadyExists);
    assert_eq!(reason(files.write("/tmp/f/x", "").await), io::ErrorKind::NotADirectory);
    // Nobody waits for the other end of a pipe.
    assert_eq!(reason(files.read("/tmp/pipe").await), io::ErrorKind::InvalidInput);
    assert!(files.write("/tmp/pipe", "x").await.is_err());
    assert!(files.read("/tmp/loop").await.is_err());
    let error = files.read("a\0b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let error = files.read("x".repeat(5000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    sandbox.kill().await.unwrap();
    assert_eq!(files.read("/tmp/f").await.unwrap_err().kind(), ErrorKind::SandboxLost);
}

/// Everything about a tree that a copy keeps.
pub(crate) fn look(root: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let (path, meta) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let told = if meta.is_dir() {
                left.push(path.clone());
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("link {:?}", fs::read_link(&path).unwrap())
            } else {
                let content = fs::read(&path).unwrap();
                format!(
                    "{:o} {} {:?} {}",
                    meta.mode(),
                    meta.mtime(),
                    content.get(..9),
                    content.len()
                )
            };
            found.push((path.strip_prefix(root).unwrap().to_owned(), told));
        }
    }
    found.sort();
    found
}

/// A tree with what is easily lost on the way.
pub(crate) fn plant(root: &Path) {
    fs::create_dir_all(root.join("deep/er/still")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for (name, content, mode) in [
        ("script", b"#!/bin/sh\n".to_vec(), 0o755),
        ("deep/er/still/long", vec![3; 200_000], 0o600),
        ("deep/nothing", Vec::new(), 0o644),
        ("odd name\n\t'\"*", b"odd".to_vec(), 0o640),
    ] {
        fs::write(root.join(name), content).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
        fs::File::options().write(true).open(root.join(name)).unwrap().set_modified(time).unwrap();
    }
    symlink("../script", root.join("deep/link")).unwrap();
    symlink("/no/where", root.join("broken")).unwrap();
}

pub(crate) async fn a_tree_comes_back_as_it_went(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let (there, back) = (f.directory().join("there"), f.directory().join("back"));
    plant(&there);
    let sent = sandbox.files().upload(&there, "/tmp/tree").await.unwrap();
    assert_eq!((sent.entries, sent.bytes, sent.skipped.len()), (10, 200_013, 0));
    assert_eq!(shell(&sandbox, "cat /tmp/tree/deep/link").await, "#!/bin/sh\n");
    let got = sandbox.files().download("/tmp/tree", &back).await.unwrap();
    assert_eq!(got, sent);
    assert_eq!(look(&back), look(&there));
    // Once more over what is there.
    shell(&sandbox, "echo changed >/tmp/tree/script; rm /tmp/tree/broken; mkfifo /tmp/tree/pipe")
        .await;
    let again = sandbox.files().download("/tmp/tree", &back).await.unwrap();
    assert_eq!(again.skipped, [Path::new("pipe")]);
    assert_eq!(fs::read(back.join("script")).unwrap(), b"changed\n");
}

pub(crate) async fn a_tree_that_is_not_there_is_told(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let here = f.directory().join("new");
    let none = sandbox.files().download("/tmp/none", &here).await;
    assert_eq!(reason(none), io::ErrorKind::NotFound);
    let none = sandbox.files().upload(f.directory().join("none"), "/tmp/x").await;
    assert_eq!(reason(none), io::ErrorKind::NotFound);
    fs::create_dir_all(f.directory().join("some")).unwrap();
    fs::write(f.directory().join("some/file"), "x").unwrap();
    shell(&sandbox, "touch /tmp/file").await;
    let file = sandbox.files().upload(f.directory().join("some"), "/tmp/file").await;
    assert_eq!(reason(file), io::ErrorKind::AlreadyExists);
}

/// What a command does meanwhile leads nothing out of the directory that is written to.
pub(crate) async fn a_tree_that_changes_leads_nowhere(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let (out, beside) = (f.directory().join("out"), f.directory().join("beside"));
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("file"), "untouched").unwrap();
    let swap = format!(
        "mkdir -p /tmp/t/d; cd /tmp/t; while :; do \
         rm -rf d; ln -s {0} d; echo bad >file; rm d; mkdir d; echo bad >d/file; ln -sf {0}/file l; \
         rm -f l; echo bad >l; done",
        beside.display()
    );
    let swapping = sandbox.spawn(Exec::new(swap)).await.unwrap();
    for _ in 0..if f.place.is_on_a_server() { 3 } else { 60 } {
        // A tree that changes may fail to be copied, and no more than that.
        let _ = sandbox.files().download("/tmp/t", &out).await;
        let _ = sandbox.files().remove_all("/tmp/t/d").await;
    }
    drop(swapping);
    assert_eq!(fs::read(beside.join("file")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(&beside).unwrap().count(), 1);
}

/// Links lead where they lead for a command inside, and not where they would for the host.
pub(crate) async fn links_lead_through_the_sandbox(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    fs::write(f.directory().join("secret"), "of the host").unwrap();
    let secret = f.directory().join("secret");
    let script = format!(
        "mkdir /tmp/l; cd /tmp/l; ln -s {} secret; ln -s /proc/1/root root; ln -s /etc/passwd passwd; \
         ln -s ../../../../../../.. up",
        secret.display()
    );
    shell(&sandbox, &script).await;
    assert_eq!(reason(files.read("/tmp/l/secret").await), io::ErrorKind::NotFound);
    assert!(files.read(format!("/tmp/l/up{}", secret.display())).await.is_err());
    let inside = shell(&sandbox, "cat /etc/passwd").await;
    assert_eq!(files.read("/tmp/l/passwd").await.unwrap(), inside.as_bytes());
    assert_ne!(fs::read("/etc/passwd").unwrap(), inside.as_bytes());
    assert!(files.read(format!("/tmp/l/root{}", secret.display())).await.is_err());
    assert!(files.write("/tmp/l/passwd", "mine").await.is_err() || f.place.is_on_a_server());
}

pub(crate) async fn paths_need_not_be_text(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    let path = |name: &[u8]| Path::new("/tmp/odd").join(OsStr::from_bytes(name));
    let names: [&[u8]; 6] =
        [b"\xff\xfe", b"100%", b"%41%zz%", b"a\xc3\x28%ff", b"\xe2\x82", "é".as_bytes()];
    for name in names {
        files.write(path(name), name).await.unwrap();
        assert_eq!(files.read(path(name)).await.unwrap(), name);
        assert_eq!(files.stat(path(name)).await.unwrap().path, path(name));
    }
    let mut expected = names.map(|name| Path::new(OsStr::from_bytes(name)).to_owned());
    expected.sort();
    let listed = files.list("/tmp/odd").await.unwrap();
    assert_eq!(listed.into_iter().map(|e| e.path).collect::<Vec<_>>(), expected);
    assert_eq!(files.search("/tmp/odd", "*%*").await.unwrap().len(), 3);
    for name in names {
        files.rename(path(name), path(b"moved \xff")).await.unwrap();
        files.remove(path(b"moved \xff")).await.unwrap();
    }
    files.mkdir(path(b"\xff/\xfe")).await.unwrap();
    files.upload(f.directory(), path(b"\xff/\xfe/\xfd")).await.unwrap();
    files.download(path(b"\xff"), f.directory().join("back")).await.unwrap();
    files.remove_all(path(b"\xff")).await.unwrap();
    assert!(files.list("/tmp/odd").await.unwrap().is_empty());
}

pub(crate) async fn files_with_several_names_stay_what_they_are(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    let (there, back) = (f.directory().join("there"), f.directory().join("back"));
    fs::create_dir_all(there.join("deep/er")).unwrap();
    fs::write(there.join("one"), "same").unwrap();
    fs::hard_link(there.join("one"), there.join("deep/er/two")).unwrap();
    fs::hard_link(there.join("one"), there.join("deep/three")).unwrap();
    symlink("nowhere", there.join("link")).unwrap();
    fs::hard_link(there.join("link"), there.join("deep/link")).unwrap();
    fs::write(there.join("other"), "same").unwrap();
    let sent = files.upload(&there, "/tmp/t").await.unwrap();
    assert_eq!((sent.entries, sent.bytes), (8, 8));
    let script =
        "cd /tmp/t; stat -c %h one other; [ one -ef deep/er/two ] && [ one -ef deep/three ]";
    assert_eq!(shell(&sandbox, script).await, "3\n1\n");
    let got = files.download("/tmp/t", &back).await.unwrap();
    assert_eq!((got.entries, got.bytes), (8, 8));
    let inode = |path: &str| fs::symlink_metadata(back.join(path)).unwrap().ino();
    assert_eq!([inode("one"), inode("deep/er/two")], [inode("deep/three"); 2]);
    assert_ne!(inode("one"), inode("other"));
    assert_eq!(fs::read(back.join("deep/three")).unwrap(), b"same");
    // Files that were one file are two when they come again as two.
    fs::remove_file(there.join("deep/three")).unwrap();
    fs::write(there.join("deep/three"), "differs").unwrap();
    files.upload(&there, "/tmp/t").await.unwrap();
    files.download("/tmp/t", &back).await.unwrap();
    assert_eq!(shell(&sandbox, "cat /tmp/t/one /tmp/t/deep/three").await, "samediffers");
    assert_eq!(fs::read(back.join("one")).unwrap(), b"same");
    assert_eq!(fs::read(back.join("deep/three")).unwrap(), b"differs");
}

pub(crate) async fn holes_stay_holes(f: &Fixture) {
    const LENGTH: u64 = 3 << 30;
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    let (there, back) = (f.directory().join("there"), f.directory().join("back"));
    fs::create_dir(&there).unwrap();
    for (name, at) in
        [("none", None), ("start", Some(0)), ("end", Some(LENGTH - 4)), ("between", Some(5 << 20))]
    {
        let file = fs::File::create(there.join(name)).unwrap();
        file.set_len(LENGTH).unwrap();
        at.map(|at| file.write_all_at(b"data", at)).transpose().unwrap();
    }
    let sent = files.upload(&there, "/tmp/t").await.unwrap();
    // Data comes in blocks of the file system.
    assert!((12..1 << 20).contains(&sent.bytes), "{sent:?}");
    let script = "cd /tmp/t; stat -c %s *; tail -c 4 end; head -c 4 start; \
                  tail -c +$((5 * 1024 * 1024 + 1)) between | head -c 5 | od -An -c; du -sm . | cut -f1";
    let told = shell(&sandbox, script).await;
    let expected = format!("{0}\n{0}\n{0}\n{0}\ndatadata   d   a   t   a  \\0\n", LENGTH);
    let rest = told.strip_prefix(&expected).unwrap_or_else(|| panic!("{told}"));
    assert!(rest.trim().parse::<u32>().unwrap() <= 1, "{rest}");
    let got = files.download("/tmp/t", &back).await.unwrap();
    assert!((12..1 << 20).contains(&got.bytes), "{got:?}");
    for (name, at) in
        [("none", None), ("start", Some(0)), ("end", Some(LENGTH - 4)), ("between", Some(5 << 20))]
    {
        let file = fs::File::open(back.join(name)).unwrap();
        let meta = file.metadata().unwrap();
        assert!(meta.len() == LENGTH && meta.blocks() * 512 < 1 << 20, "{name}: {meta:?}");
        let mut data = [0; 4];
        file.read_exact_at(&mut data, at.unwrap_or(7)).unwrap();
        assert_eq!(&data == b"data", at.is_some(), "{name}");
    }
}

pub(crate) async fn an_upload_follows_no_link(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let there = f.directory().join("there");
    fs::create_dir_all(there.join("sub")).unwrap();
    fs::write(there.join("sub/file"), "new").unwrap();
    let script =
        "mkdir /tmp/t /tmp/beside; ln -s /tmp/beside /tmp/t/sub; echo old >/tmp/beside/file";
    shell(&sandbox, script).await;
    assert!(sandbox.files().upload(&there, "/tmp/t").await.is_err());
    assert_eq!(shell(&sandbox, "cat /tmp/beside/file").await, "old\n");
    // A link in the place of a file is replaced.
    shell(&sandbox, "rm /tmp/t/sub; mkdir /tmp/t/sub; ln -s /tmp/beside/file /tmp/t/sub/file")
        .await;
    sandbox.files().upload(&there, "/tmp/t").await.unwrap();
    assert_eq!(shell(&sandbox, "cat /tmp/beside/file /tmp/t/sub/file").await, "old\nnew");
}

pub(crate) async fn a_single_file_goes_both_ways(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    let there = f.file("there", "content\n", 0o750);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    fs::File::options().write(true).open(&there).unwrap().set_modified(time).unwrap();
    // The directories above it are made; a relative path is the sandbox's.
    for path in ["/tmp/new/deep/copy", "copy", "./odd/../copy"] {
        if path.contains("odd") {
            files.mkdir("odd").await.unwrap();
        }
        let sent = files.upload(&there, path).await.unwrap();
        assert_eq!((sent.entries, sent.bytes), (1, 8), "{path}");
        let told = shell(&sandbox, &format!("cat {path}; stat -c '%a %Y' {path}")).await;
        assert_eq!(told, "content\n750 1234567890\n", "{path}");
        let back = f.directory().join("back/to").join(path.replace(['/', '.'], "_"));
        let got = files.download(path, &back).await.unwrap();
        assert_eq!(got, sent);
        let meta = fs::metadata(&back).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o750, 1_234_567_890));
        assert_eq!(fs::read(&back).unwrap(), b"content\n");
    }
    // What has the name is replaced.
    fs::write(&there, "more").unwrap();
    files.upload(&there, "copy").await.unwrap();
    let back = f.file("back/old", "a longer one", 0o600);
    files.download("copy", &back).await.unwrap();
    assert_eq!(fs::read(&back).unwrap(), b"more");
    // A link inside leads where it does for commands.
    shell(&sandbox, "ln -s copy link").await;
    files.download("link", &back).await.unwrap();
    assert_eq!(fs::read(&back).unwrap(), b"more");
    shell(&sandbox, "truncate -s 3G /tmp/holes; printf x >>/tmp/holes").await;
    let got = files.download("/tmp/holes", &back).await.unwrap();
    assert!(got.bytes < 1 << 20, "{got:?}");
    let meta = fs::metadata(&back).unwrap();
    assert!(meta.len() == (3 << 30) + 1 && meta.blocks() < 2048, "{meta:?}");
}

pub(crate) async fn a_single_file_leads_nowhere(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    let there = f.file("there", "new", 0o644);
    let secret = f.file("secret", "secret", 0o644);
    symlink(&secret, f.directory().join("link")).unwrap();
    let pipe = f.directory().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    // Of the host no link is followed, and nobody is waited for.
    for name in ["link", "pipe"] {
        let refused = files.upload(f.directory().join(name), "/tmp/copy").await;
        assert_eq!(reason(refused), io::ErrorKind::InvalidInput, "{name}");
    }
    // Nothing is written through a link, on either side.
    shell(&sandbox, "mkdir /tmp/d; echo kept >/tmp/kept; ln -s kept /tmp/link; mkfifo /tmp/pipe")
        .await;
    files.upload(&there, "/tmp/link").await.unwrap();
    assert_eq!(shell(&sandbox, "cat /tmp/kept /tmp/link").await, "kept\nnew");
    files.download("/tmp/link", f.directory().join("link")).await.unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(fs::read(f.directory().join("link")).unwrap(), b"new");
    // A directory is not replaced, and a name is needed.
    fs::create_dir(f.directory().join("dir")).unwrap();
    assert!(files.upload(&there, "/tmp/d").await.is_err());
    assert!(files.download("/tmp/link", f.directory().join("dir")).await.is_err());
    for name in ["/", "new/", "..", "new/.."] {
        let refused = files.upload(&there, name).await;
        assert_eq!(reason(refused), io::ErrorKind::InvalidInput, "{name}");
        let refused = files.download("/tmp/link", f.directory().join(name)).await;
        assert_eq!(reason(refused), io::ErrorKind::InvalidInput, "{name}");
    }
    let refused = files.download("/tmp/pipe", f.directory().join("new")).await;
    assert_eq!(reason(refused), io::ErrorKind::InvalidInput);
    assert!(!f.directory().join("new").exists());
}

/// Somebody inside writes on and on, and makes a hole of what was written.
const GROWING: &str = "\
import ctypes, os
libc = ctypes.CDLL(None)
f = os.open('/tmp/t/f', os.O_CREAT | os.O_RDWR)
piece, at = b'x' * (1 << 20), 0
while True:
    os.pwrite(f, piece, at)
    if at > 4 << 20:
        libc.fallocate(f, 3, ctypes.c_long(0), ctypes.c_long(at - (2 << 20)))
    at += len(piece)
";

pub(crate) async fn a_file_that_grows_is_copied_up_to_its_end(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    shell(&sandbox, "mkdir /tmp/t").await;
    let writer = sandbox.spawn(Exec::script("python", GROWING)).await.unwrap();
    while files.stat("/tmp/t/f").await.map_or(0, |entry| entry.size) < 10 << 20 {}
    for n in 0..5 {
        let back = f.directory().join(n.to_string());
        let before = files.stat("/tmp/t/f").await.unwrap().size;
        files.download("/tmp/t", &back).await.unwrap();
        let after = files.stat("/tmp/t/f").await.unwrap().size;
        assert!((before..=after).contains(&fs::metadata(back.join("f")).unwrap().len()));
    }
    drop(writer);
}

pub(crate) async fn what_cannot_be_uploaded_is_named(f: &Fixture) {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root can read everything");
        return;
    }
    let there = f.directory().join("there");
    fs::create_dir_all(there.join("sub")).unwrap();
    f.file("there/sub/locked", "secret", 0o000);
    let sandbox = f.create(NewSandbox::default()).await;
    let error = sandbox.files().upload(&there, "/tmp/t").await.unwrap_err();
    assert_eq!(error.io_kind(), Some(io::ErrorKind::PermissionDenied), "{error}");
    assert!(error.to_string().contains("there/sub/locked`"), "{error}");
}

/// A sandbox changes what it has mounted, while that is copied into another one.
pub(crate) async fn an_upload_reads_nothing_beside_its_source(f: &Fixture) {
    let (work, secret) = (f.directory().join("work"), f.file("secret", "secret", 0o644));
    fs::create_dir_all(work.join("sub")).unwrap();
    fs::write(work.join("file"), "open").unwrap();
    fs::write(work.join("sub/secret"), "open").unwrap();
    let hostile = f.create(NewSandbox::default().mount(&work)).await;
    let swap = format!(
        "ln -s {} link; ln -s {} up; mkfifo pipe; while :; do \
         mv -T file kept; mv -T link file; mv -T file link; mv -T pipe file; mv -T file pipe; \
         mv -T kept file; mv -T sub was; mv -T up sub; mv -T sub up; mv -T was sub; done",
        secret.display(),
        f.directory().display()
    );
    let swapping = hostile.spawn(Exec::new(swap)).await.unwrap();
    let sandbox = f.create(NewSandbox::default()).await;
    for _ in 0..200 {
        // A tree that changes may fail to be copied, and no more than that.
        let _ = sandbox.files().upload(&work, "/tmp/t").await;
        let _ = sandbox.files().upload(work.join("file"), "/tmp/one").await;
    }
    drop(swapping);
    let found = sandbox.run(Exec::new("grep -r secret /tmp")).await.unwrap();
    assert_eq!(found.stdout_text(), "");
}

pub(crate) async fn a_server_tells_of_no_changes(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let error = sandbox.changes().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxUnavailable, "{error}");
    assert!(error.remedy().is_some());
}
