//! What has changed of a text.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use similar::TextDiff;

use super::{NoDiff, text::quoted};

/// The longest file of which a diff is made.
pub(super) const LONGEST: u64 = 256 << 10;

/// The longest time for one diff; what is not known by then is told line by line, as removed and added.
const TIME: Duration = Duration::from_millis(200);

/// How much all diffs of a report may have, in bytes, and how long they may take.
const MOST: usize = 2 << 20;
const MOST_TIME: Duration = Duration::from_secs(5);

/// What the diffs of a report may still have.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: usize,
    time: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: MOST, time: MOST_TIME }
    }
}

impl Budget {
    /// Whether there is nothing left.
    pub(super) fn is_spent(&self) -> bool {
        self.bytes == 0 || self.time.is_zero()
    }

    /// The diff of a file at a path below its mount; `None` on a side stands for no file.
    pub(super) fn diff(
        &mut self,
        path: &Path,
        old: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<String, NoDiff> {
        let started = Instant::now();
        let diff = unified(path, old, new)?;
        self.time = self.time.saturating_sub(started.elapsed());
        match self.bytes.checked_sub(diff.len()) {
            Some(left) => {
                self.bytes = left;
                Ok(diff)
            }
            None => {
                self.bytes = 0;
                Err(NoDiff::Limit)
            }
        }
    }
}

/// A unified diff with three lines around each change, as `patch -p1` reads it.
fn unified(path: &Path, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<String, NoDiff> {
    let text = |content: Option<&[u8]>| match std::str::from_utf8(content.unwrap_or_default()) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(NoDiff::Binary),
    };
    let (before, after) = (text(old)?, text(new)?);
    let header = |side: &str, content: Option<&[u8]>| match content {
        Some(_) => quoted(&Path::new(side).join(path)),
        None => "/dev/null".to_owned(),
    };
    let diff = TextDiff::configure().timeout(TIME).diff_lines(&*before, &*after);
    let mut unified = diff.unified_diff();
    Ok(unified.context_radius(3).header(&header("a", old), &header("b", new)).to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Budget, MOST, NoDiff};

    fn diff(old: Option<&[u8]>, new: Option<&[u8]>) -> Result<String, NoDiff> {
        Budget::default().diff(Path::new("d/f"), old, new)
    }

    #[test]
    fn a_diff_is_what_patch_reads() {
        let expected = "--- a/d/f\n+++ b/d/f\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n";
        assert_eq!(diff(Some(b"a\nb\nc\n"), Some(b"a\nB\nc\n")).unwrap(), expected);
        let expected =
            "--- /dev/null\n+++ b/d/f\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n";
        assert_eq!(diff(None, Some(b"x")).unwrap(), expected);
        let expected = "--- a/d/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";
        assert_eq!(diff(Some(b"x\n"), None).unwrap(), expected);
    }

    #[test]
    fn what_is_no_text_is_binary() {
        assert_eq!(diff(Some(b"a\0"), Some(b"b")), Err(NoDiff::Binary));
        assert_eq!(diff(None, Some(b"\xff")), Err(NoDiff::Binary));
    }

    #[test]
    fn diffs_are_bounded_together() {
        let mut budget = Budget::default();
        let long = vec![b'x'; MOST - 100];
        assert!(budget.diff(Path::new("a"), None, Some(&long)).is_ok());
        assert_eq!(budget.diff(Path::new("b"), None, Some(&long)), Err(NoDiff::Limit));
        assert!(budget.is_spent());
    }
}
