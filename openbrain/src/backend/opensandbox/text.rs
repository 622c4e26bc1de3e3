//! From the texts of an agent's events back to what the command wrote, without any I/O.

/// What the texts of an agent's events stand for. No agent says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputContract {
    /// Newer agents: the texts, put together, are the stream.
    Exact,
    /// Older agents: a text is a line without its end, `"\n"` is an empty line, `\r` ends a line too,
    /// and whether the last line had an end is not told.
    Lines,
}

/// Restores one output stream from the texts of its events.
///
/// # Which contract
///
/// A text that holds a line's end and is more than `"\n"` proves [`OutputContract::Exact`], since an
/// older agent cuts there. Nothing proves the other one: `a` and `b` may be two lines or two pieces
/// of one. While nothing is known, lines are assumed as soon as a second text comes without a proof,
/// and at the end of the stream, because a newer agent that sees a line's end sends it.
///
/// To be sure, let the command write a line of its own before anything else: its text has an end in
/// it or not. The contract is the same for all streams of an agent, so what one has shown
/// ([`contract`](Self::contract)) can be given to the next.
///
/// ```
/// use openbrain::opensandbox::{OutputContract, OutputText};
///
/// let mut older = OutputText::new(Some(OutputContract::Lines));
/// assert_eq!(older.push("a".into()) + &older.push("\n".into()), "a\n\n");
/// assert!(older.lossy());
/// let mut newer = OutputText::new(None);
/// assert_eq!(newer.push("a\nb".into()) + newer.finish(), "a\nb");
/// assert!(!newer.lossy());
/// ```
#[derive(Clone, Debug, Default)]
pub struct OutputText {
    contract: Option<OutputContract>,
    /// Whether the last text still lacks an end, should it be a line.
    open: bool,
    /// Whether a line's end may have been added or left out, or bytes replaced.
    lossy: bool,
}

impl OutputText {
    /// A stream of an agent whose contract is known, or is not.
    pub fn new(contract: Option<OutputContract>) -> Self {
        Self { contract, ..Self::default() }
    }

    /// What the text of the next event adds to the stream.
    pub fn push(&mut self, mut text: String) -> String {
        if text.is_empty() {
            return text;
        }
        self.lossy |= text.contains('\u{fffd}');
        if text.len() > 1 && text.contains(['\n', '\r']) || text == "\r" {
            self.contract = Some(OutputContract::Exact);
            self.open = false;
        }
        let begun = std::mem::take(&mut self.open);
        if begun && self.contract.is_none() {
            self.contract = Some(OutputContract::Lines);
            text.insert(0, '\n');
        }
        match self.contract {
            Some(OutputContract::Exact) => {}
            Some(OutputContract::Lines) => {
                self.lossy = true;
                if !text.ends_with('\n') {
                    text.push('\n');
                }
            }
            None => self.open = !text.ends_with('\n'),
        }
        text
    }

    /// What the end of the stream adds to it.
    pub fn finish(&mut self) -> &'static str {
        if !std::mem::take(&mut self.open) {
            return "";
        }
        self.lossy = true;
        "\n"
    }

    /// What is known about the agent by now.
    pub fn contract(&self) -> Option<OutputContract> {
        self.contract
    }

    /// Whether bytes may have been lost so far: lines' ends of an older agent, or bytes that are no
    /// UTF-8, which every agent replaces by U+FFFD.
    pub fn lossy(&self) -> bool {
        self.lossy
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert, prop_assert_eq, proptest},
    };

    use super::{OutputContract, OutputText};

    fn restored(mut output: OutputText, texts: &[&str]) -> (String, bool) {
        let mut whole: String = texts.iter().map(|text| output.push((*text).to_owned())).collect();
        whole += output.finish();
        (whole, output.lossy())
    }

    fn unknown(texts: &[&str]) -> (String, bool) {
        restored(OutputText::new(None), texts)
    }

    #[test]
    fn a_line_end_inside_of_a_text_proves_the_newer_contract() {
        for texts in [&["a\n", "b"][..], &["a", "b\n"], &["\n", "a\r"], &["a\r\n", "\n"], &["\r"]] {
            assert_eq!(unknown(texts), (texts.concat(), false), "{texts:?}");
        }
    }

    #[test]
    fn without_a_proof_texts_are_lines() {
        assert_eq!(unknown(&["a"]), ("a\n".to_owned(), true));
        assert_eq!(unknown(&["a", "b"]), ("a\nb\n".to_owned(), true));
        assert_eq!(unknown(&["a", "\n", "b"]), ("a\n\nb\n".to_owned(), true));
        assert_eq!(unknown(&["\n", "a"]), ("\na\n".to_owned(), true));
        assert_eq!(unknown(&[]), (String::new(), false));
    }

    #[test]
    fn a_proof_that_comes_late_is_told() {
        let mut output = OutputText::new(None);
        let whole = ["a", "b", "c\n"].map(|text| output.push(text.to_owned())).concat();
        assert_eq!(whole, "a\nb\nc\n");
        assert_eq!(output.contract(), Some(OutputContract::Exact));
        assert!(output.lossy());
    }

    #[test]
    fn replaced_bytes_are_told() {
        let newer = OutputText::new(Some(OutputContract::Exact));
        assert_eq!(restored(newer, &["\u{fffd}\n"]), ("\u{fffd}\n".to_owned(), true));
    }

    /// The texts of an agent that keeps the older contract.
    fn lines(text: &str) -> Vec<&str> {
        let line = |line| if str::is_empty(line) { "\n" } else { line };
        text.strip_suffix('\n').map(|text| text.split('\n').map(line).collect()).unwrap_or_default()
    }

    proptest! {
        #[test]
        fn the_newer_contract_is_exact(texts in vec("(?s).{0,8}", 0..12)) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let output = OutputText::new(Some(OutputContract::Exact));
            let (whole, lossy) = restored(output, &texts);
            prop_assert_eq!(&whole, &texts.concat());
            prop_assert_eq!(lossy, whole.contains('\u{fffd}'));
        }

        #[test]
        fn the_newer_contract_is_exact_where_lines_are_whole(lines in vec("[a-z]{1,3}\n", 0..9)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert_eq!(unknown(&lines), (lines.concat(), false));
        }

        #[test]
        fn the_older_contract_is_right_for_whole_lines(
            text in "([^\r\n]{0,3}\n){0,8}",
            known in any::<bool>(),
        ) {
            let output = OutputText::new(known.then_some(OutputContract::Lines));
            let (whole, lossy) = restored(output, &lines(&text));
            prop_assert_eq!(&whole, &text);
            // Line ends alone are the same in both contracts.
            prop_assert!(lossy || text.bytes().all(|byte| byte == b'\n'));
        }
    }
}
