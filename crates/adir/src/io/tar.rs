//! The headers of tar files: ustar, with the long names and sizes of GNU and PAX.

use std::io::{ErrorKind, Read, Seek};

/// Bytes of a header, and what members are padded to.
const BLOCK: u64 = 512;
/// Longest name of a member in bytes.
const MAX_NAME: u64 = 4096;
/// Most bytes of extended headers in front of a member.
const MAX_EXTENDED: u64 = 64 << 10;
/// A member as its headers describe it.
pub(super) struct Found {
    pub name: String,
    pub kind: u8,
    pub offset: u64,
    pub size: u64,
}

/// Walks from header to header.
pub(super) struct Headers<R> {
    reader: R,
    length: u64,
    at: u64,
    ended: bool,
}

/// What extended headers say of the member behind them.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
}

impl<R: Read + Seek> Headers<R> {
    /// Of a file of `length` bytes, from its beginning.
    pub fn new(reader: R, length: u64) -> Self {
        Self { reader, length, at: 0, ended: false }
    }

    /// Whether the archive ended by a block of zeros.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The next member; none at the end of the archive: a block of zeros, or the end of the file.
    pub fn next(&mut self) -> Result<Option<Found>, String> {
        let (mut extended, mut taken) = (Extended::default(), 0_u64);
        loop {
            let here = self.at;
            let Some(header) = self.header()? else { return Ok(None) };
            let declared = number(&header[124..136]).ok_or_else(|| damaged(here, "the size of a member"))?;
            let kind = header[156];
            if matches!(kind, b'x' | b'L' | b'K' | b'g') {
                taken = taken.saturating_add(declared);
                if taken > MAX_EXTENDED {
                    return Err(format!("has more than {MAX_EXTENDED} bytes of extended headers at byte {here}"));
                }
                let bytes = self.content(declared)?;
                match kind {
                    b'L' => extended.name = Some(text(&bytes)),
                    b'x' => extended.read(&bytes).ok_or_else(|| damaged(here, "an extended header"))?,
                    // Names of links and what holds for all members.
                    _ => {}
                }
                continue;
            }
            let name = extended.name.take().unwrap_or_else(|| name_of(&header));
            if name.len() as u64 > MAX_NAME {
                return Err(format!(
                    "has a name of {} bytes at byte {here}, at most {MAX_NAME} are allowed",
                    name.len()
                ));
            }
            // Links and folders have no bytes, whatever they declare.
            let size = if matches!(kind, b'1'..=b'6') { 0 } else { extended.size.take().unwrap_or(declared) };
            let offset = self.at;
            self.skip(size)?;
            return Ok(Some(Found { name, kind, offset, size }));
        }
    }

    /// The header here, if the archive does not end.
    fn header(&mut self) -> Result<Option<[u8; BLOCK as usize]>, String> {
        if self.at == self.length && self.at > 0 {
            return Ok(None);
        }
        let here = self.at;
        let mut header = [0; BLOCK as usize];
        let read = self.reader.read_exact(&mut header);
        read.map_err(|e| match (e.kind(), here) {
            (ErrorKind::UnexpectedEof, 0) => "is no tar file".to_owned(),
            (ErrorKind::UnexpectedEof, _) => format!("is cut off: a header at byte {here} is incomplete"),
            _ => format!("cannot be read: {e}"),
        })?;
        self.at += BLOCK;
        if header.iter().all(|&byte| byte == 0) {
            self.ended = true;
            return Ok(None);
        }
        let sum: u64 =
            header.iter().enumerate().map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u64::from(b) }).sum();
        match number(&header[148..156]) {
            Some(stored) if stored == sum => Ok(Some(header)),
            _ if here == 0 => Err("is no tar file (a compressed one has to be unpacked)".into()),
            _ => Err(damaged(here, "the header of a member")),
        }
    }

    /// The next `size` bytes.
    fn content(&mut self, size: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut self.reader).take(size).read_to_end(&mut bytes);
        let read = read.map_err(|e| format!("cannot be read: {e}"))? as u64;
        if read < size {
            return Err(format!("is cut off: {size} bytes expected at byte {}, {read} are left", self.at));
        }
        self.at += size;
        self.skip_to(self.at.next_multiple_of(BLOCK).min(self.length))?;
        Ok(bytes)
    }

    /// Goes to the end of a member of `size` bytes.
    fn skip(&mut self, size: u64) -> Result<(), String> {
        let left = self.length.saturating_sub(self.at);
        if size > left {
            return Err(format!("is cut off: {size} bytes expected at byte {}, {left} are left", self.at));
        }
        // The padding of the last member may be missing.
        self.skip_to((self.at + size).next_multiple_of(BLOCK).min(self.length))
    }

    fn skip_to(&mut self, to: u64) -> Result<(), String> {
        let by = i64::try_from(to - self.at).map_err(|_| "is too large".to_owned())?;
        self.reader.seek_relative(by).map_err(|e| format!("cannot be read: {e}"))?;
        self.at = to;
        Ok(())
    }
}

impl Extended {
    /// Takes name and size from the records of a PAX header: `LENGTH KEY=VALUE` and a line end each.
    fn read(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() && bytes[0] != 0 {
            let space = bytes.iter().take(8).position(|&byte| byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(text(value)),
                b"size" => self.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                _ => {}
            }
            bytes = &bytes[length..];
        }
        Some(())
    }
}

fn damaged(at: u64, what: &str) -> String {
    format!("is damaged: {what} at byte {at} is not what it should be")
}

/// Text up to its first zero; what is not UTF-8 becomes a backslash, which no plain name has.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).replace('\u{fffd}', "\\")
}

/// The name in a header: with the prefix of ustar.
fn name_of(header: &[u8; BLOCK as usize]) -> String {
    let name = text(&header[..100]);
    match &header[257..263] == b"ustar\0" && header[345] != 0 {
        true => format!("{}/{name}", text(&header[345..500])),
        false => name,
    }
}

/// A number of a header: octal digits, or big-endian bytes behind one of 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if let Some((0x80, bytes)) = field.split_first() {
        let (high, low) = bytes.split_at(bytes.len().checked_sub(8)?);
        return (high.iter().all(|&byte| byte == 0)).then(|| low.iter().fold(0, |n, &byte| n << 8 | u64::from(byte)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_large() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\x01"), Some((2 << 32) + 1));
        assert_eq!(number(b"\x80\x01\0\0\0\0\0\x02\0\0\0\x01"), None);
        assert_eq!((number(b"12 34\0"), number(b"\xff\xff")), (None, None));
    }
}
