//! Host paths of somebody else's request: they stay below a directory that the settings list,
//! whatever symbolic links an earlier command has left there.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{
    beneath,
    error::{Error, Result},
};

/// Opens (`O_PATH`) what `path` names below the one of `roots` that holds it. No symbolic link leads
/// out of there, and none can be put in the way afterwards: the descriptor is what was found.
///
/// The root itself may be a link, which is its administrator's.
///
/// # Errors
///
/// `policy_denied` when the path is below no root or leads out of its root; `unusable` makes the error
/// of a path that cannot be opened for another reason.
pub(crate) fn open(
    path: &Path,
    roots: &[PathBuf],
    unusable: impl Fn(io::Error) -> Error,
) -> Result<OwnedFd> {
    let (root, rest) = split(path, roots)?;
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match open_below(root, rest, flags) {
        Err(Errno::XDEV | Errno::LOOP) => Err(leads_out(path, root)),
        result => result.map_err(|errno| unusable(errno.into())),
    }
}

/// Refuses a path with any symbolic link below its root. It is for paths that somebody else opens
/// by their text, who may find a link there that did not exist when we looked.
///
/// What is not here at all is a path of another machine, of which nothing can be said.
///
/// # Errors
///
/// `policy_denied` when the path is below no root or there is a link.
pub(crate) fn check_text(path: &Path, roots: &[PathBuf]) -> Result<()> {
    let (root, rest) = split(path, roots)?;
    match open_below(root, rest, ResolveFlags::NO_SYMLINKS) {
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::LOOP) => Err(leads_out(path, root)),
        Err(errno) => {
            Err(Error::invalid(format!("cannot look for symbolic links in `{}`", path.display()))
                .with_source(io::Error::from(errno))
                .with_remedy("mount a directory that openbrain itself may enter"))
        }
    }
}

/// The outermost root that holds a path, and the rest of the path. A root inside another one could
/// be replaced by a command that has the outer one mounted.
fn split<'a>(path: &'a Path, roots: &'a [PathBuf]) -> Result<(&'a Path, &'a Path)> {
    let within =
        roots.iter().filter_map(|root| Some((root.as_path(), path.strip_prefix(root).ok()?)));
    within.min_by_key(|(root, _)| root.components().count()).ok_or_else(|| {
        Error::denied(format!("the settings do not let callers see `{}`", path.display()))
            .with_remedy("the key is `server.allowed_mounts`")
    })
}

fn open_below(root: &Path, rest: &Path, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    if rest.as_os_str().is_empty() {
        return Ok(root);
    }
    beneath::open(&root, rest, flags, how)
}

fn leads_out(path: &Path, root: &Path) -> Error {
    let (path, root) = (path.display(), root.display());
    Error::denied(format!("a symbolic link in `{path}` may lead out of `{root}`"))
        .with_remedy("name the directory itself: callers may see what is below that directory, not what links in it point to")
}

#[cfg(test)]
mod tests {
    use std::{
        fs, io,
        os::{fd::OwnedFd, unix::fs::symlink},
        path::{Path, PathBuf},
    };

    use tempfile::TempDir;

    use super::{check_text, open};
    use crate::error::{Error, ErrorKind, Result};

    /// A root with a directory, a neighbour that nobody may see, and links.
    fn place() -> (TempDir, PathBuf) {
        let place = TempDir::new().unwrap();
        let path = place.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("root/a/b")).unwrap();
        fs::create_dir(path.join("secret")).unwrap();
        (place, path)
    }

    fn opened(path: &Path, roots: &[PathBuf]) -> Result<PathBuf> {
        let unusable = |error: io::Error| Error::invalid("unusable").with_source(error);
        open(path, roots, unusable).map(|fd: OwnedFd| {
            use std::os::fd::AsRawFd;
            fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
        })
    }

    #[test]
    fn links_that_lead_out_are_refused() {
        let (_place, path) = place();
        let root = path.join("root");
        for (name, target) in [
            ("absolute", path.join("secret")),
            ("up", "../secret".into()),
            ("far", "a/../../secret".into()),
            ("etc", "/etc".into()),
            ("chain", "up".into()),
            ("home", root.join("a")),
            ("magic", "/proc/self/root".into()),
            ("circle", "circle".into()),
        ] {
            symlink(target, root.join(name)).unwrap();
            for path in [root.join(name), root.join(name).join("b")] {
                let error = opened(&path, std::slice::from_ref(&root)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{path:?}: {error}");
                let error = check_text(&path, std::slice::from_ref(&root)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{path:?}: {error}");
            }
        }
    }

    #[test]
    fn links_that_stay_below_are_followed_unless_the_text_is_what_counts() {
        let (_place, path) = place();
        let root = path.join("root");
        symlink("a", root.join("near")).unwrap();
        symlink("../near/b", root.join("a/around")).unwrap();
        let roots = [root.clone()];
        assert_eq!(opened(&root.join("near/b"), &roots).unwrap(), root.join("a/b"));
        assert_eq!(opened(&root.join("a/around"), &roots).unwrap(), root.join("a/b"));
        assert!(check_text(&root.join("near/b"), &roots).is_err());
        assert!(check_text(&root.join("a/b"), &roots).is_ok());
        assert!(check_text(&root.join("a/not/there"), &roots).is_ok());
        assert!(check_text(Path::new("/of/another/machine"), &["/of".into()]).is_ok());
    }

    #[test]
    fn a_root_may_be_a_link_but_not_one_inside_another_root() {
        let (_place, path) = place();
        let link = path.join("link");
        symlink("root", &link).unwrap();
        let root = path.join("root");
        assert_eq!(opened(&link, std::slice::from_ref(&link)).unwrap(), root);
        assert_eq!(opened(&link.join("a"), std::slice::from_ref(&link)).unwrap(), root.join("a"));
        symlink("../secret", root.join("inner")).unwrap();
        let roots = [root.join("inner"), root.clone()];
        assert!(opened(&root.join("inner"), &roots).is_err());
        assert_eq!(opened(&root.join("inner"), &roots[..1]).unwrap(), path.join("secret"));
    }

    #[test]
    fn what_is_below_no_root_is_refused_and_what_is_missing_is_told() {
        let (_place, path) = place();
        let roots = [path.join("root")];
        for outside in [path.join("secret"), path.join("roots"), path.clone()] {
            let error = opened(&outside, &roots).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PolicyDenied, "{error}");
            assert!(check_text(&outside, &roots).is_err());
        }
        let error = opened(&path.join("root/missing"), &roots).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        assert!(opened(&path.join("root"), &[]).is_err());
    }
}
