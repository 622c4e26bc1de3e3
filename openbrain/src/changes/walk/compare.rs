//! The comparison of one entry with what is below it.

use std::{ffi::OsString, io, os::unix::ffi::OsStringExt, path::PathBuf};

use rustix::fs::OFlags;

use super::{
    super::{
        EntryKind, Given, NoDiff, content, diff,
        folder::{Folder, Stat},
    },
    Details, OneLayer, Task,
};

impl OneLayer<'_> {
    /// What makes two entries different, if they are.
    pub(super) fn difference(
        &mut self,
        task: &Task,
        upper: &Stat,
        lower: &Stat,
    ) -> Option<Details> {
        let is_same = upper.kind() == lower.kind()
            && match upper.kind() {
                EntryKind::File => self.is_same_content(task, upper, lower),
                EntryKind::Link => {
                    let below = self.lower_target(task);
                    below.is_some() && link(&self.layer.upper, task).ok() == below
                }
                _ => true,
            };
        match (is_same, upper.print.mode == lower.print.mode) {
            (true, true) => None,
            (true, false) => Some(Details { target: self.target(task, upper), diff: None }),
            (false, _) => Some(self.details(task, Some(upper), Some(lower))),
        }
    }

    fn is_same_content(&self, task: &Task, upper: &Stat, lower: &Stat) -> bool {
        let Some(below) = self.layer.lower.as_ref() else { return false };
        if upper.print.size != lower.print.size {
            return false;
        }
        if let Some(Given::File(given)) = self.given(task) {
            let new = self.layer.upper.file(&task.path);
            let new = new.and_then(|new| content::read(&new, lower.print.size));
            return new.is_ok_and(|new| new.as_ref() == Some(given));
        }
        if !below.may_be_read(lower.uid, lower.print.mode) {
            return false;
        }
        let compare = || {
            let (new, old) = (self.layer.upper.file(&task.path)?, below.folder.file(&task.path)?);
            content::is_same(&new, &old, upper.print.size, self.deadline)
        };
        // What cannot be compared is taken for changed.
        compare().unwrap_or(false)
    }

    pub(super) fn details(
        &mut self,
        task: &Task,
        new: Option<&Stat>,
        old: Option<&Stat>,
    ) -> Details {
        let is_file = |stat: &&Stat| stat.kind() == EntryKind::File;
        let (new_file, old_file) = (new.filter(is_file), old.filter(is_file));
        let target = new.or(old).and_then(|stat| self.target(task, stat));
        let diff = match (new_file, old_file) {
            (None, None) => None,
            (new, old) => Some(self.diff(task, new, old)),
        };
        Details { target, diff }
    }

    /// Where a link leads, or has led.
    fn target(&self, task: &Task, stat: &Stat) -> Option<PathBuf> {
        if stat.kind() != EntryKind::Link {
            return None;
        }
        match task.upper {
            Some(_) => link(&self.layer.upper, task).ok(),
            None => self.lower_target(task),
        }
    }

    fn lower_target(&self, task: &Task) -> Option<PathBuf> {
        match self.given(task) {
            Some(Given::Link(target)) => Some(target.clone()),
            Some(Given::File(_)) => None,
            None => link(&self.layer.lower.as_ref()?.folder, task).ok(),
        }
    }

    /// What the sandbox was given there, in the place of what is below.
    pub(super) fn given(&self, task: &Task) -> Option<&Given> {
        self.layer.given.get(&task.path)
    }

    /// The diff of a file whose content has changed.
    fn diff(
        &mut self,
        task: &Task,
        new: Option<&Stat>,
        old: Option<&Stat>,
    ) -> Result<String, NoDiff> {
        let may_be_read = |old: &Stat| {
            let lower = self.layer.lower.as_ref();
            lower.is_some_and(|lower| lower.may_be_read(old.uid, old.print.mode))
        };
        let given = self.given(task);
        if given.is_none() && old.is_some_and(|old| !may_be_read(old)) {
            return Err(NoDiff::Unreadable);
        }
        if [new, old].into_iter().flatten().any(|stat| stat.print.size > diff::LONGEST) {
            return Err(NoDiff::TooLarge);
        }
        if self.walk.budget.is_spent() {
            return Err(NoDiff::Limit);
        }
        let read = |folder: &Folder| -> io::Result<Option<Vec<u8>>> {
            content::read(&folder.file(&task.path)?, diff::LONGEST)
        };
        let new = new.map(|_| read(&self.layer.upper)).transpose();
        let old = match (old, given) {
            (Some(_), Some(Given::File(content))) => Ok(Some(Some(content.clone()))),
            (old, _) => {
                old.and(self.layer.lower.as_ref()).map(|lower| read(&lower.folder)).transpose()
            }
        };
        let (Ok(new), Ok(old)) = (new, old) else { return Err(NoDiff::Unreadable) };
        if matches!(new, Some(None)) || matches!(old, Some(None)) {
            return Err(NoDiff::TooLarge);
        }
        let (new, old) = (new.flatten(), old.flatten());
        self.walk.budget.diff(&task.path, old.as_deref(), new.as_deref())
    }
}

/// Where a symbolic link leads.
fn link(folder: &Folder, task: &Task) -> io::Result<PathBuf> {
    let link = folder.open(&task.path, OFlags::PATH)?;
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}
