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

/// Copies a file into an empty one; where the first has holes so has the second. At most so many bytes
/// are read beside the holes: who writes on and makes a hole behind is not followed for ever.
///
/// # Errors
///
/// `FileTooLarge` when there is more.
pub(super) fn copy(from: &File, to: &mut File, most: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let (mut at, mut left) = (0, most);
    while let Some(start) = next_data(from, at)? {
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        left = left.checked_sub(end - start).ok_or(io::ErrorKind::FileTooLarge)?;
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
        at = end;
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
        io::ErrorKind,
        os::unix::fs::{FileExt, MetadataExt},
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    use rustix::fs::{FallocateFlags, fallocate};

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
        copy(&a, &mut b, 1 << 20).unwrap();
        assert!(same(&a, &b));
        assert!(b.metadata().unwrap().blocks() < 1 << 12);
    }

    /// A file that is longer at each look, because somebody writes on, and never has more than a
    /// little: what was written is a hole again.
    #[test]
    fn a_file_that_moves_on_is_not_followed() {
        const PART: u64 = 1 << 20;
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let from = File::from(rustix::fs::memfd_create("moves on", flags).unwrap());
        let (writer, done) = (from.try_clone().unwrap(), AtomicBool::new(false));
        from.write_all_at(&vec![1; 2 * PART as usize], 0).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let content = vec![1; PART as usize];
                let mut at = 2 * PART;
                while !done.load(Ordering::Relaxed) {
                    writer.write_all_at(&content, at).unwrap();
                    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(&writer, punch, at - 2 * PART, PART).unwrap();
                    at += PART;
                }
            });
            let most = from.metadata().unwrap().blocks() * 512;
            for _ in 0..20 {
                let mut to = tempfile::tempfile().unwrap();
                // Whether it fails is a matter of who is faster.
                let _ = copy(&from, &mut to, most);
                assert!(to.metadata().unwrap().blocks() * 512 <= most + PART);
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut to = tempfile::tempfile().unwrap();
        let error = copy(&sparse(&[(&[1; 9000], 0)], 9000), &mut to, 8999).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_long_is_not_read() {
        assert_eq!(read(&sparse(&[(b"abc", 0)], 3), 3).unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(&sparse(&[], 4), 3).unwrap(), None);
        assert_eq!(read(&sparse(&[], 0), 3).unwrap(), Some(Vec::new()));
    }
}
