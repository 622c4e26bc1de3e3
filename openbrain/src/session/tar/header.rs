//! The blocks of a tar archive: what they say, and how to say it. No input, no output.
//!
//! Written are the fields of `ustar` (POSIX.1-1988), and where something does not fit there, extended
//! headers (POSIX.1-2001, "pax"). Read are those, and the long names and numbers of GNU.

use std::fmt::{self, Write as _};

/// What an archive is made of.
pub(super) const BLOCK: usize = 512;

/// What follows of an entry's content is rounded up to blocks.
pub(super) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    /// Seconds since 1970, and nanoseconds after them.
    pub(super) mtime: (i64, u32),
}

/// The kinds of entries.
pub(super) mod kind {
    pub(crate) const FILE: u8 = b'0';
    pub(crate) const HARD_LINK: u8 = b'1';
    pub(crate) const LINK: u8 = b'2';
    pub(crate) const DIRECTORY: u8 = b'5';
    /// For the next entry.
    pub(crate) const EXTENDED: u8 = b'x';
    /// For all that follow.
    pub(crate) const GLOBAL: u8 = b'g';
    /// GNU: the content is the path of the next entry.
    pub(crate) const LONG_PATH: u8 = b'L';
    /// GNU: the content is where the next entry leads.
    pub(crate) const LONG_LINK: u8 = b'K';
    /// Devices and named pipes.
    pub(crate) const SPECIAL: [u8; 3] = [b'3', b'4', b'6'];
}

/// What a header cannot say in its own fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<(i64, u32)>,
}

/// Why a block is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    Checksum,
    Number,
    Extended,
    Sparse,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checksum => {
                "a header has a wrong checksum: this is no tar archive, or a compressed one"
            }
            Self::Number => "a header has a number that is none",
            Self::Extended => "an extended header cannot be read",
            Self::Sparse => "a file is stored in a sparse format",
        })
    }
}

impl std::error::Error for Malformed {}

/// Where the fields are: `(from, length)`.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const KIND: usize = 156;
const LINK_NAME: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const PREFIX: (usize, usize) = (345, 155);

const USTAR: &[u8] = b"ustar\x0000";

fn field(block: &[u8; BLOCK], (from, length): (usize, usize)) -> &[u8] {
    &block[from..from + length]
}

/// A field up to its NUL byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number: octal digits, or 256 to the power of the position when the first bit is set (GNU).
fn number(field: &[u8]) -> Result<i64, Malformed> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { i128::from(field[0]) - 256 } else { i128::from(field[0] & 0x7f) };
        let value = field[1..].iter().fold(first, |value, byte| value << 8 | i128::from(*byte));
        return value.try_into().map_err(|_| Malformed::Number);
    }
    let digits = std::str::from_utf8(text(field)).map_err(|_| Malformed::Number)?;
    match digits.trim_matches(' ') {
        "" => Ok(0),
        digits => i64::from_str_radix(digits, 8).map_err(|_| Malformed::Number),
    }
}

fn unsigned(field: &[u8]) -> Result<u64, Malformed> {
    number(field)?.try_into().map_err(|_| Malformed::Number)
}

/// The sum of all bytes, those of the checksum itself taken for spaces.
fn checksum(block: &[u8; BLOCK]) -> i64 {
    let (from, length) = CHECKSUM;
    let own = from..from + length;
    let byte = |(at, byte): (usize, &u8)| if own.contains(&at) { b' ' } else { *byte };
    block.iter().enumerate().map(|entry| i64::from(byte(entry))).sum()
}

impl Header {
    /// Whether a block is about the entries that follow.
    pub(super) fn is_about_others(block: &[u8; BLOCK]) -> bool {
        [kind::EXTENDED, kind::GLOBAL, kind::LONG_PATH, kind::LONG_LINK].contains(&block[KIND])
    }

