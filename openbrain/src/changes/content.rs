//! Contents of files: compared, copied with their holes, read when they are short.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    time::Instant,
};

use rustix::{fs::SeekFrom, io::Errno};

/// How much is read at a time.
const PIECE: usize = 256 * 1024;

/// Whether two files of this size have the same content. Where both have holes nothing is read.
///
/// # Errors
///
/// `TimedOut` when it is not known at the deadline.
pub(super) fn is_same(a: &File, b: &File, size: u64, deadline: Instant) -> io::Result<bool> {
    let mut buffers = [vec![0; PIECE], vec![0; PIECE]];
    let mut at = 0;
    while at < size {
        let data = [next_data(a, at)?, next_data(b, at)?].into_iter().flatten().min();
        let Some(start) = data else { return Ok(true) };
        let length = (size.saturating_sub(start)).min(PIECE as u64) as usize;
        let [left, right] = &mut buffers;
        let (left, right) = (&mut left[..length], &mut right[..length]);
        if read_at(a, left, start)? != length || read_at(b, right, start)? != length {
            return Ok(false);
        }
        if left != right {
            return Ok(false);
        }
        at = start + length as u64;
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(true)
}

/// Copies a file into an empty one; where the first has holes so has the second.
pub(super) fn copy(from: &File, to: &mut File) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while let Some(start) = next_data(from, at)? {
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        rustix::fs::seek(&*to, SeekFrom::Start(start))?;
        at = start;
        while at < end {
            let length = (end - at).min(PIECE as u64) as usize;
            let read = read_at(from, &mut buffer[..length], at)?;
            to.write_all(&buffer[..read])?;
            at += read as u64;
            if read < length {
                break;
            }
        }
    }
    to.set_len(from.metadata()?.len())
}

/// The whole content, unless it is longer than `most`.
pub(super) fn read(file: &File, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    file.take(most + 1).read_to_end(&mut content)?;
    Ok((content.len() as u64 <= most).then_some(content))
}

/// Where the next content begins that is no hole; `None` when there is no more.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Fills the buffer as far as the file goes.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::fs::{FileExt, MetadataExt},
        time::{Duration, Instant},
    };

    use super::{copy, is_same, read};

    fn sparse(parts: &[(&[u8], u64)], size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        parts.iter().for_each(|(bytes, at)| file.write_all_at(bytes, *at).unwrap());
        file
    }

    fn same(a: &File, b: &File) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        is_same(a, b, a.metadata().unwrap().len(), deadline).unwrap()
    }

    #[test]
    fn holes_cost_nothing_and_count_as_zeros() {
        const HUGE: u64 = 1 << 42;
        let a = sparse(&[(b"begin", 0), (b"end", HUGE - 3)], HUGE);
        assert!(same(&a, &sparse(&[(b"begin", 0), (&[0; 9], 1 << 40), (b"end", HUGE - 3)], HUGE)));
        assert!(!same(&a, &sparse(&[(b"begin", 0), (b"x", 1 << 40), (b"end", HUGE - 3)], HUGE)));
        assert!(!same(&a, &sparse(&[(b"begin", 0)], HUGE)));
        let mut b = tempfile::tempfile().unwrap();
        copy(&a, &mut b).unwrap();
        assert!(same(&a, &b));
        assert!(b.metadata().unwrap().blocks() < 1 << 12);
    }

    #[test]
    fn what_is_long_is_not_read() {
        assert_eq!(read(&sparse(&[(b"abc", 0)], 3), 3).unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(&sparse(&[], 4), 3).unwrap(), None);
        assert_eq!(read(&sparse(&[], 0), 3).unwrap(), Some(Vec::new()));
    }
}
