//! A directory of the host, what commands do to it in an overlay, and what trees look like.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use openbrain::{
    Applied, Changes, Engine, Error, Exec, Mount, MountMode, Output, SavedChanges, Settings,
};
use tempfile::TempDir;

/// A program that prints a line for each entry below the directory of its argument: kind, permissions,
/// content, target. Not which are hard links: of a file that comes from below, an overlay does not tell.
const SNAPSHOT: &str = r#"
import hashlib, os, stat, sys
root = os.fsencode(sys.argv[1])
lines = []
def visit(directory):
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        found = os.lstat(path)
        shown = path[len(root):]
        line = [shown.hex(), oct(found.st_mode & ~0o6000)]
        if stat.S_ISREG(found.st_mode):
            line.append(str(found.st_size))
            if found.st_size < 1 << 30:
                line.append(hashlib.sha256(open(path, 'rb').read()).hexdigest())
            else:
                fd = os.open(path, os.O_RDONLY)
                at = 0
                while True:
                    try: at = os.lseek(fd, at, os.SEEK_DATA)
                    except OSError: break
                    end = os.lseek(fd, at, os.SEEK_HOLE)
                    piece = os.pread(fd, end - at, at)
                    # Where holes end is the file system's affair.
                    begin = len(piece) - len(piece.lstrip(b'\0'))
                    line.append(f'{at + begin}:{hashlib.sha256(piece.strip(bytes(1))).hexdigest()}')
                    at = end
        if stat.S_ISLNK(found.st_mode):
            line.append(os.readlink(path).hex())
        lines.append(' '.join(line))
        if stat.S_ISDIR(found.st_mode):
            visit(path)
visit(root)
print('\n'.join(lines))
"#;

/// What a case works with.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    owner: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let host =
            Self { engine: Engine::new(Settings::default()), owner: TempDir::new().unwrap() };
        fs::create_dir(host.tree()).unwrap();
        host
    }

    /// A host whose tree has these files: `(path, content)`.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let host = Self::new();
        for (path, content) in files {
            host.write(path, content);
        }
        host
    }

    /// The directory that is mounted.
    pub(crate) fn tree(&self) -> PathBuf {
        self.owner.path().canonicalize().unwrap().join("tree")
    }

    /// A directory beside it, which nothing may reach.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.owner.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.tree().join(path)
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) {
        symlink(target, self.path(path)).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub(crate) fn saved(&self) -> PathBuf {
        self.owner.path().join("saved")
    }

    /// A script with the tree as `/workspace`.
    pub(crate) fn shell(&self, script: impl Into<String>) -> Exec {
        let mount = Mount::new(self.tree(), "/workspace", MountMode::Overlay);
        Exec::new(script).sandbox().mount_at(mount).changes()
    }

    /// Runs a script that must succeed.
    pub(crate) fn run(&self, script: impl Into<String>) -> Output {
        let output = self.engine.run_blocking(self.shell(script)).unwrap();
        assert!(output.success(), "{:?}: {}", output.status, output.stderr_text());
        output
    }

    /// What a script changes.
    pub(crate) fn changes(&self, script: impl Into<String>) -> Changes {
        self.run(script).changes.unwrap()
    }

    /// What a script changes, saved.
    pub(crate) fn save(&self, script: impl Into<String>) -> SavedChanges {
        self.changes(script).save(&self.saved()).unwrap().unwrap()
    }

    /// Applies what a script changes; the host then has what the sandbox saw.
    pub(crate) fn apply(&self, script: &str) -> Applied {
        let output = self.run(format!("({script}) >&2\nexec {}", snapshot_command("/workspace")));
        let seen = output.stdout_text();
        let mut changes = output.changes.unwrap();
        let mut saved = changes.save(&self.saved()).unwrap().unwrap();
        let applied = saved.apply(&[]).unwrap();
        assert_eq!(snapshot(&self.tree()), lines(&seen));
        assert!(SavedChanges::list(&self.saved()).unwrap().is_empty());
        applied
    }

    /// The error of applying, of which nothing must come.
    pub(crate) fn refused(&self, saved: &mut SavedChanges, paths: &[&str]) -> Error {
        let before = snapshot(&self.tree());
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let error = saved.apply(&paths).unwrap_err();
        assert_eq!(snapshot(&self.tree()), before, "{error}");
        error
    }
}

/// What a tree looks like.
pub(crate) fn snapshot(tree: &Path) -> Vec<String> {
    let output = Command::new("python3").args(["-c", SNAPSHOT]).arg(tree).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    lines(&String::from_utf8(output.stdout).unwrap())
}

/// The program that prints what a tree looks like, as an argument for a shell.
pub(crate) fn snapshot_command(tree: &str) -> String {
    format!("python3 -c '{}' {tree}", SNAPSHOT.replace('\'', "'\\''"))
}

pub(crate) fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// The entries of mounts, a line for each.
pub(crate) fn told(changes: &Changes) -> Vec<String> {
    let mounts = changes.entries.iter().filter(|change| change.mount.is_some());
    mounts.map(|change| change.to_string().replace("/workspace/", "")).collect()
}
