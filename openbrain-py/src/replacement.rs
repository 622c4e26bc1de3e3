//! A file of the host that is replaced when all of its new content is there.

use std::{
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{
    fs::{self, File},
    io::AsyncWriteExt,
};

/// Tells the drafts of this process apart.
static DRAFTS: AtomicU64 = AtomicU64::new(0);

/// A file that is written beside the one that it replaces. Dropping it leaves that one as it was.
pub(crate) struct Replacement {
    file: File,
    /// None where it is written in place.
    draft: Option<Draft>,
}

/// A file that is removed unless it was renamed.
struct Draft {
    path: PathBuf,
    target: PathBuf,
    is_kept: bool,
}

impl Replacement {
    /// Begins to replace a file, which need not be there.
    pub(crate) async fn begin(path: &Path) -> io::Result<Self> {
        let old = match fs::metadata(path).await {
            // A pipe or a device is not replaced.
            Ok(old) if !old.is_file() => return Self::in_place(path).await,
            Ok(old) => {
                // What must not be written must not be replaced.
                File::options().write(true).open(path).await?;
                Some(old.permissions())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let target = match &old {
            // A link stays one: what it leads to is replaced.
            Some(_) => fs::canonicalize(path).await?,
            None => path.to_owned(),
        };
        let (file, draft) = match beside(target).await {
            // Who may write the file may not always make another one there.
            Err(error) if old.is_some() && is_forbidden(&error) => {
                return Self::in_place(path).await;
            }
            made => made?,
        };
        if let Some(old) = old {
            file.set_permissions(old).await?;
        }
        Ok(Self { file, draft: Some(draft) })
    }

    async fn in_place(path: &Path) -> io::Result<Self> {
        let file = File::options().write(true).truncate(true).open(path).await?;
        Ok(Self { file, draft: None })
    }

    /// Where the new content is written to.
    pub(crate) fn writer(&mut self) -> &mut File {
        &mut self.file
    }

    /// Puts the new content in the place of the old one.
    pub(crate) async fn finish(mut self) -> io::Result<()> {
        self.file.flush().await?;
        if let Some(draft) = &mut self.draft {
            self.file.sync_data().await?;
            fs::rename(&draft.path, &draft.target).await?;
            draft.is_kept = true;
        }
        Ok(())
    }
}

/// A new file in the directory of another one.
async fn beside(target: PathBuf) -> io::Result<(File, Draft)> {
    loop {
        let number = DRAFTS.fetch_add(1, Relaxed);
        let path = target.with_file_name(format!(".openbrain-{}-{number}.tmp", process::id()));
        match File::options().write(true).create_new(true).open(&path).await {
            // It was left by a process that was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((made?, Draft { path, target, is_kept: false })),
        }
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // Whoever gave it up is told why; of a file that cannot be removed there is no more to say.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
