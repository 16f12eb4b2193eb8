//! AVIF, which is read and not written. Of a file with a film, the still picture is read.

mod boxes;
mod colour;
mod header;
mod planes;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::{BufRead, Read};
use std::path::Path;

use image::metadata::Orientation;

use self::boxes::{Container, Fault, Property};
use self::colour::{Colours, Levels};
use self::header::Cicp;
use self::planes::Plan;
use super::boxes::{Cursor, exif};
use super::{Decoded, Raster, Samples, check_page, damaged, read_error, unsupported};
use crate::io::limits::Limits;
use crate::io::metadata::Metadata;
use crate::{Error, Result};

/// What the auxiliary picture that is the alpha channel calls itself.
const ALPHA: [&[u8]; 2] = [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
/// Transfer functions of PQ and HLG.
const HIGH_DYNAMIC_RANGE: [u16; 2] = [16, 18];

/// Whether a file that starts so is AVIF.
pub fn is_avif(start: &[u8]) -> bool {
    let brands = match start {
        [a, b, c, d, b'f', b't', b'y', b'p', rest @ ..] => {
            let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            &rest[..rest.len().min(size.saturating_sub(8))]
        }
        _ => return false,
    };
    // The version follows the first brand, and does not look like one.
    brands.chunks_exact(4).any(|brand| matches!(brand, b"avif" | b"avis"))
}

/// Decodes the picture of a file.
pub fn decode(path: &Path, reader: impl BufRead, page: usize, limits: &Limits) -> Result<Decoded> {
    let mut bytes = Vec::new();
    reader.take(limits.max_decoded_bytes).read_to_end(&mut bytes).map_err(|e| read_error(path, e))?;
    let fault = |fault| match fault {
        Fault::Damaged(what) => damaged(path, what),
        Fault::Unsupported(what) => unsupported(path, what),
    };
    let container = Container::of(&bytes).map_err(fault)?;
    check_page(path, page, 1)?;
    let plan = Plan::of(&container, container.primary).map_err(fault)?;
    let looks = Looks::of(&container, container.primary).map_err(fault)?;
    let alpha = alpha(&container, &plan).map_err(fault)?;
    let (header, size) = (plan.header, (plan.width, plan.height));
    let channels = if header.grey { 1 } else { 3 } + usize::from(alpha.is_some());
    let eight = header.depth == 8;
    let bytes_per_pixel = channels as u64 * if eight { 1 } else { 2 };
    for plan in alpha.iter().map(|(_, plan)| plan).chain([&plan]) {
        limits.check(path, plan.covered, bytes_per_pixel)?;
    }
    let size_in_bytes = limits.check(path, size, bytes_per_pixel)?;
    if alpha.as_ref().is_some_and(|(_, alpha)| (alpha.width, alpha.height) != size) {
        return Err(unsupported(path, "alpha of another size than the colours"));
    }
    let cicp = looks.cicp.unwrap_or(header.cicp);
    let mut metadata = metadata(&container, &looks).map_err(fault)?;
    if metadata.icc.is_none() {
        if HIGH_DYNAMIC_RANGE.contains(&cicp.transfer) {
            return Err(Error::input(path, "has a high dynamic range (PQ or HLG): convert it to sRGB first"));
        }
        metadata.png_colour.extend(chunk(cicp));
    }
    let colours = Colours::new(cicp, header.depth, header.grey, header.halved).map_err(fault)?;
    let planes = plan.decode(&container, true).map_err(fault)?;
    let (associated, alpha) = match &alpha {
        None => (false, None),
        Some((id, plan)) => {
            let plane = plan.decode(&container, false).map_err(fault)?.swap_remove(0);
            let levels = Levels::new(plan.header.depth, plan.header.cicp.full_range);
            (container.referred(b"prem", container.primary).contains(id), Some((plane, levels)))
        }
    };
    let alpha = alpha.as_ref().map(|(plane, levels)| (plane, levels));
    let samples = if eight {
        let mut samples = Vec::with_capacity(size_in_bytes);
        colours.interleave(&planes, alpha, 255.0, |v| v as u8, &mut samples);
        Samples::Eight(samples)
    } else {
        let mut samples = Vec::with_capacity(size_in_bytes / 2);
        colours.interleave(&planes, alpha, 65535.0, |v| v as u16, &mut samples);
        Samples::Sixteen(samples)
    };
    let raster = Raster { width: plan.width, height: plan.height, channels, samples, associated };
    Ok(Decoded { orientation: looks.orientation, ..Decoded::new(raster, metadata) })
}

/// The auxiliary picture that is alpha, if there is one.
fn alpha(container: &Container<'_>, plan: &Plan) -> Result<Option<(u32, Plan)>, Fault> {
    let is_alpha = |id: u32| -> Result<bool, Fault> {
        let kind = |property: &Property<'_>| {
            let name = property.content.get(4..).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            &property.kind == b"auxC" && ALPHA.contains(&name)
        };
        Ok(container.properties(id)?.iter().any(kind))
    };
    for id in container.referring(*b"auxl", container.primary) {
        if is_alpha(id)? {
            return Ok(Some((id, Plan::of(container, id)?)));
        }
    }
    if plan.tiles() != [container.primary] {
        let tiles: BTreeSet<_> = plan.tiles().iter().collect();
        for reference in container.references.iter().filter(|reference| &reference.kind == b"auxl") {
            if reference.to.iter().any(|id| tiles.contains(id)) && is_alpha(reference.from)? {
                return Err(Fault::unsupported("a grid whose tiles have alpha each"));
            }
        }
    }
    Ok(None)
}

