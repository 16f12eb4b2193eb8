//! The planes of an AVIF picture, of one AV1 picture or of a grid of them.

use re_rav1d::dav1d::{Decoder, Error, Picture, PixelLayout, PlanarImageComponent, Settings};

use super::boxes::{Container, Fault};
use super::header::Header;
use crate::io::codec::boxes::Cursor;

/// Smallest side of a tile (ISO/IEC 23000-22).
const LEAST_TILE: u32 = 64;

/// Tiles may share their data, of which there may be so many times as many bytes as in the file, and always so many.
const SHARED: (usize, usize) = (4, 16 << 20);

/// A plane of samples, row by row.
#[derive(Debug, Default)]
pub struct Plane {
    pub width: usize,
    pub height: usize,
    pub samples: Vec<u16>,
}

impl Plane {
    fn new(width: u32, height: u32) -> Self {
        let [width, height] = [width as usize, height as usize];
        Self { width, height, samples: vec![0; width * height] }
    }

    pub fn row(&self, y: usize) -> &[u16] {
        &self.samples[y * self.width..][..self.width]
    }
}

/// A picture that is to be decoded.
#[derive(Debug)]
pub struct Plan {
    /// Of the picture.
    pub width: u32,
    pub height: u32,
    /// Of all tiles side by side, which may reach beyond the picture.
    pub covered: (u32, u32),
    /// What the first tile says.
    pub header: Header,
    columns: u32,
    tiles: Vec<u32>,
}

/// The width and height of an item.
fn size_of(container: &Container<'_>, id: u32) -> Result<(u32, u32), Fault> {
    let properties = container.properties(id)?;
    let size = properties.iter().find(|property| &property.kind == b"ispe").ok_or("a picture without a size")?;
    let mut content = Cursor(size.content);
    content.u32()?;
    Ok((content.u32()?, content.u32()?))
}

impl Plan {
    /// What there is to decode of an item. No memory is taken for pixels.
    pub fn of(container: &Container<'_>, id: u32) -> Result<Self, Fault> {
        let (width, height) = size_of(container, id)?;
        let item = container.item(id)?;
        if item.wrapped {
            return Err(Fault::unsupported("an encrypted picture"));
        }
        let (columns, rows, tiles) = match &item.kind {
            b"av01" => (1, 1, vec![id]),
            b"grid" => {
                let data = container.data(id)?;
                let mut data = Cursor(&data);
                data.u8()?;
                let large = data.u8()? & 1 == 1;
                let [rows, columns] = [u32::from(data.u8()?) + 1, u32::from(data.u8()?) + 1];
                if (data.wide(large)?, data.wide(large)?) != (width, height) {
                    return Err("a grid of two sizes".into());
                }
                (columns, rows, container.referred(b"dimg", id).to_vec())
            }
            b"iovl" => return Err(Fault::unsupported("an overlay of pictures")),
            kind => return Err(Fault::unsupported(format!("a picture of kind {}", kind.escape_ascii()))),
        };
        if tiles.len() != columns as usize * rows as usize {
            return Err("a grid of another number of tiles".into());
        }
        let tile = size_of(container, tiles[0])?;
        let whole = (tile.0.checked_mul(columns), tile.1.checked_mul(rows));
        let (Some(whole_width), Some(whole_height)) = whole else { return Err("a grid of no possible size".into()) };
        let fits = |side: u32, whole: u32, tile: u32| side <= whole && side > whole - tile;
        if tile.0 == 0
            || tile.1 == 0
            || !fits(width, whole_width, tile.0)
            || !fits(height, whole_height, tile.1)
            || tiles.len() > 1 && tile.0.min(tile.1) < LEAST_TILE
        {
            return Err("a grid whose tiles do not fill it".into());
        }
        let header = Header::of(&container.data(tiles[0])?)?;
        if (header.width, header.height) != tile {
            return Err("a picture of two sizes".into());
        }
        let odd = header.halved[0] && columns > 1 && tile.0 % 2 == 1 || header.halved[1] && rows > 1 && tile.1 % 2 == 1;
        if odd && !header.grey {
            return Err(Fault::unsupported("a grid of tiles with odd sides"));
        }
        let plan = Self { width, height, covered: (whole_width, whole_height), header, columns, tiles };
        for &tile in &plan.tiles {
            plan.check(container, tile, tile != id)?;
        }
        Ok(plan)
    }

    /// The items that the picture is made of.
    pub fn tiles(&self) -> &[u32] {
        &self.tiles
    }

    /// Refuses properties that change the pixels and that are not known here. Those of the whole picture are the caller's.
    fn check(&self, container: &Container<'_>, id: u32, part: bool) -> Result<(), Fault> {
        if &container.item(id)?.kind != b"av01" || container.item(id)?.wrapped {
            return Err(Fault::unsupported("a grid of pictures that are not AV1"));
        }
        for property in container.properties(id)? {
            match &property.kind {
                b"irot" | b"imir" | b"clap" if part => return Err(Fault::unsupported("a grid of turned tiles")),
                b"lsel" if property.content != [0xff, 0xff] => {
                    return Err(Fault::unsupported("one of several layers of a picture"));
                }
                b"a1op" if property.content != [0] => {
                    return Err(Fault::unsupported("one of several qualities of a picture"));
                }
                _ => property.check_known()?,
            }
        }
        Ok(())
    }

