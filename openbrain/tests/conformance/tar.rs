//! Trees of a sandbox as tar archives, made and read by the `tar` of this machine as well.

use std::{
    ffi::OsStr,
    fs, io,
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, symlink},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use openbrain::{Error, ErrorKind, NewSandbox, Sandbox};
use tokio::io::AsyncReadExt;

use crate::{
    files::{look, plant, shell},
    support::Fixture,
};

/// A tree with what is hard to say in an archive.
fn plant_more(root: &Path) {
    plant(root);
    let long = root.join("l".repeat(90)).join("o".repeat(90)).join("n".repeat(90));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("g".repeat(200)), "long").unwrap();
    symlink("t".repeat(150), root.join("leads far")).unwrap();
    fs::hard_link(root.join("script"), long.join("hard")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"odd \xff\xfe")), "odd").unwrap();
    fs::write(root.join("hundred").with_extension("x".repeat(92)), [1; 512]).unwrap();
    let fine = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
    fs::File::options().write(true).open(root.join("script")).unwrap().set_modified(fine).unwrap();
}

fn tar(arguments: &[&str], directory: &Path, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("tar")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

async fn archive_of(sandbox: &Sandbox, path: &str) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    let mut stream = sandbox.files().download_tar(path).await.unwrap();
    stream.read_to_end(&mut archive).await?;
    Ok(archive)
}

