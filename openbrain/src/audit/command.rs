//! Commands as the log has them: whole, unless they are very long.

use std::fmt::Write;

use ring::digest::{Context, SHA256};

use super::record::Cut;
use crate::exec::Command;

/// How many bytes of a command are kept. Nobody reads more, and a log that is full of one command
/// has lost the others.
const MOST: usize = 32 << 10;

/// A command as it is recorded, and what is to be known of it when it had to be cut.
pub(super) fn recorded(command: &Command) -> (Command, Option<Cut>) {
    match command {
        Command::Shell(text) => {
            let cut = digest(&[text], "");
            (Command::Shell(beginning(text, MOST).to_owned()), cut)
        }
        Command::Script { language, source } => {
            let (language, kept) = (language.clone(), beginning(source, MOST).to_owned());
            (Command::Script { language, source: kept }, digest(&[source], ""))
        }
        Command::Argv(argv) => {
            let mut left = MOST;
            let kept = argv.iter().map_while(|argument| {
                let room = left;
                left = left.saturating_sub(argument.len() + 1);
                (room > 0).then(|| beginning(argument, room).to_owned())
            });
            (Command::Argv(kept.collect()), digest(argv, "\0"))
        }
    }
}

/// The longest beginning of at most so many bytes.
pub(super) fn beginning(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Length and sum of a command that is too long to be kept, with `after` behind each part.
fn digest<T: AsRef<str>>(parts: &[T], after: &str) -> Option<Cut> {
    let bytes: usize = parts.iter().map(|part| part.as_ref().len() + after.len()).sum();
    if bytes <= MOST {
        return None;
    }
    let mut sum = Context::new(&SHA256);
    for part in parts {
        sum.update(part.as_ref().as_bytes());
        sum.update(after.as_bytes());
    }
    let sha256 = sum.finish().as_ref().iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    });
    Some(Cut { bytes: bytes as u64, sha256 })
}

#[cfg(test)]
mod tests {
    use super::{Cut, MOST, recorded};
    use crate::exec::Command;

    #[test]
    fn a_command_of_ordinary_length_is_whole() {
        for command in [
            Command::Shell("x".repeat(MOST)),
            Command::Argv(vec!["a".into(), String::new(), "b c".into()]),
            Command::Script { language: Some("python".into()), source: "print(1)".into() },
        ] {
            assert_eq!(recorded(&command), (command, None));
        }
    }

    #[test]
    fn a_long_text_is_cut_and_can_be_compared() {
        let text = "é".repeat(50_000);
        let cut = Cut {
            bytes: 100_000,
            // `printf 'é%.0s' $(seq 50000) | sha256sum`
            sha256: "e7b09b8c3b2a4d494a6274451095b59b1022311a8bcd9a10ae1a9ffb08a91440".into(),
        };
        let kept = "é".repeat(MOST / 2);
        let recorded = recorded(&Command::Shell(text));
        assert_eq!(recorded, (Command::Shell(kept), Some(cut)));
    }

    #[test]
    fn long_arguments_are_cut_at_the_end() {
        let argv = vec!["first".to_owned(), "x".repeat(MOST), "last".into()];
        let (command, cut) = recorded(&Command::Argv(argv));
        assert_eq!(command, Command::Argv(vec!["first".into(), "x".repeat(MOST - 6)]));
        // Of `first`, 32768 times `x`, and `last`, each with a NUL byte after it.
        let cut = cut.unwrap();
        assert_eq!(
            (cut.bytes, cut.sha256.as_str()),
            (32_780, "d6af6f71c58d62e360d7dbf5ccdea92fef4455662bd91444f2a1d206d556b3ff")
        );
    }
}
