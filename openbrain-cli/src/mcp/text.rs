//! Output as a model reads it: what a terminal would show, and only so much of it.

use std::str::Chars;

/// The share of a shortened text that is its beginning, in percent. The end matters more: there
/// compilers and test programs sum up.
const HEAD_SHARE: usize = 40;

/// The parts of a stream that were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pieces {
    /// The beginning.
    pub(super) head: Vec<u8>,
    /// The end; empty when the beginning is everything.
    pub(super) tail: Vec<u8>,
    /// Whether something is missing between them.
    pub(super) gap: bool,
    /// How many bytes the command wrote.
    pub(super) total: u64,
}

/// A stream cut to a number of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Excerpt {
    /// The text, with one line in place of what is missing.
    pub(super) text: String,
    /// Whether something is missing.
    pub(super) cut: bool,
}

impl Pieces {
    /// The text of the pieces, at most about `most` characters of it.
    pub(super) fn excerpt(&self, most: usize, text: fn(&[u8]) -> String) -> Excerpt {
        let Self { head, tail, gap, total } = self;
        let (head, tail) = match gap {
            true => (text(whole_end(head)), text(whole_start(tail))),
            false => (text(&[head.as_slice(), tail].concat()), String::new()),
        };
        if !gap && characters(&head) <= most {
            return Excerpt { text: head, cut: false };
        }
        let begin = first(&head, most * HEAD_SHARE / 100);
        let end = last(if *gap { &tail } else { &head }, most - most * HEAD_SHARE / 100);
        let ended = if begin.is_empty() || begin.ends_with('\n') { "" } else { "\n" };
        let text = format!("{begin}{ended}[… part of these {total} bytes is not shown …]\n{end}");
        Excerpt { text, cut: true }
    }

    /// How many characters the whole text has, as far as it was looked at.
    pub(super) fn length(&self, text: fn(&[u8]) -> String) -> usize {
        characters(&text(&self.head)) + characters(&text(&self.tail))
    }
}

/// Shares `most` characters between two texts: what one does not need, the other has.
pub(super) fn share(first: usize, second: usize, most: usize) -> (usize, usize) {
    let half = most / 2;
    match (first <= half, second <= half) {
        (true, _) => (first, most - first),
        (false, true) => (most - second, second),
        (false, false) => (half, most - half),
    }
}

/// Bytes as text; invalid UTF-8 is replaced.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes as a terminal shows them: without escape sequences, and of a line that was written several
/// times, as progress bars do, only what it ended as.
pub(super) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut screen = Screen::default();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => screen.obey(escape(&mut chars)),
            _ => screen.put(c),
        }
    }
    screen.text.push_str(&screen.line);
    screen.text
}

/// Lines as they are written.
#[derive(Default)]
struct Screen {
    /// The lines before.
    text: String,
    line: String,
    /// Whether the next character begins the line anew.
    returned: bool,
}

/// What an escape sequence asks for, as far as it matters here.
#[derive(PartialEq, Eq)]
enum Escape {
    /// Erase from the cursor to the end of the line: `CSI K`.
    EraseRest,
    /// Erase the line: `CSI 2 K`.
    EraseLine,
    /// Colours, titles, movements.
    Other,
}

impl Screen {
    fn put(&mut self, c: char) {
        match c {
            '\n' => {
                self.text.push_str(&self.line);
                self.text.push('\n');
                self.line.clear();
                self.returned = false;
            }
            '\r' => self.returned = true,
            '\x08' => drop(self.line.pop()),
            '\t' => self.line.push(c),
            _ if c.is_control() => {}
            _ => {
                if std::mem::take(&mut self.returned) {
                    self.line.clear();
                }
                self.line.push(c);
            }
        }
    }

    fn obey(&mut self, escape: Escape) {
        let erased = escape == Escape::EraseLine || (escape == Escape::EraseRest && self.returned);
        if erased {
            self.line.clear();
        }
    }
}

