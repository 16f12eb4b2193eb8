//! JPEG XL, which is read and not written. The boxes around the codestream are taken apart here: the decoder would inflate
//! compressed metadata without a bound.

use std::io::{BufRead, Read};
use std::path::Path;

use image::metadata::Orientation;
use jxl_oxide::image::BitDepth;
use jxl_oxide::{AllocTracker, JxlImage, JxlThreadPool, PixelFormat};

use super::boxes::{Cursor, exif};
use super::{Decoded, Raster, Samples, check_page, damaged, read_error, unsupported};
use crate::io::limits::Limits;
use crate::io::metadata::Metadata;
use crate::{Error, Result};

/// The box that begins a container.
const SIGNATURE: [u8; 12] = *b"\0\0\0\x0cJXL \r\n\x87\n";
/// sRGB by its numbers in ITU-T H.273: primaries, transfer, matrix, range.
const SRGB: [u8; 4] = [1, 13, 0, 1];

pub fn decode(path: &Path, reader: impl BufRead, page: usize, limits: &Limits) -> Result<Decoded> {
    let mut bytes = Vec::new();
    reader.take(limits.max_decoded_bytes).read_to_end(&mut bytes).map_err(|e| read_error(path, e))?;
    let Boxes { codestream, exif, xmp, left_out } = Boxes::of(&bytes).map_err(|e| damaged(path, e))?;
    let damaged = |e: Box<dyn std::error::Error + Send + Sync>| damaged(path, e);
    let budget = usize::try_from(limits.max_decoded_bytes).unwrap_or(usize::MAX);
    let builder = JxlImage::builder().pool(JxlThreadPool::none()).alloc_tracker(AllocTracker::with_limit(budget));
    let image = builder.read(codestream.as_slice()).map_err(damaged)?;
    let depth = image.image_header().metadata.bit_depth;
    let format = image.pixel_format();
    let channels = match format {
        PixelFormat::Gray => 1,
        PixelFormat::Graya => 2,
        PixelFormat::Rgb => 3,
        PixelFormat::Rgba => 4,
        PixelFormat::Cmyk | PixelFormat::Cmyka => return Err(unsupported(path, "CMYK")),
    };
    let (width, height) = (image.width(), image.height());
    let sample = match depth {
        BitDepth::IntegerSample { bits_per_sample: 0..=8 } => 1,
        BitDepth::IntegerSample { bits_per_sample: 9..=16 } => 2,
        _ => 4,
    };
    limits.check(path, (width, height), channels * sample)?;
    let others = image.image_header().metadata.ec_info.len() - usize::from(format.has_alpha());
    if others > 0 {
        let message = format!("has {others} channels beside colours and alpha: store each in a file of its own");
        return Err(Error::input(path, message));
    }
    if !image.is_loading_done() {
        return Err(damaged("unexpected end of file".into()));
    }
    check_page(path, page, image.num_loaded_keyframes().max(1))?;
    let render = image.render_frame(page - 1).map_err(damaged)?;
    let mut stream = render.stream();
    let count = width as usize * height as usize * channels as usize;
    if (stream.width(), stream.height(), u64::from(stream.channels())) != (width, height, channels) {
        return Err(damaged("a frame of another size than the image".into()));
    }
    let samples = match sample {
        1 => {
            let mut samples = vec![0_u8; count];
            stream.write_to_buffer(&mut samples);
            Samples::Eight(samples)
        }
        2 => {
            let mut samples = vec![0_u16; count];
            stream.write_to_buffer(&mut samples);
            Samples::Sixteen(samples)
        }
        _ => {
            let mut samples = vec![0_f32; count];
            stream.write_to_buffer(&mut samples);
            Samples::Float(samples)
        }
    };
    let mut metadata = Metadata { exif, xmp, ..Metadata::default() };
    // Decoders turn by the codestream's orientation, and that of EXIF does not count (ISO/IEC 18181-2).
    if let Some(exif) = &mut metadata.exif {
        let _ = Orientation::remove_from_exif_chunk(exif);
    }
    if image.rendered_cicp() != Some(SRGB) {
        metadata.icc = Some(image.rendered_icc());
    }
    left_out.into_iter().for_each(|what| metadata.leave_out(what));
    let associated =
        image.image_header().metadata.ec_info.iter().any(|channel| channel.alpha_associated() == Some(true));
    let raster = Raster { width, height, channels: channels as usize, samples, associated };
    Ok(Decoded { pages: image.num_loaded_keyframes().max(1), ..Decoded::new(raster, metadata) })
}

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
struct Boxes {
    codestream: Vec<u8>,
    exif: Option<Vec<u8>>,
    xmp: Option<Vec<u8>>,
    left_out: Vec<&'static str>,
}

impl Boxes {
    /// Takes a container apart; a bare codestream is all there is.
    fn of(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut boxes = Self::default();
        if !bytes.starts_with(&SIGNATURE) {
            boxes.codestream = bytes.to_vec();
            return Ok(boxes);
        }
        let mut rest = Cursor(bytes);
        while !rest.0.is_empty() {
            let (kind, content) = rest.next()?;
            match &kind {
                b"jxlc" => boxes.codestream.extend_from_slice(content),
                // Parts with their number, in order.
                b"jxlp" => boxes.codestream.extend_from_slice(content.get(4..).ok_or("a part without a number")?),
                b"Exif" => boxes.exif = exif(content),
                b"xml " => boxes.xmp = Some(content.to_vec()),
                b"brob" => boxes.left_out.push("compressed metadata"),
                _ => {}
            }
        }
        if boxes.codestream.is_empty() { Err("unexpected end of file: no image") } else { Ok(boxes) }
    }
}
