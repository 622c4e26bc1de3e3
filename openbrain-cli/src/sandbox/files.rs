//! `openbrain sandbox files`: the files of a sandbox, without a command of its own.

use std::{
    io::{self, Read},
    path::Path,
};

use openbrain::{FileEntry, FileKind, Joined, Transfer, WriteOptions};

use super::{
    args::{FileArgs, FilesCommand, TwoFiles},
    join,
};
use crate::{
    console::{one_line, print, print_json, say, table},
    exit,
    failure::{Failure, Result},
    file_view::FileView,
    moment::rfc3339,
    program::absolute,
};

/// How much is read of standard input at a time.
const PIECE: usize = 64 * 1024;

/// Stands for an archive on a standard stream.
const ARCHIVE: &str = "-";

const TITLES: [&str; 4] = ["MODE", "SIZE", "CHANGED", "NAME"];

/// Runs `openbrain sandbox files` and returns the exit code.
pub(super) async fn run(command: FilesCommand) -> Result<u8> {
    match command {
        FilesCommand::Ls(at) => {
            let entries = enter(&at).await?.files().list(&at.path).await?;
            show(&entries, at.json)?;
        }
        FilesCommand::Find { at, pattern } => {
            let found = enter(&at).await?.files().search(&at.path, &pattern).await?;
            show(&found, at.json)?;
        }
        FilesCommand::Stat(at) => {
            let entry = enter(&at).await?.files().stat(&at.path).await?;
            match at.json {
                true => print_json(&FileView::of(&entry))?,
                false => show(&[entry], false)?,
            }
        }
        FilesCommand::Cat(at) => {
            let joined = enter(&at).await?;
            let mut reader = joined.files().reader(&at.path, 0).await?;
            while let Some(piece) = reader.next().await? {
                print(piece)?;
            }
        }
        FilesCommand::Write { at, append } => {
            let joined = enter(&at).await?;
            let options = WriteOptions { append, ..WriteOptions::default() };
            let mut writer = joined.files().writer(&at.path, options).await?;
            let mut piece = vec![0; PIECE];
            loop {
                let count = io::stdin().lock().read(&mut piece);
                let count = count.map_err(|e| Failure::system("cannot read standard input", e))?;
                if count == 0 {
                    break;
                }
                writer.write(&piece[..count]).await?;
            }
            writer.finish().await?;
        }
        FilesCommand::Mkdir(at) => enter(&at).await?.files().mkdir(&at.path).await?,
        FilesCommand::Rm { at, recursive: false } => {
            enter(&at).await?.files().remove(&at.path).await?;
        }
        FilesCommand::Rm { at, recursive: true } => {
            enter(&at).await?.files().remove_all(&at.path).await?;
        }
        FilesCommand::Mv(TwoFiles { sandbox, from, to, settings }) => {
            join(&settings, &sandbox).await?.files().rename(from, to).await?;
        }
        FilesCommand::Upload(TwoFiles { sandbox, from, to, settings }) => {
            let joined = join(&settings, &sandbox).await?;
            tell(&match from == Path::new(ARCHIVE) {
                true => joined.files().upload_tar(to, tokio::io::stdin()).await?,
                false => joined.files().upload(absolute(&from)?, to).await?,
            });
        }
        FilesCommand::Download(TwoFiles { sandbox, from, to, settings }) => {
            let joined = join(&settings, &sandbox).await?;
            if to == Path::new(ARCHIVE) {
                let mut archive = joined.files().download_tar(&from).await?;
                tokio::io::copy(&mut archive, &mut tokio::io::stdout())
                    .await
                    .map_err(|e| Failure::system("cannot pass the archive on", e))?;
                return Ok(exit::SUCCESS);
            }
            tell(&joined.files().download(from, absolute(&to)?).await?);
        }
    }
    Ok(exit::SUCCESS)
}

async fn enter(at: &FileArgs) -> Result<Joined> {
    join(&at.settings, &at.sandbox).await
}

/// Says what was copied and what was not.
fn tell(transfer: &Transfer) {
    say(format_args!("{} entries, {} bytes", transfer.entries, transfer.bytes));
    for path in &transfer.skipped {
        let path = one_line(&path.display().to_string(), usize::MAX);
        say(format_args!("skipped `{path}`: no file, directory or link"));
    }
}

fn show(entries: &[FileEntry], as_json: bool) -> Result<()> {
    match as_json {
        true => print_json(&entries.iter().map(FileView::of).collect::<Vec<_>>()),
        false => print(table(TITLES, entries.iter().map(row))),
    }
}

fn row(entry: &FileEntry) -> [String; 4] {
    let kind = match entry.kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Link => 'l',
        FileKind::Other => '?',
    };
    let target = entry.target.as_ref().map(|target| format!(" -> {}", target.display()));
    [
        format!("{kind}{:04o}", entry.mode),
        entry.size.to_string(),
        rfc3339(entry.modified),
        one_line(&format!("{}{}", entry.path.display(), target.unwrap_or_default()), usize::MAX),
    ]
}