/// Reads what follows an ESC: ECMA-48, and the control strings of xterm.
fn escape(chars: &mut Chars<'_>) -> Escape {
    match chars.next() {
        Some('[') => {
            let mut parameters = String::new();
            for c in chars {
                match c {
                    'K' if parameters == "2" => return Escape::EraseLine,
                    'K' if parameters.is_empty() || parameters == "0" => return Escape::EraseRest,
                    '\x40'..='\x7e' => return Escape::Other,
                    _ => parameters.push(c),
                }
            }
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            let mut escaped = false;
            for c in chars {
                match c {
                    '\x07' => return Escape::Other,
                    '\\' if escaped => return Escape::Other,
                    _ => escaped = c == '\x1b',
                }
            }
        }
        Some('\x20'..='\x2f') => {
            chars.find(|c| !('\x20'..='\x2f').contains(c));
        }
        _ => {}
    }
    Escape::Other
}

/// How many characters a text takes up in an answer. There, a control character without a short form
/// is written as six (RFC 8259, section 7).
fn characters(text: &str) -> usize {
    text.chars().map(width).sum()
}

fn width(c: char) -> usize {
    if c < ' ' && !matches!(c, '\n' | '\t' | '\r' | '\x08' | '\x0c') { 6 } else { 1 }
}

/// The first characters, at most so many; whole lines when there are any.
fn first(text: &str, most: usize) -> &str {
    let end = boundary(text.char_indices(), most).unwrap_or(text.len());
    match text[..end].rfind('\n') {
        Some(newline) if newline >= end / 2 && end < text.len() => &text[..=newline],
        _ => &text[..end],
    }
}

/// The last characters, at most so many; whole lines when there are any.
fn last(text: &str, most: usize) -> &str {
    // The last ones begin where the character ends that is one too many.
    let too_many = boundary(text.char_indices().rev(), most);
    let start = too_many.map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    match text[start..].find('\n') {
        Some(newline) if newline < (text.len() - start) / 2 && start > 0 => {
            &text[start + newline + 1..]
        }
        _ => &text[start..],
    }
}

/// Where the first of some characters is that has no room in `most`.
fn boundary(mut chars: impl Iterator<Item = (usize, char)>, most: usize) -> Option<usize> {
    let mut used = 0;
    chars.find_map(|(at, c)| {
        used += width(c);
        (used > most).then_some(at)
    })
}

/// The bytes without an incomplete character at the end.
fn whole_end(bytes: &[u8]) -> &[u8] {
    let continued = |byte: &&u8| (0x80..0xc0).contains(*byte);
    let begun = bytes.iter().rev().take(3).take_while(continued).count() + 1;
    let at = bytes.len().saturating_sub(begun);
    match std::str::from_utf8(&bytes[at..]) {
        // No length: more bytes could make it a character.
        Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => &bytes[..at],
        _ => bytes,
    }
}

/// How many bytes have room in `most` characters of an answer, roughly; never less than one character.
pub(super) fn room(bytes: &[u8], most: u64) -> usize {
    let widths = bytes.iter().scan(0, |used, byte| {
        *used += width(char::from(*byte)) as u64;
        Some(*used)
    });
    widths.take_while(|used| *used <= most).count().max(char::MAX.len_utf8())
}

/// The bytes without an incomplete character at the end, which the next page begins with; all of
/// them when there is nothing else, so that every page gets further.
pub(super) fn page(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = whole_end(&bytes).len();
    if length > 0 {
        bytes.truncate(length);
    }
    bytes
}

/// The bytes without the rest of a character at the start.
fn whole_start(bytes: &[u8]) -> &[u8] {
    let rest = bytes.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
    &bytes[rest..]
}

#[cfg(test)]
mod tests {
    use super::{Excerpt, Pieces, lossy, page, plain, room, share, whole_end};

    fn whole(text: &str) -> Pieces {
        let (head, total) = (text.as_bytes().to_vec(), text.len() as u64);
        Pieces { head, total, ..Pieces::default() }
    }

    #[test]
    fn a_page_ends_between_characters_and_always_gets_further() {
        assert_eq!(page("aé".as_bytes()[..2].to_vec()), b"a");
        assert_eq!(page(vec![0xe2, 0x82]), [0xe2, 0x82]);
        assert_eq!(page(vec![0xff]), [0xff]);
    }

