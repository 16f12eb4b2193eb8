//! The segments of a JPEG file: where its image ends, its density, its comments.

use crate::io::metadata::{Metadata, Resolution, Text};

/// What the segments tell.
#[derive(Debug, Default)]
pub struct Markers {
    /// Where the data of the last scan end: at the end-of-image marker, or at the end of a file that lacks one.
    pub end: Option<usize>,
    /// Whether that marker is there.
    pub closed: bool,
    /// Bytes of all scans.
    pub scanned: usize,
    /// The frame, as far as it has been sent.
    pub frame: Frame,
    /// Density and comments.
    pub metadata: Metadata,
}

/// A frame's size and components.
#[derive(Debug, Default)]
pub struct Frame {
    width: usize,
    height: usize,
    components: Vec<Component>,
}

/// A component: its name, its sampling factors, and of each coefficient the bit that has been sent down to.
#[derive(Debug)]
struct Component {
    id: u8,
    sampling: [usize; 2],
    sent: [u8; 64],
}

/// A coefficient of which nothing has been sent.
const NOTHING: u8 = 255;

impl Frame {
    /// From the content of its header.
    fn new(header: &[u8]) -> Self {
        let [_, h1, h0, w1, w0, _, components @ ..] = header else { return Self::default() };
        let component = |c: &[u8; 3]| {
            let sampling = [c[1] >> 4, c[1] & 15].map(|factor| usize::from(factor.max(1)));
            Component { id: c[0], sampling, sent: [NOTHING; 64] }
        };
        Self {
            width: u16::from_be_bytes([*w1, *w0]).into(),
            height: u16::from_be_bytes([*h1, *h0]).into(),
            components: components.as_chunks().0.iter().map(component).collect(),
        }
    }

    /// Takes note of a scan, from the content of its header.
    fn scan(&mut self, header: &[u8]) {
        let Some((count, rest)) = header.split_first() else { return };
        let count = usize::from(*count);
        let Some([first, last, bits]) = rest.get(2 * count..2 * count + 3) else { return };
        for id in rest.as_chunks::<2>().0.iter().take(count).map(|[id, _]| id) {
            for component in self.components.iter_mut().filter(|component| component.id == *id) {
                let range = usize::from(*first)..=usize::from(*last);
                component.sent.get_mut(range).unwrap_or_default().fill(bits & 15);
            }
        }
    }

    /// Blocks of 8x8 samples.
    pub fn blocks(&self) -> usize {
        let most = |axis: usize| self.components.iter().map(|c| c.sampling[axis]).max().unwrap_or(1);
        let along = |pixels: usize, factor: usize, most: usize| (pixels * factor).div_ceil(8 * most);
        let blocks =
            |c: &Component| along(self.width, c.sampling[0], most(0)) * along(self.height, c.sampling[1], most(1));
        self.components.iter().map(blocks).sum()
    }

    /// Whether a scan has sent every bit of every coefficient. What the scans hold is another matter.
    pub fn is_whole(&self) -> bool {
        !self.components.is_empty() && self.components.iter().all(|component| component.sent == [0; 64])
    }
}

/// Steps from segment to segment, through all scans. Thumbnails, which are files of their own, lie in segments.
pub fn walk(file: &[u8], max_metadata: usize) -> Markers {
    let mut found = Markers::default();
    let mut texts = 0;
    let mut scans = false;
    let mut at = 2;
    loop {
        match file.get(at..) {
            // Any number of fill bytes may precede a marker.
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, 0xd9, ..]) => {
                found.end = scans.then_some(at);
                found.closed = true;
                return found;
            }
            Some([0xff, 0x01 | 0xd0..=0xd8, ..]) => at += 2,
            Some([0xff, marker, high, low, rest @ ..]) => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let content = rest.get(..length.saturating_sub(2)).unwrap_or(rest);
                match marker {
                    0xe0 => found.metadata.resolution = found.metadata.resolution.or(density(content)),
                    0xed if content.starts_with(b"Photoshop") => found.metadata.leave_out("IPTC or Photoshop data"),
                    0xfe if texts + content.len() <= max_metadata => {
                        texts += content.len();
                        let text = String::from_utf8_lossy(content).trim_end_matches('\0').to_owned();
                        found.metadata.texts.push(Text { keyword: "Comment".into(), text });
                    }
                    0xfe => found.metadata.leave_out("long comments"),
                    _ => {}
                }
                match marker {
                    0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => found.frame = Frame::new(content),
                    0xda => found.frame.scan(content),
                    _ => {}
                }
                at += 2 + length;
                if *marker == 0xda {
                    scans = true;
                    let end = end_of_scan(file, at);
                    found.scanned += end.saturating_sub(at);
                    at = end;
                }
            }
            _ if scans => {
                // A lone 0xff may be what is left of the marker.
                found.end = Some(if file.ends_with(b"\xff") { file.len() - 1 } else { file.len() });
                return found;
            }
            _ => return found,
        }
    }
}

/// The first marker from `at` on that is neither a stuffed byte nor a restart.
fn end_of_scan(file: &[u8], at: usize) -> usize {
    let data = file.get(at..).unwrap_or_default();
    let marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff);
    data.windows(2).position(marker).map_or(file.len(), |end| at + end)
}

/// The density of a JFIF segment, unless it is only a ratio of sides.
fn density(content: &[u8]) -> Option<Resolution> {
    let [b'J', b'F', b'I', b'F', 0, _, _, unit, x1, x0, y1, y0, ..] = content else { return None };
    let inches = match unit {
        1 => 1.0,
        2 => 1.0 / 2.54,
        _ => return None,
    };
    let [x, y] = [[*x1, *x0], [*y1, *y0]].map(|bytes| f64::from(u16::from_be_bytes(bytes)));
    Resolution::per(x, y, inches)
}

/// Where segments may be put into a file just encoded: behind its own application segments.
pub fn insertion(file: &[u8]) -> usize {
    let mut at = 2;
    while let Some([0xff, 0xe0..=0xef, high, low, ..]) = file.get(at..) {
        at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    at.min(file.len())
}

/// A segment; `None` if the content is too long for one.
pub fn segment(marker: u8, content: &[&[u8]]) -> Option<Vec<u8>> {
    let length = u16::try_from(content.iter().map(|part| part.len()).sum::<usize>() + 2).ok()?;
    Some([&[0xff, marker], &length.to_be_bytes()[..], &content.concat()].concat())
}

/// Width and height that the first frame header declares.
pub fn size(file: &[u8]) -> Option<(u32, u32)> {
    let frame = walk(file, 0).frame;
    let side = |pixels: usize| u32::try_from(pixels).ok();
    side(frame.width).zip(side(frame.height)).filter(|_| !frame.components.is_empty())
}