    /// What a block says, with what was said before it; none for the end of an archive.
    pub(super) fn parse(
        block: &[u8; BLOCK],
        extended: Extended,
    ) -> Result<Option<Self>, Malformed> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if number(field(block, CHECKSUM)).ok() != Some(checksum(block)) {
            return Err(Malformed::Checksum);
        }
        let mut path = text(field(block, NAME)).to_vec();
        let prefix = text(field(block, PREFIX));
        if field(block, MAGIC) == USTAR && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let link = text(field(block, LINK_NAME)).to_vec();
        let mut header = Self {
            kind: block[KIND],
            path: extended.path.unwrap_or(path),
            link: extended.link.unwrap_or(link),
            mode: number(field(block, MODE))? as u32 & 0o7777,
            uid: unsigned(field(block, UID)).unwrap_or_default(),
            gid: unsigned(field(block, GID)).unwrap_or_default(),
            size: match extended.size {
                Some(size) => size,
                None => unsigned(field(block, SIZE))?,
            },
            mtime: match extended.mtime {
                Some(mtime) => mtime,
                None => (number(field(block, MTIME))?, 0),
            },
        };
        // The oldest archives have no kind, and a slash after the names of directories.
        if matches!(header.kind, 0 | b'7') {
            header.kind = kind::FILE;
        }
        if header.kind == kind::FILE && header.path.ends_with(b"/") {
            header.kind = kind::DIRECTORY;
        }
        // Links and directories have no content, whatever their header says.
        if matches!(header.kind, kind::LINK | kind::HARD_LINK | kind::DIRECTORY) {
            header.size = 0;
        }
        Ok(Some(header))
    }

    /// The blocks of this entry, up to its content.
    pub(super) fn blocks(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
        if !is_text(&self.path) || !is_text(&self.link) {
            record(&mut records, "hdrcharset", b"BINARY");
        }
        if self.path.len() > NAME.1 {
            record(&mut records, "path", &self.path);
        }
        if self.link.len() > LINK_NAME.1 {
            record(&mut records, "linkpath", &self.link);
        }
        if self.size >= 1 << 33 {
            record(&mut records, "size", self.size.to_string().as_bytes());
        }
        let (seconds, nanoseconds) = self.mtime;
        if nanoseconds > 0 || !(0..1 << 33).contains(&seconds) {
            record(&mut records, "mtime", decimal(seconds, nanoseconds).as_bytes());
        }
        let mut blocks = Vec::new();
        if !records.is_empty() {
            let size = records.len() as u64;
            let path = b"pax_header".to_vec();
            let own = Self { kind: kind::EXTENDED, path, mode: 0o644, size, ..Self::default() };
            blocks.extend_from_slice(&own.block());
            blocks.append(&mut records);
            blocks.resize(blocks.len() + padding(size), 0);
        }
        blocks.extend_from_slice(&self.block());
        blocks
    }

    /// The block itself: what does not fit was said before it.
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |(from, length): (usize, usize), bytes: &[u8]| {
            let length = bytes.len().min(length);
            block[from..from + length].copy_from_slice(&bytes[..length]);
        };
        let octal = |value: u64, length: usize| {
            let most = (1u64 << (3 * (length - 1))) - 1;
            format!("{:0width$o}", value.min(most), width = length - 1)
        };
        put(NAME, &self.path);
        put(LINK_NAME, &self.link);
        put(MAGIC, USTAR);
        let mtime = self.mtime.0.max(0) as u64;
        for (field, value) in [
            (MODE, self.mode.into()),
            (UID, self.uid),
            (GID, self.gid),
            (SIZE, self.size),
            (MTIME, mtime),
        ] {
            put(field, octal(value, field.1).as_bytes());
        }
        block[KIND] = self.kind;
        let sum = format!("{:06o}\0 ", checksum(&block));
        block[CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1].copy_from_slice(sum.as_bytes());
        block
    }
}

