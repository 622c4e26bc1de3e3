//! What openbrain itself writes: messages on standard error, documents on standard output.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::Serialize;

use crate::failure::{Failure, Result};

/// Says something of our own on standard error. Nobody may be listening, which is no failure. What it
/// quotes may be a name that a sandbox has given, which no terminal is to obey.
pub(crate) fn say(message: impl Display) {
    let plain = |line: &str| line.chars().map(harmless).collect::<String>();
    let lines = message.to_string();
    // In one piece, because others write there too.
    let text: String = lines.lines().map(|line| format!("openbrain: {}\n", plain(line))).collect();
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Prints a text on standard output.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()).map_err(Failure::output)
}

/// Prints a value on standard output as one line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print(json_line(value)?)
}

/// Prints a value on standard output as YAML.
///
/// It goes through JSON, so that both forms have the same shape: YAML alone would write the
/// variants of an enum as tags.
pub(crate) fn print_yaml(value: &impl Serialize) -> Result<()> {
    let value = serde_json::to_value(value).map_err(|e| Failure::system("cannot write YAML", e))?;
    let text = serde_yaml::to_string(&value)
        .map_err(|e| Failure::system("cannot write YAML", io::Error::other(e)))?;
    print(text)
}

/// A value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(|e| Failure::system("cannot write JSON", e))?;
    Ok(text + "\n")
}

/// Rows below a line of titles, in columns; nothing when there are no rows.
pub(crate) fn table<const N: usize>(
    titles: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let rows: Vec<_> = std::iter::once(titles.map(str::to_owned)).chain(rows).collect();
    if rows.len() == 1 {
        return String::new();
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  "));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

/// The beginning of a text that somebody else has written, in one line and with nothing that a terminal
/// would obey.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let mut chars = text.trim_end().chars();
    let mut line: String = chars.by_ref().take(most).map(harmless).collect();
    if chars.next().is_some() {
        line.push('…');
    }
    line
}

/// A character, or what stands for one that a terminal would obey, or that changes the order of others.
pub(crate) fn harmless(c: char) -> String {
    let reorders = matches!(
        c,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    match c.is_control() || reorders {
        true => c.escape_debug().to_string(),
        false => c.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn what_others_wrote_cannot_command_the_terminal() {
        let text = "a\u{1b}[2J\r\n\u{202e}\u{7}é\"\\";
        assert_eq!(one_line(text, 99), r#"a\u{1b}[2J\r\n\u{202e}\u{7}é"\"#);
        assert_eq!(one_line("ééé", 2), "éé…");
    }
}
