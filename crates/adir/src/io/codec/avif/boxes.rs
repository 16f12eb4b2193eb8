//! The boxes of an AVIF file (ISO/IEC 14496-12 and 23008-12): which items it has, where their bytes are, and what it says
//! of them. Nothing is copied but what is asked for, and every list has a bound.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::io::codec::boxes::{Cursor, END};

/// What is wrong with a file.
#[derive(Debug, PartialEq)]
pub enum Fault {
    /// It breaks the format's rules.
    Damaged(&'static str),
    /// It keeps them, in a way that is not read.
    Unsupported(String),
}

impl From<&'static str> for Fault {
    fn from(what: &'static str) -> Self {
        Self::Damaged(what)
    }
}

impl Fault {
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }
}

/// Most items, parts of items, properties of items and references between them. A grid has 65536 tiles at most.
const MOST: usize = 1 << 18;

/// Counts entries of lists, which files may claim to be longer than memory.
#[derive(Default)]
struct Counted(usize);

impl Counted {
    fn add(&mut self, more: usize) -> Result<(), Fault> {
        self.0 = self.0.saturating_add(more);
        if self.0 > MOST { Err(Fault::unsupported("more items than a picture has")) } else { Ok(()) }
    }
}

/// An item: a picture, a part of one, or metadata.
#[derive(Debug, Default)]
pub struct Item<'a> {
    pub kind: [u8; 4],
    /// The MIME type, of items of that kind.
    pub content_type: &'a [u8],
    /// Whether it is compressed or encrypted.
    pub wrapped: bool,
    /// Whether the offsets count in the `idat` box.
    in_idat: bool,
    /// Whether it is in another file.
    elsewhere: bool,
    parts: Vec<(u64, u64)>,
    /// Places in the list of properties, from 1, and whether they must be understood.
    properties: Vec<(bool, u16)>,
}

/// Items that one item refers to.
#[derive(Debug)]
pub struct Reference {
    pub kind: [u8; 4],
    pub from: u32,
    pub to: Vec<u32>,
}

/// A property and whether it must be understood.
#[derive(Debug, Clone, Copy)]
pub struct Property<'a> {
    pub essential: bool,
    pub kind: [u8; 4],
    pub content: &'a [u8],
}

impl Property<'_> {
    /// Refuses a property that has to be understood and that nothing here knows.
    pub fn check_known(&self) -> Result<(), Fault> {
        const KNOWN: [&[u8; 4]; 12] = [
            b"ispe", b"pixi", b"av1C", b"colr", b"auxC", b"pasp", b"irot", b"imir", b"clap", b"a1op", b"lsel", b"a1lx",
        ];
        if self.essential && !KNOWN.contains(&&self.kind) {
            let kind = self.kind.escape_ascii();
            return Err(Fault::unsupported(format!("a picture with the unknown property {kind}")));
        }
        Ok(())
    }
}

/// A file taken apart.
#[derive(Debug, Default)]
pub struct Container<'a> {
    bytes: &'a [u8],
    idat: &'a [u8],
    pub primary: u32,
    pub items: BTreeMap<u32, Item<'a>>,
    properties: Vec<([u8; 4], &'a [u8])>,
    pub references: Vec<Reference>,
    /// Whether there is a film beside the picture.
    pub film: bool,
}

impl<'a> Container<'a> {
    pub fn of(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut container = Self { bytes, ..Self::default() };
        let mut meta = None;
        let mut rest = Cursor(bytes);
        while !rest.0.is_empty() {
            match rest.next()? {
                (kind, content) if &kind == b"meta" => meta = meta.or(Some(content)),
                (kind, _) => container.film |= &kind == b"moov",
            }
        }
        match meta {
            Some(meta) => container.read_meta(Cursor(meta))?,
            None if container.film => return Err(Fault::unsupported("a film without a picture of its own")),
            None => return Err("unexpected end of file: no image".into()),
        }
        Ok(container)
    }