/// What the properties of a picture say of how it is to be shown.
struct Looks {
    cicp: Option<Cicp>,
    icc: Option<Vec<u8>>,
    orientation: Orientation,
}

impl Looks {
    fn of(container: &Container<'_>, id: u32) -> Result<Self, Fault> {
        let mut looks = Self { cicp: None, icc: None, orientation: Orientation::NoTransforms };
        // Quarter turns anticlockwise, and whether left and right are exchanged after them.
        let (mut turns, mut mirrored) = (0, false);
        for property in container.properties(id)? {
            let mut content = Cursor(property.content);
            match &property.kind {
                b"colr" => match content.take(4)? {
                    b"nclx" => {
                        let [primaries, transfer, matrix] = [content.u16()?, content.u16()?, content.u16()?];
                        let full_range = content.u8()? & 128 != 0;
                        looks.cicp.get_or_insert(Cicp { primaries, transfer, matrix, full_range });
                    }
                    b"prof" | b"rICC" => _ = looks.icc.get_or_insert_with(|| content.0.to_vec()),
                    _ => {}
                },
                b"irot" => {
                    let more = content.u8()? & 3;
                    turns = if mirrored { turns + 4 - more } else { turns + more } % 4;
                }
                b"imir" => {
                    // Top and bottom are exchanged, which is left and right and half a turn, if the bit is not set.
                    turns = if content.u8()? & 1 == 0 { turns + 2 } else { turns } % 4;
                    mirrored = !mirrored;
                }
                b"clap" => return Err(Fault::unsupported("a picture that is to be cropped")),
                _ => property.check_known()?,
            }
        }
        looks.orientation = match (turns, mirrored) {
            (0, false) => Orientation::NoTransforms,
            (0, true) => Orientation::FlipHorizontal,
            (1, false) => Orientation::Rotate270,
            (1, true) => Orientation::Rotate270FlipH,
            (2, false) => Orientation::Rotate180,
            (2, true) => Orientation::FlipVertical,
            (_, false) => Orientation::Rotate90,
            (_, true) => Orientation::Rotate90FlipH,
        };
        Ok(looks)
    }
}

/// What else the file says of its picture.
fn metadata(container: &Container<'_>, looks: &Looks) -> Result<Metadata, Fault> {
    let mut metadata = Metadata { icc: looks.icc.clone(), ..Metadata::default() };
    for reference in &container.references {
        let describes = &reference.kind == b"cdsc" && reference.to.contains(&container.primary);
        let Some(item) = container.items.get(&reference.from).filter(|_| describes) else { continue };
        match (&item.kind, item.content_type) {
            (b"Exif" | b"mime", _) if item.wrapped => metadata.leave_out("compressed metadata"),
            (b"Exif", _) if metadata.exif.is_none() => {
                metadata.exif = exif(&container.data(reference.from)?);
            }
            (b"mime", b"application/rdf+xml") if metadata.xmp.is_none() => {
                metadata.xmp = Some(container.data(reference.from)?.into_owned());
            }
            _ => {}
        }
    }
    // The properties turn the picture, and the orientation of EXIF does not count (ISO/IEC 23008-12).
    if let Some(exif) = &mut metadata.exif {
        let _ = Orientation::remove_from_exif_chunk(exif);
    }
    if container.items.values().any(|item| &item.kind == b"tmap") {
        metadata.leave_out("a gain map");
    }
    if container.film {
        metadata.leave_out("a film");
    }
    Ok(metadata)
}

/// The PNG chunk that says what the colours are, unless they are sRGB or nearly so, or unnamed.
fn chunk(cicp: Cicp) -> Option<([u8; 4], Vec<u8>)> {
    let transfer = match cicp.transfer {
        // Those of BT.2020 are the one of BT.709.
        14 | 15 => 1,
        transfer => transfer,
    };
    if matches!(cicp.primaries, 1 | 2) && matches!(transfer, 1 | 2 | 6 | 13) {
        return None;
    }
    let [primaries, transfer] = [cicp.primaries, transfer].map(|code| u8::try_from(code).unwrap_or(2));
    Some((*b"cICP", vec![primaries, transfer, 0, 1]))
}
