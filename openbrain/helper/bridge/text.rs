//! Numbers and bytes as text, and back.

/// Reads decimal digits, at least one and nothing else.
pub fn parse(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.len() < 20 && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |number, digit| number * 10 + (digit - b'0') as u64))
}

/// Prints a number in decimal; returns its length.
pub fn print(mut number: u64, to: &mut [u8]) -> usize {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let length = digits.len() - at;
    to[..length].copy_from_slice(&digits[at..]);
    length
}

/// Base64 (RFC 4648), padded; returns the length.
pub fn encode(bytes: &[u8], to: &mut [u8]) -> usize {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut end = 0;
    for part in bytes.chunks(3) {
        let at = |index: usize| *part.get(index).unwrap_or(&0) as usize;
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let text = [18, 12, 6, 0].map(|shift| ALPHABET[bits >> shift & 63]);
        for (index, byte) in text.iter().enumerate() {
            to[end + index] = if index <= part.len() { *byte } else { b'=' };
        }
        end += 4;
    }
    end
}
