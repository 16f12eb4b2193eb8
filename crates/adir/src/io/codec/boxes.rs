//! Boxes of ISO/IEC 14496-12, of which AVIF and JPEG XL files are made, and what they hold alike.

/// What is wrong with a file that ends too soon.
pub const END: &str = "unexpected end of file in a box";

/// Reads numbers from the start of bytes.
#[derive(Clone, Copy)]
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(END)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of so many bytes, at most eight.
    pub fn number(&mut self, bytes: usize) -> Result<u64, &'static str> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, &'static str> {
        Ok(self.number(2)? as u16)
    }

    pub fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(self.number(4)? as u32)
    }

    /// A number of 32 bits if `large`, else of 16.
    pub fn wide(&mut self, large: bool) -> Result<u32, &'static str> {
        if large { self.u32() } else { self.u16().map(u32::from) }
    }

    /// Version and flags of a full box.
    pub fn full(&mut self) -> Result<(u8, u32), &'static str> {
        let word = self.u32()?;
        Ok(((word >> 24) as u8, word & 0xff_ffff))
    }

    pub fn text(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let text = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        text
    }

    /// The next box: its kind and content.
    pub fn next(&mut self) -> Result<([u8; 4], &'a [u8]), &'static str> {
        let mut rest = *self;
        let size = rest.u32()?;
        let kind = rest.kind()?;
        let size = match size {
            0 => self.0.len(),
            1 => usize::try_from(rest.number(8)?).map_err(|_| END)?,
            size => size as usize,
        };
        let head = self.0.len() - rest.0.len();
        let content = rest.take(size.checked_sub(head).ok_or("a box smaller than its head")?)?;
        self.0 = rest.0;
        Ok((kind, content))
    }

    /// Four characters that name what follows.
    pub fn kind(&mut self) -> Result<[u8; 4], &'static str> {
        Ok(*self.take(4)?.first_chunk().ok_or(END)?)
    }
}

/// The directory of tags in the content of an EXIF box or item. Its offset comes first, or is left out by some writers;
/// others put the marker of a JPEG file before it.
pub fn exif(content: &[u8]) -> Option<Vec<u8>> {
    if matches!(content, [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..]) {
        return Some(content.to_vec());
    }
    let offset = u32::from_be_bytes(*content.first_chunk()?) as usize;
    let tiff = content.get(4..)?.get(offset..)?;
    Some(tiff.strip_prefix(b"Exif\0\0").unwrap_or(tiff).to_vec())
}
