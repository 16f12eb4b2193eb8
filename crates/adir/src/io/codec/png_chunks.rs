//! The chunks of a PNG file that its decoder leaves alone: texts, and what says how colours are meant.

use std::io::{BufRead, Read, Seek, SeekFrom};

use crate::io::metadata::{Metadata, Resolution, Text};

/// The keyword of XMP.
pub const XMP: &[u8] = b"XML:com.adobe.xmp";
/// Most chunks that are looked at.
const MOST_CHUNKS: usize = 1 << 20;

/// Adds the texts, XMP, resolution and colour chunks of a file to `metadata`, at most `most` bytes of them. Compressed
/// texts are left out, since they inflate without bound, and chunks with a wrong checksum, too. The reader is left
/// anywhere.
pub fn collect(reader: &mut (impl BufRead + Seek), most: usize, metadata: &mut Metadata) -> std::io::Result<()> {
    reader.seek(SeekFrom::Start(8))?;
    let mut left = most;
    for _ in 0..MOST_CHUNKS {
        let mut head = [0; 8];
        if reader.read_exact(&mut head).is_err() {
            return Ok(());
        }
        let [l3, l2, l1, l0, kind @ ..] = head;
        let length = u32::from_be_bytes([l3, l2, l1, l0]);
        let wanted = matches!(&kind, b"tEXt" | b"iTXt" | b"pHYs" | b"gAMA" | b"cHRM" | b"sRGB" | b"cICP");
        match &kind {
            b"IEND" => return Ok(()),
            b"zTXt" => metadata.leave_out("compressed texts"),
            _ if wanted && length as usize > left => metadata.leave_out("long texts"),
            _ => {}
        }
        if !wanted || length as usize > left {
            reader.seek(SeekFrom::Current(i64::from(length) + 4))?;
            continue;
        }
        let mut data = Vec::new();
        reader.by_ref().take(u64::from(length)).read_to_end(&mut data)?;
        let mut check = [0; 4];
        if data.len() < length as usize || reader.read_exact(&mut check).is_err() {
            return Ok(());
        }
        let mut sum = crc32fast::Hasher::new();
        sum.update(&kind);
        sum.update(&data);
        if sum.finalize() == u32::from_be_bytes(check) {
            left -= data.len();
            take(&kind, data, metadata);
        }
    }
    Ok(())
}

/// Takes one chunk.
fn take(kind: &[u8; 4], data: Vec<u8>, metadata: &mut Metadata) {
    match kind {
        b"pHYs" => {
            if let [x3, x2, x1, x0, y3, y2, y1, y0, 1] = data[..] {
                let [x, y] = [[x3, x2, x1, x0], [y3, y2, y1, y0]].map(|side| f64::from(u32::from_be_bytes(side)));
                metadata.resolution = Resolution::per(x, y, INCHES_IN_A_METRE);
            }
        }
        b"tEXt" => {
            let mut parts = data.splitn(2, |byte| *byte == 0).map(latin1);
            if let (Some(keyword), Some(text)) = (parts.next(), parts.next()) {
                metadata.texts.push(Text { keyword, text });
            }
        }
        b"iTXt" => match international(&data) {
            Some((XMP, text)) => metadata.xmp = Some(text.to_vec()),
            Some((keyword, text)) => {
                let text = String::from_utf8_lossy(text).into_owned();
                metadata.texts.push(Text { keyword: latin1(keyword), text });
            }
            None => metadata.leave_out("compressed texts"),
        },
        _ => metadata.png_colour.push((*kind, data)),
    }
}

/// One metre.
pub const INCHES_IN_A_METRE: f64 = 1.0 / 0.0254;

/// Keyword and text of an iTXt chunk, unless it is compressed.
fn international(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let (keyword, rest) = (parts.next()?, parts.next()?);
    let [0, _, rest @ ..] = rest else { return None };
    // Language and translated keyword stand before the text.
    rest.splitn(3, |byte| *byte == 0).nth(2).map(|text| (keyword, text))
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The chunk that stores a text.
pub fn text_chunk(Text { keyword, text }: &Text) -> (png::chunk::ChunkType, Vec<u8>) {
    let latin =
        |text: &str| text.chars().map(|c| u8::try_from(c).ok().filter(|c| *c != 0)).collect::<Option<Vec<u8>>>();
    let keyword = latin(keyword).filter(|keyword| (1..80).contains(&keyword.len()));
    let keyword = keyword.unwrap_or_else(|| b"Comment".to_vec());
    match latin(text) {
        Some(text) => (png::chunk::tEXt, [keyword, vec![0], text].concat()),
        None => international_chunk(&keyword, text.as_bytes()),
    }
}

/// The chunk that stores a text in UTF-8.
pub fn international_chunk(keyword: &[u8], text: &[u8]) -> (png::chunk::ChunkType, Vec<u8>) {
    (png::chunk::iTXt, [keyword, &[0; 5], text].concat())
}