    #[test]
    fn what_json_writes_longer_needs_more_room() {
        for (bytes, expected) in
            [(&b"fifteen bytes or more"[..], 15), (b"a\0\nb\0c\0\0\0", 5), (&[0; 9], 4)]
        {
            assert_eq!(room(bytes, 15), expected, "{bytes:?}");
        }
    }

    #[test]
    fn colours_and_titles_go() {
        for (written, shown) in [
            ("\x1b[1;31merror\x1b[0m: no\n", "error: no\n"),
            ("\x1b]0;title\x07text", "text"),
            ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b(Bplain\x1b[?25l", "plain"),
            ("a\x1b", "a"),
            ("a\x1b[3", "a"),
            ("bell\x07 and nul\0", "bell and nul"),
            ("tab\tstays", "tab\tstays"),
        ] {
            assert_eq!(plain(written.as_bytes()), shown, "{written:?}");
        }
    }

    #[test]
    fn a_progress_bar_is_its_last_state() {
        for (written, shown) in [
            ("10%\r50%\r100%\ndone\n", "100%\ndone\n"),
            ("windows\r\nlines\r\n", "windows\nlines\n"),
            ("working\r\x1b[Kdone\n", "done\n"),
            ("working\x1b[2K\rdone", "done"),
            ("gone\r\x1b[K\nnext", "\nnext"),
            ("kept\x1b[K\n", "kept\n"),
            ("ab\x08c", "ac"),
        ] {
            assert_eq!(plain(written.as_bytes()), shown, "{written:?}");
        }
    }

    #[test]
    fn a_short_text_is_whole() {
        let excerpt = whole("one\ntwo\n").excerpt(8, lossy);
        assert_eq!(excerpt, Excerpt { text: "one\ntwo\n".into(), cut: false });
    }

    #[test]
    fn a_long_text_keeps_whole_lines_of_both_ends() {
        let lines: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        let Excerpt { text, cut } = whole(&lines).excerpt(200, lossy);
        assert!(cut && text.starts_with("line 0\nline 1\n"), "{text}");
        assert!(text.ends_with("\nline 998\nline 999\n"), "{text}");
        assert!(text.contains("\n[… part of these 8890 bytes is not shown …]\nline 9"), "{text}");
        assert!(text.chars().count() <= 200 + 60, "{text}");
    }

    #[test]
    fn a_long_line_is_cut_inside() {
        let Excerpt { text, cut } = whole(&"x".repeat(1000)).excerpt(100, lossy);
        assert!(cut && text.starts_with(&"x".repeat(40)) && text.ends_with(&"x".repeat(60)));
    }

    #[test]
    fn what_json_writes_longer_is_longer() {
        let noise = "\0\u{1b}\u{1f}".repeat(10_000);
        let Excerpt { text, cut } = whole(&noise).excerpt(600, lossy);
        let json = serde_json::to_string(&text).unwrap();
        assert!(cut && (500..700).contains(&json.len()), "{}", json.len());
    }

    #[test]
    fn a_gap_is_always_told_and_characters_stay_whole() {
        let euro = "€".as_bytes();
        let pieces = Pieces {
            head: [b"a", &euro[..2]].concat(),
            tail: [&euro[2..], b"b"].concat(),
            gap: true,
            total: 99,
        };
        let Excerpt { text, cut } = pieces.excerpt(1000, lossy);
        assert_eq!((text.as_str(), cut), ("a\n[… part of these 99 bytes is not shown …]\nb", true));
    }

    #[test]
    fn an_incomplete_character_is_left_for_later() {
        let text = "aé€😀".as_bytes();
        for end in 0..=text.len() {
            let kept = whole_end(&text[..end]);
            assert!(std::str::from_utf8(kept).is_ok() && end - kept.len() < 4, "{end}");
        }
        for invalid in [&b"\xff"[..], b"\xff\x80\x80", b"\xe2A", b"\x80\x80\x80\x80"] {
            assert_eq!(whole_end(invalid), invalid);
        }
    }

    #[test]
    fn what_one_stream_does_not_need_the_other_has() {
        assert_eq!(share(10, 1000, 100), (10, 90));
        assert_eq!(share(1000, 10, 100), (90, 10));
        assert_eq!(share(1000, 1000, 100), (50, 50));
        assert_eq!(share(10, 10, 100), (10, 90));
    }
}
