//! A small unpacked image, made of this machine's own programs.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

/// Puts programs of this machine and their libraries into a directory, as an image has them.
pub(crate) fn unpack_image(root: &Path) {
    for directory in ["usr/bin", "usr/lib", "usr/lib64", "etc", "opt/app", "var/lib", "home"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for link in ["bin", "lib", "lib64"] {
        symlink(format!("usr/{link}"), root.join(link)).unwrap();
    }
    for (name, program) in [
        ("sh", "dash"),
        ("cat", "cat"),
        ("ls", "ls"),
        ("id", "id"),
        ("touch", "touch"),
        ("rm", "rm"),
        ("grep", "grep"),
        ("mkdir", "mkdir"),
    ] {
        let path = ["/usr/bin", "/bin"].map(|at| Path::new(at).join(program));
        let path = path.into_iter().find(|path| path.exists()).unwrap();
        fs::copy(&path, root.join("usr/bin").join(name)).unwrap();
        let libraries = Command::new("ldd").arg(&path).output().unwrap().stdout;
        for word in String::from_utf8(libraries).unwrap().split_whitespace() {
            if word.starts_with('/') {
                let target = root.join(word.trim_start_matches('/'));
                // Of `lib/x86_64-linux-gnu` the last part is a directory of its own.
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                fs::copy(word, target).unwrap();
            }
        }
    }
    for (path, content) in [
        ("etc/os-release", "ID=image\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:77:77::/opt/app:/bin/sh\n"),
        ("etc/group", "root:x:0:\napp:x:77:\n"),
        ("etc/resolv.conf", "of the image\n"),
        ("opt/app/file", "of the image\n"),
        ("var/lib/file", "of the image\n"),
    ] {
        fs::write(root.join(path), content).unwrap();
    }
}