/// Adds a record to an extended header: its length, which counts itself, the keyword, the value.
fn record(records: &mut Vec<u8>, keyword: &str, value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    records.extend_from_slice(format!("{length} {keyword}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with a fraction; nanoseconds count upwards, also before 1970.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    let nanoseconds = i128::from(nanoseconds);
    let total = i128::from(seconds) * 1_000_000_000 + nanoseconds;
    let (sign, total) = if total < 0 { ("-", -total) } else { ("", total) };
    let mut text = String::new();
    let (whole, part) = (total / 1_000_000_000, total % 1_000_000_000);
    // Writing to a `String` cannot fail.
    let _ = write!(text, "{sign}{whole}.{part:09}");
    text
}

fn parse_decimal(text: &str) -> Option<(i64, u32)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let seconds: i128 = digits.parse::<u64>().ok()?.into();
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part: i128 = format!("{part:0<9}")[..9].parse().ok()?;
    let total = seconds * 1_000_000_000 + part;
    let total = if digits.len() < whole.len() { -total } else { total };
    let seconds = total.div_euclid(1_000_000_000).try_into().ok()?;
    Some((seconds, total.rem_euclid(1_000_000_000) as u32))
}

impl Extended {
    /// Takes the records of an extended header; those that nobody here needs are left out.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Result<(), Malformed> {
        while !records.is_empty() {
            let (record, rest) = split_record(records).ok_or(Malformed::Extended)?;
            records = rest;
            let (keyword, value) = record;
            let number = || std::str::from_utf8(value).ok();
            match keyword {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = number().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or(Malformed::Extended)?);
                }
                b"mtime" => {
                    let time = number().and_then(parse_decimal);
                    self.mtime = Some(time.ok_or(Malformed::Extended)?);
                }
                _ if keyword.starts_with(b"GNU.sparse") => return Err(Malformed::Sparse),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The first record, as keyword and value, and what follows it.
type Split<'a> = ((&'a [u8], &'a [u8]), &'a [u8]);

fn split_record(records: &[u8]) -> Option<Split<'_>> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((&record[..equals], &record[equals + 1..]), &records[length..]))
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert_eq, proptest},
    };

    use super::{BLOCK, Extended, Header, Malformed, kind, padding, parse_decimal};

    /// Reads what was written.
    fn read(mut blocks: &[u8]) -> Result<Option<Header>, Malformed> {
        let mut extended = Extended::default();
        loop {
            let (block, rest) = blocks.split_first_chunk::<BLOCK>().unwrap();
            let header = Header::parse(block, extended)?;
            match header {
                Some(header) if header.kind == kind::EXTENDED => {
                    extended = Extended::default();
                    let size = header.size as usize;
                    extended.read(&rest[..size])?;
                    blocks = &rest[size + padding(header.size)..];
                }
                header => return Ok(header),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            path in vec(1u8.., 1..300),
            link in vec(1u8.., 0..300),
            mode in 0u32..0o10000,
            size: u64,
            mtime in (any::<i32>(), 0u32..1_000_000_000),
            ids in (0u64..0o10000000, 0u64..0o10000000),
        ) {
            let mut path = path;
            path.push(b'x');
            let mtime = (i64::from(mtime.0) * 4, mtime.1);
            let (uid, gid) = ids;
            let header = Header { kind: kind::FILE, path, link, mode, uid, gid, size, mtime };
            let blocks = header.blocks();
            prop_assert_eq!(blocks.len() % BLOCK, 0);
            prop_assert_eq!(read(&blocks), Ok(Some(header)));
        }

        #[test]
        fn no_block_is_too_odd(bytes in vec(any::<u8>(), BLOCK), extended in vec(any::<u8>(), 0..64)) {
            let mut block: [u8; BLOCK] = bytes.try_into().unwrap();
            let sum = format!("{:06o}\0 ", super::checksum(&block));
            block[148..156].copy_from_slice(sum.as_bytes());
            let _ = Header::parse(&block, Extended::default());
            let _ = Extended::default().read(&extended);
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for records in [
            "",
            "5",
            "5 a=",
            "x a=b\n",
            "7 a=b\n",
            "6 ab\n",
            "999 a=b\n",
            "0 a=b\n",
            "1 a=b\n",
            "18446744073709551615 a=b\n",
            "10 size=x\n",
            "12 mtime=1.x\n",
            "20 GNU.sparse.major=1\n",
        ] {
            let read = Extended::default().read(records.as_bytes());
            assert_eq!(read.is_ok(), records.is_empty(), "{records}");
        }
        assert_eq!(parse_decimal("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(parse_decimal("12"), Some((12, 0)));
        assert_eq!(parse_decimal("1.9999999999999"), Some((1, 999_999_999)));
        assert_eq!(parse_decimal("x"), None);
    }
}