    /// Decodes the planes: luma, and two of chroma if they are wanted and there.
    pub fn decode(&self, container: &Container<'_>, chroma: bool) -> Result<Vec<Plane>, Fault> {
        let mut planes = vec![Plane::new(self.width, self.height)];
        if chroma && !self.header.grey {
            let [columns, rows] = self.header.halved;
            let half = |side: u32, halved: bool| if halved { side.div_ceil(2) } else { side };
            planes.extend([(); 2].map(|()| Plane::new(half(self.width, columns), half(self.height, rows))));
        }
        let mut decoder = decoder(&self.header)?;
        let mut left = container.len().saturating_mul(SHARED.0).max(SHARED.1);
        for (index, &tile) in self.tiles.iter().enumerate() {
            let data = container.data(tile)?;
            left = left.checked_sub(data.len()).ok_or_else(|| Fault::unsupported("a grid of tiles that share data"))?;
            let header = Header::of(&data)?;
            let same = Header { cicp: header.cicp, ..self.header };
            if header != same || size_of(container, tile)? != (header.width, header.height) {
                return Err("tiles of two kinds".into());
            }
            let [column, row] = [index % self.columns as usize, index / self.columns as usize];
            let picture = picture(&mut decoder, data.into_owned())?;
            draw(&header, &picture, &mut planes, [column, row])?;
        }
        Ok(planes)
    }
}

/// Copies an AV1 picture into the planes, where it is the tile in that column and row.
fn draw(header: &Header, picture: &Picture, planes: &mut [Plane], [column, row]: [usize; 2]) -> Result<(), Fault> {
    let layout = match (header.grey, header.halved) {
        (true, _) => PixelLayout::I400,
        (_, [false, _]) => PixelLayout::I444,
        (_, [true, false]) => PixelLayout::I422,
        (_, [true, true]) => PixelLayout::I420,
    };
    if (picture.width(), picture.height()) != (header.width, header.height)
        || picture.bit_depth() != usize::from(header.depth)
        || picture.pixel_layout() != layout
    {
        return Err("a picture of another kind than announced".into());
    }
    let most = (1_u16 << header.depth) - 1;
    let components = [PlanarImageComponent::Y, PlanarImageComponent::U, PlanarImageComponent::V];
    for (index, (plane, component)) in planes.iter_mut().zip(components).enumerate() {
        let halved = if index == 0 { [false; 2] } else { header.halved };
        let half = |side: u32, halved: bool| if halved { side.div_ceil(2) } else { side } as usize;
        let [width, height] = [half(header.width, halved[0]), half(header.height, halved[1])];
        let [left, top] = [column * width, row * height];
        let [shown_width, shown_height] = [width.min(plane.width - left), height.min(plane.height - top)];
        let (stride, lines) = picture.plane_data_geometry(component);
        if stride.checked_mul(lines).is_none() {
            return Err(Fault::unsupported("a larger picture than the decoder can hold"));
        }
        let bytes = picture.plane(component);
        let size = if header.depth == 8 { 1 } else { 2 };
        for (y, line) in bytes.chunks_exact(stride as usize).take(shown_height).enumerate() {
            let line = line.get(..shown_width * size).ok_or("a picture with short rows")?;
            let samples = &mut plane.samples[(top + y) * plane.width + left..][..shown_width];
            if size == 1 {
                samples.iter_mut().zip(line).for_each(|(sample, byte)| *sample = u16::from(*byte));
            } else {
                let (pairs, _) = line.as_chunks();
                samples.iter_mut().zip(pairs).for_each(|(sample, pair)| *sample = u16::from_ne_bytes(*pair).min(most));
            }
        }
    }
    Ok(())
}

/// A decoder of pictures with that header.
fn decoder(header: &Header) -> Result<Decoder, Fault> {
    let mut settings = Settings::new();
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_all_layers(false);
    // No frame may be larger than the header says, which was checked.
    settings.set_frame_size_limit(header.width.saturating_mul(header.height));
    Decoder::with_settings(&settings).map_err(damaged)
}

/// The first picture of AV1 data.
fn picture(decoder: &mut Decoder, data: Vec<u8>) -> Result<Picture, Fault> {
    if data.is_empty() {
        return Err("unexpected end of file: an empty picture".into());
    }
    // Of the picture before, which may have left something.
    decoder.flush();
    decoder.send_data(data, None, None, None).map_err(damaged)?;
    decoder.get_picture().map_err(damaged)
}

fn damaged(error: Error) -> Fault {
    match error {
        Error::Again => "unexpected end of file: no picture in the AV1 data".into(),
        Error::UnsupportedBitstream => Fault::unsupported("AV1 data of an unknown kind"),
        Error::NotEnoughMemory => Fault::unsupported("a picture for which memory was short"),
        _ => "the AV1 data cannot be decoded".into(),
    }
}
