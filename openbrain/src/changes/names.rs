//! How much the names in a report may take together.

use std::path::Path;

/// The most bytes of all paths of a report as JSON, and of those that wait to be looked at.
const MOST: usize = 16 << 20;
pub(super) const MOST_WAITING: usize = 64 << 20;

/// What the names of a report may still have.
#[derive(Debug)]
pub(super) struct Names {
    left: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { left: MOST }
    }
}

impl Names {
    /// Takes room for a path; false, from then on, when there is not enough.
    pub(super) fn take(&mut self, path: &Path) -> bool {
        let rest = self.left.checked_sub(length(path));
        self.left = rest.unwrap_or(0);
        rest.is_some()
    }

    /// Whether there is nothing left.
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}

/// How long a path is in JSON. A control character takes six bytes there, and a report is to fit where
/// its entries do.
fn length(path: &Path) -> usize {
    let of = |c: char| match c {
        '"' | '\\' => 2,
        '\0'..='\x1f' => 6,
        c => c.len_utf8(),
    };
    match path.to_str() {
        Some(text) => text.chars().map(of).sum(),
        None => path.as_os_str().len().div_ceil(3) * 4,
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

    use super::{MOST, Names, length};

    #[test]
    fn a_path_is_as_long_as_its_json() {
        for text in ["", "/workspace/a", "a\"b\\c", "new\nline\u{1}\u{7f}", "é€𝄞"] {
            let json = serde_json::to_string(text).unwrap();
            assert!(length(Path::new(text)) + 2 >= json.len(), "{json}");
        }
        assert_eq!(length(Path::new(OsStr::from_bytes(b"\xff\xff"))), 4);
    }

    #[test]
    fn names_have_so_much_room_together() {
        let (mut names, long) = (Names::default(), "x".repeat(MOST / 2));
        assert!(names.take(Path::new(&long)));
        assert!(names.take(Path::new(&long[1..])));
        assert!(!names.is_spent());
        assert!(!names.take(Path::new("ab")));
        assert!(names.is_spent() && !names.take(Path::new("a")));
    }
}