    fn read_meta(&mut self, mut meta: Cursor<'a>) -> Result<(), Fault> {
        meta.full()?;
        let mut primary = None;
        let mut boxes = Vec::new();
        while !meta.0.is_empty() {
            let (kind, content) = meta.next()?;
            if matches!(&kind, b"hdlr" | b"pitm" | b"iinf" | b"iloc" | b"iprp" | b"iref" | b"idat") {
                if boxes.iter().any(|(other, _)| *other == kind) {
                    return Err("a box that is there twice".into());
                }
                boxes.push((kind, content));
            }
        }
        // The list of items comes first, whichever order the boxes have.
        let mut counted = Counted::default();
        for (_, content) in boxes.iter().filter(|(kind, _)| kind == b"iinf") {
            self.read_items(Cursor(content), &mut counted)?;
        }
        for (kind, content) in boxes {
            let mut content = Cursor(content);
            match &kind {
                b"hdlr" if content.0.get(8..12) != Some(b"pict") => return Err(Fault::unsupported("not a picture")),
                b"pitm" => {
                    let (version, _) = content.full()?;
                    primary = Some(content.wide(version > 0)?);
                }
                b"iloc" => self.read_places(content, &mut counted)?,
                b"iprp" => self.read_properties(content, &mut counted)?,
                b"iref" => self.read_references(content, &mut counted)?,
                b"idat" => self.idat = content.0,
                _ => {}
            }
        }
        self.primary = primary.ok_or("no primary item")?;
        Ok(())
    }

    fn read_items(&mut self, mut list: Cursor<'a>, counted: &mut Counted) -> Result<(), Fault> {
        let (version, _) = list.full()?;
        list.wide(version > 0)?;
        while !list.0.is_empty() {
            let (kind, content) = list.next()?;
            let mut content = Cursor(content);
            let (version, _) = content.full()?;
            if &kind != b"infe" || !(2..=3).contains(&version) {
                continue;
            }
            let id = content.wide(version == 3)?;
            let protected = content.u16()? != 0;
            let mut item = Item { kind: content.kind()?, wrapped: protected, ..Item::default() };
            content.text();
            if &item.kind == b"mime" {
                item.content_type = content.text();
                item.wrapped |= !content.text().is_empty();
            }
            counted.add(1)?;
            if self.items.insert(id, item).is_some() {
                return Err("two items of one number".into());
            }
        }
        Ok(())
    }

    fn read_places(&mut self, mut list: Cursor<'a>, counted: &mut Counted) -> Result<(), Fault> {
        let (version, _) = list.full()?;
        if version > 2 {
            return Err(Fault::unsupported("items that are placed in an unknown way"));
        }
        let sizes = list.u16()?;
        let [offset, length, base, index] = [12, 8, 4, 0].map(|shift| usize::from(sizes >> shift & 15));
        let index = if version == 0 { 0 } else { index };
        if [offset, length, base, index].iter().any(|size| ![0, 4, 8].contains(size)) {
            return Err("numbers of an odd size".into());
        }
        for _ in 0..list.wide(version == 2)? {
            let id = list.wide(version == 2)?;
            let method = if version == 0 { 0 } else { list.u16()? & 15 };
            let elsewhere = list.u16()? != 0 || method > 1;
            let base = list.number(base)?;
            let count = list.u16()?;
            counted.add(usize::from(count))?;
            let mut parts = Vec::new();
            for _ in 0..count {
                list.number(index)?;
                let start = base.checked_add(list.number(offset)?).ok_or(END)?;
                parts.push((start, list.number(length)?));
            }
            if let Some(item) = self.items.get_mut(&id) {
                (item.in_idat, item.elsewhere, item.parts) = (method == 1, elsewhere, parts);
            }
        }
        Ok(())
    }