pub(crate) async fn an_archive_has_the_tree(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let (there, back) = (f.directory().join("there"), f.directory().join("back"));
    plant_more(&there);
    sandbox.files().upload(&there, "/tmp/t").await.unwrap();
    shell(&sandbox, "mkfifo /tmp/t/pipe").await;
    let archive = archive_of(&sandbox, "/tmp/t").await.unwrap();
    assert_eq!(archive.len() % 512, 0);
    fs::create_dir(&back).unwrap();
    tar(&["-xpf", "-"], &back, &archive);
    assert_eq!(look(&back), look(&there));
    assert_eq!(fs::metadata(back.join("script")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(back.join("script")).unwrap().mtime_nsec(), 123_456_789);
    // What is known before the archive has begun is no error of the stream.
    let missing = sandbox.files().download_tar("/tmp/none").await.unwrap_err();
    assert_eq!(missing.io_kind(), Some(io::ErrorKind::NotFound), "{missing}");
}

pub(crate) async fn a_tree_is_made_of_any_archive(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let files = sandbox.files();
    let there = f.directory().join("there");
    plant_more(&there);
    for format in ["gnu", "pax", "posix"] {
        let option = format!("--format={format}");
        let archive = tar(&["-cf", "-", &option, "."], &there, b"");
        let place = format!("/tmp/{format}");
        let got = files.upload_tar(&place, &archive[..]).await.unwrap();
        let back = f.directory().join(format);
        let told = files.download(&place, &back).await.unwrap();
        assert_eq!((got.entries, got.bytes), (told.entries, told.bytes), "{format}");
        assert_eq!(look(&back), look(&there), "{format}");
    }
    // These know short names alone.
    let short = f.directory().join("short");
    plant(&short);
    for format in ["ustar", "v7", "oldgnu"] {
        let archive = tar(&["-cf", "-", &format!("--format={format}"), "."], &short, b"");
        let place = format!("/tmp/{format}");
        files.upload_tar(&place, &archive[..]).await.unwrap();
        let back = f.directory().join(format);
        files.download(&place, &back).await.unwrap();
        assert_eq!(look(&back), look(&short), "{format}");
    }
    // Directories that an archive does not name are made.
    let archive = tar(&["-cf", "-", "deep/er/still/long"], &short, b"");
    files.upload_tar("/tmp/part", &archive[..]).await.unwrap();
    assert_eq!(shell(&sandbox, "wc -c < /tmp/part/deep/er/still/long").await, "200000\n");
}

pub(crate) async fn an_archive_goes_round(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let there = f.directory().join("there");
    plant_more(&there);
    sandbox.files().upload(&there, "/tmp/t").await.unwrap();
    let stream = sandbox.files().download_tar("/tmp/t").await.unwrap();
    let got = sandbox.files().upload_tar("/tmp/u", stream).await.unwrap();
    assert!(got.entries > 15 && got.skipped.is_empty(), "{got:?}");
    let back = f.directory().join("back");
    sandbox.files().download("/tmp/u", &back).await.unwrap();
    assert_eq!(look(&back), look(&there));
    // A stream that nobody reads to its end ends its work.
    let mut stream = sandbox.files().download_tar("/tmp/t").await.unwrap();
    stream.read_exact(&mut [0; 512]).await.unwrap();
    drop(stream);
    shell(&sandbox, "rm -r /tmp/t").await;
}

/// One block of an archive, with its checksum.
fn block(name: &str, kind: u8, link: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

fn file(name: &str) -> Vec<u8> {
    let mut entry = block(name, b'0', "", 3);
    entry.extend_from_slice(b"bad");
    entry.resize(1024, 0);
    entry
}

async fn refused(sandbox: &Sandbox, archive: &[u8]) -> Error {
    let error = sandbox.files().upload_tar("/tmp/t", archive).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileFailed, "{error}");
    error
}

pub(crate) async fn a_hostile_archive_leads_nowhere(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(
        &sandbox,
        "mkdir -p /tmp/t /tmp/beside; echo kept >/tmp/beside/file; ln -s /tmp/beside /tmp/t/was",
    )
    .await;
    let link = |name: &str, to: &str| block(name, b'2', to, 0);
    let hard = |name: &str, to: &str| block(name, b'1', to, 0);
    let directory = |name: &str| block(name, b'5', "", 0);
    for archive in [
        file("../beside/file"),
        file("/tmp/beside/file"),
        file("a/../../beside/file"),
        file("was/file"),
        directory("was/new"),
        directory("was"),
        [link("a", "../beside"), file("a/file")].concat(),
        [link("b", "/tmp/beside"), link("c", "b"), file("c/file")].concat(),
        [link("d", "."), directory("d/x/"), file("d/x/file")].concat(),
        hard("e", "/tmp/beside/file"),
        hard("e", "../beside/file"),
        hard("e", "was/file"),
        hard("e", ""),
        link("e", ""),
        [block("long", b'L', "", 1 << 32), file("x")].concat(),
        [block("extended", b'x', "", 1 << 20), vec![b'0'; 1 << 20], file("x")].concat(),
        [block("long", b'L', "", 8192), vec![b'x'; 8192], file("x")].concat(),
        [
            block("extended", b'x', "", 19),
            [b"19 path=../beside/f\n", &[0; 492][..]].concat(),
            file("x"),
        ]
        .concat(),
    ] {
        let error = refused(&sandbox, &archive).await;
        let text = String::from_utf8_lossy(&archive[..archive.len().min(200)]).into_owned();
        assert!(error.io_kind().is_some(), "{text}: {error}");
        assert_eq!(shell(&sandbox, "cat /tmp/beside/*").await, "kept\n", "{text}");
        assert_eq!(shell(&sandbox, "ls /tmp/beside | wc -l").await, "1\n", "{text}");
    }
    // What replaces a link replaces the link, and a name is not written through.
    let archive =
        [link("l", "/tmp/beside/file"), file("l"), file("./deep/./x//y"), directory("./")].concat();
    let got = sandbox.files().upload_tar("/tmp/t", &archive[..]).await.unwrap();
    assert_eq!((got.entries, got.bytes), (3, 6));
    assert_eq!(
        shell(&sandbox, "cat /tmp/beside/file /tmp/t/l /tmp/t/deep/x/y").await,
        "kept\nbadbad"
    );
    // Devices and pipes are not made, and set-user-ID bits are not kept.
    let mut own = file("own");
    own[100..107].copy_from_slice(b"0006755");
    own[148..156].fill(b' ');
    let sum: u32 = own[..512].iter().map(|byte| u32::from(*byte)).sum();
    own[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let archive = [block("dev", b'3', "", 0), block("pipe", b'6', "", 0), own].concat();
    let got = sandbox.files().upload_tar("/tmp/t", &archive[..]).await.unwrap();
    assert_eq!(got.skipped, [Path::new("dev"), Path::new("pipe")]);
    assert_eq!(shell(&sandbox, "stat -c %a /tmp/t/own").await, "755\n");
}

pub(crate) async fn a_broken_archive_is_told(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let whole = [file("one"), file("two")].concat();
    for (archive, says) in [
        (&whole[..700], "early eof"),
        (&whole[..1500], "early eof"),
        (&[0x1f, 0x8b, 8, 0].repeat(300)[..], "compressed"),
        (&[b'x'; 2000][..], "checksum"),
        (&block("sparse", b'S', "", 0)[..], "unknown kind `S`"),
    ] {
        let error = refused(&sandbox, archive).await;
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
    // Without the mark at its end it is an archive all the same, and what follows the mark is none.
    for archive in [whole.clone(), [&whole[..], &[0; 1024], b"more"].concat(), Vec::new()] {
        sandbox.files().upload_tar("/tmp/t", &archive[..]).await.unwrap();
    }
    assert_eq!(shell(&sandbox, "cat /tmp/t/one /tmp/t/two").await, "badbad");
    let error = sandbox.files().upload_tar("/tmp/t/one", &whole[..]).await.unwrap_err();
    assert_eq!(error.io_kind(), Some(io::ErrorKind::AlreadyExists), "{error}");
}

pub(crate) async fn an_archive_has_a_single_file(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    sandbox.files().write("/tmp/d/file", "content").await.unwrap();
    let archive = archive_of(&sandbox, "/tmp/d/file").await.unwrap();
    let back = f.directory().join("back");
    fs::create_dir(&back).unwrap();
    tar(&["-xf", "-"], &back, &archive);
    assert_eq!(fs::read(back.join("file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&back).unwrap().count(), 1);
}

/// A file may have as many holes as it likes, and an archive has zeros for them.
pub(crate) async fn an_archive_has_an_end(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(&sandbox, "mkdir /tmp/t; truncate -s 7T /tmp/t/huge").await;
    let error = archive_of(&sandbox, "/tmp/t").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
    assert!(error.to_string().contains("huge"), "{error}");
    let back = f.directory().join("back");
    sandbox.files().download("/tmp/t", &back).await.unwrap();
    assert_eq!(fs::metadata(back.join("huge")).unwrap().len(), 7 << 40);
}