    fn read_properties(&mut self, mut boxes: Cursor<'a>, counted: &mut Counted) -> Result<(), Fault> {
        while !boxes.0.is_empty() {
            let (kind, content) = boxes.next()?;
            let mut content = Cursor(content);
            if &kind == b"ipco" {
                while !content.0.is_empty() {
                    counted.add(1)?;
                    self.properties.push(content.next()?);
                }
            } else if &kind == b"ipma" {
                let (version, flags) = content.full()?;
                for _ in 0..content.u32()? {
                    let id = content.wide(version > 0)?;
                    let mut properties = Vec::new();
                    for _ in 0..content.u8()? {
                        // The first bit says that it is essential.
                        let (bit, value) = match flags & 1 {
                            0 => (0x80, u16::from(content.u8()?)),
                            _ => (0x8000, content.u16()?),
                        };
                        properties.push((value & bit != 0, value & (bit - 1)));
                    }
                    counted.add(1 + properties.len())?;
                    match self.items.get_mut(&id) {
                        Some(item) if item.properties.is_empty() => item.properties = properties,
                        Some(_) => return Err("two lists of properties for one item".into()),
                        None => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn read_references(&mut self, mut boxes: Cursor<'a>, counted: &mut Counted) -> Result<(), Fault> {
        let (version, _) = boxes.full()?;
        while !boxes.0.is_empty() {
            let (kind, content) = boxes.next()?;
            let mut content = Cursor(content);
            let from = content.wide(version > 0)?;
            let count = usize::from(content.u16()?);
            counted.add(1 + count)?;
            let to = (0..count).map(|_| content.wide(version > 0)).collect::<Result<_, _>>()?;
            self.references.push(Reference { kind, from, to });
        }
        Ok(())
    }

    /// Bytes of the file.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn item(&self, id: u32) -> Result<&Item<'a>, Fault> {
        Ok(self.items.get(&id).ok_or("an item that is not there")?)
    }

    /// The bytes of an item.
    pub fn data(&self, id: u32) -> Result<Cow<'a, [u8]>, Fault> {
        let item = self.item(id)?;
        if item.elsewhere {
            return Err(Fault::unsupported("an item that is in another file or made of others"));
        }
        let source = if item.in_idat { self.idat } else { self.bytes };
        let slice = |(start, length): (u64, u64)| {
            let from = usize::try_from(start).ok().and_then(|start| source.get(start..));
            match length {
                0 => from,
                length => from.and_then(|from| from.get(..usize::try_from(length).ok()?)),
            }
        };
        if let [part] = item.parts[..] {
            return Ok(Cow::Borrowed(slice(part).ok_or("unexpected end of file in an item")?));
        }
        let mut data = Vec::new();
        for part in &item.parts {
            let part = slice(*part).ok_or("unexpected end of file in an item")?;
            if data.len() + part.len() > self.bytes.len() {
                return Err("an item larger than the file".into());
            }
            data.extend_from_slice(part);
        }
        Ok(Cow::Owned(data))
    }

    /// The properties of an item, in its order.
    pub fn properties(&self, id: u32) -> Result<Vec<Property<'a>>, Fault> {
        let item = self.item(id)?;
        let mut found = Vec::new();
        for (essential, index) in item.properties.iter().filter(|(_, index)| *index > 0) {
            let (kind, content) =
                *self.properties.get(usize::from(*index) - 1).ok_or("a property that is not there")?;
            found.push(Property { essential: *essential, kind, content });
        }
        Ok(found)
    }

    /// The items that `from` refers to in that way.
    pub fn referred(&self, kind: &[u8; 4], from: u32) -> &[u32] {
        let found = self.references.iter().find(|reference| reference.kind == *kind && reference.from == from);
        found.map_or(&[], |reference| &reference.to)
    }

    /// The items that refer to `to` in that way.
    pub fn referring(&self, kind: [u8; 4], to: u32) -> impl Iterator<Item = u32> {
        let found =
            self.references.iter().filter(move |reference| reference.kind == kind && reference.to.contains(&to));
        found.map(|reference| reference.from)
    }
}
