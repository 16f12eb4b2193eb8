//! What a file says about its pixels besides their values, and which of it another file can say.

use super::codec::ImageFormat;
use super::codec::exr::holds_text;
use super::codec::tiff_exif::{Exif, MAKER_NOTE};
use super::exif;
pub use super::fits_cards::FitsHeader;

/// Largest EXIF block and largest XMP packet of a JPEG file, which has one segment for each.
const JPEG_EXIF: usize = 65_527;
const JPEG_XMP: usize = 65_502;
/// Largest text of a JPEG comment.
const JPEG_COMMENT: usize = 65_533;

/// Metadata that is carried from an observation to its result. Each block is at most
/// [`Limits::max_metadata`](super::limits::Limits::max_metadata) bytes; a larger one is left out.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Metadata {
    /// The ICC profile, unread but for the colour space it is for.
    pub icc: Option<Vec<u8>>,
    /// The EXIF block, without the `Exif\0\0` prefix, its orientation normal and its thumbnail removed.
    pub exif: Option<Vec<u8>>,
    /// The XMP packet.
    pub xmp: Option<Vec<u8>>,
    /// How large the pixels are.
    pub resolution: Option<Resolution>,
    /// Comments.
    pub texts: Vec<Text>,
    /// PNG chunks that say what the colours are: gAMA, cHRM, sRGB and cICP, with their types.
    pub png_colour: Vec<([u8; 4], Vec<u8>)>,
    /// Whether values are light by the convention of the format, and not encoded with a tone curve.
    pub linear: bool,
    /// The header of a FITS file.
    pub fits: Option<FitsHeader>,
    /// Kinds of metadata that the file has and that are not carried on.
    pub left_out: Vec<&'static str>,
}

/// Pixels per inch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resolution {
    /// Along rows.
    pub x: f64,
    /// Along columns.
    pub y: f64,
}

impl Resolution {
    /// From pixels per metre or another length of that many inches; `None` unless both are positive numbers.
    pub(super) fn per(x: f64, y: f64, inches: f64) -> Option<Self> {
        let [x, y] = [x / inches, y / inches];
        let fits = |v: f64| v.is_finite() && (1e-3..=1e7).contains(&v);
        (fits(x) && fits(y)).then_some(Self { x, y })
    }
}

/// A text and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// `Comment`, `Description`, `Author`, `Copyright`, `Software`, `Creation Time`, or another keyword of a PNG.
    pub keyword: String,
    /// The text.
    pub text: String,
}

/// Colour spaces that the header of an ICC profile may name.
const SPACES: [&[u8; 4]; 23] = [
    b"RGB ", b"GRAY", b"CMYK", b"CMY ", b"Lab ", b"XYZ ", b"Luv ", b"YCbr", b"Yxy ", b"HSV ", b"HLS ", b"2CLR",
    b"3CLR", b"4CLR", b"5CLR", b"6CLR", b"7CLR", b"8CLR", b"9CLR", b"ACLR", b"BCLR", b"CCLR", b"DCLR",
];

/// Whether a profile may stand beside pixels of so many colour channels: it is of their colour space, or of none known.
pub(super) fn profile_fits(icc: &[u8], colours: usize) -> bool {
    let space = icc.get(16..20).unwrap_or_default();
    let own: &[u8] = if colours == 1 { b"GRAY" } else { b"RGB " };
    space == own || SPACES.iter().all(|other| other.as_slice() != space)
}

impl Metadata {
    /// Whether the file says that its values are light.
    pub fn is_light(&self) -> bool {
        let gamma = |(kind, data): &([u8; 4], Vec<u8>)| kind == b"gAMA" && data == &GAMMA_OF_LIGHT;
        self.linear || self.icc.is_none() && self.png_colour.iter().any(gamma)
    }

    /// Notes a kind that is not carried on, once.
    pub(super) fn leave_out(&mut self, what: &'static str) {
        if !self.left_out.contains(&what) {
            self.left_out.push(what);
        }
    }

    /// The same for a picture of `factors` as many columns and rows, now `width` x `height`.
    #[must_use]
    pub fn resized(mut self, factors: [f64; 2], (width, height): (u32, u32)) -> Self {
        if let Some(Resolution { x, y }) = &mut self.resolution {
            *x *= factors[0];
            *y *= factors[1];
        }
        if let Some(exif) = &mut self.exif {
            exif::resize(exif, factors, (width, height));
        }
        if self.fits.as_mut().is_some_and(|header| header.resize(factors, [width, height])) {
            self.leave_out("world coordinates, which do not hold for pixels of this size or place");
        }
        self
    }

    /// What a file of that format, with so many colour channels, can say of it, and what is lost: names for people.
    pub fn fitted(&self, format: ImageFormat, colours: usize) -> (Self, Vec<String>) {
        let mut kept = self.clone();
        let mut lost: Vec<String> = self.left_out.iter().map(|what| (*what).to_owned()).collect();
        // WebP stores grey as RGB.
        let colours = if format == ImageFormat::WebP { 3 } else { colours };
        if kept.fits.take_if(|_| format != ImageFormat::Fits).is_some() {
            lost.push("the FITS header".to_owned());
        }
        // Formats of light hold nothing that photographs have.
        let light = format.holds_light();
        if kept.icc.take_if(|_| light).is_some() {
            lost.push("the ICC profile".to_owned());
        }
        if kept.icc.take_if(|icc| !profile_fits(icc, colours)).is_some() {
            lost.push("the ICC profile, which is for another colour space".to_owned());
        }
        let jpeg = format == ImageFormat::Jpeg;
        let in_tiff = self.exif.as_deref().filter(|_| format == ImageFormat::Tiff).map(Exif::of_block);
        if in_tiff.as_ref().is_some_and(|exif| exif.as_ref().is_some_and(|exif| exif.incomplete)) {
            lost.push(MAKER_NOTE.to_owned());
        }
        let no_fields = matches!(in_tiff, Some(None));
        if kept.exif.take_if(|exif| light || no_fields || jpeg && exif.len() > JPEG_EXIF).is_some() {
            lost.push("EXIF".to_owned());
        }
        if kept.xmp.take_if(|xmp| light || jpeg && xmp.len() > JPEG_XMP).is_some() {
            lost.push("XMP".to_owned());
        }
        let not_in_exif = kept.exif.as_deref().and_then(exif::resolution).is_none();
        if (format == ImageFormat::Fits || format == ImageFormat::WebP && not_in_exif)
            && kept.resolution.take().is_some()
        {
            lost.push("the resolution".to_owned());
        }
        let texts = kept.texts.len();
        kept.texts.retain(|Text { keyword, text }| match format {
            ImageFormat::OpenExr => holds_text(keyword),
            ImageFormat::JpegXl | ImageFormat::Avif | ImageFormat::WebP | ImageFormat::Fits => false,
            ImageFormat::Jpeg => keyword.len() + text.len() + 2 <= JPEG_COMMENT,
            ImageFormat::Tiff => tiff_tag(keyword).is_some() && text.is_ascii(),
            ImageFormat::Png => true,
        });
        if kept.texts.len() < texts {
            lost.push("comments".to_owned());
        }
        if format == ImageFormat::Png && self.linear && kept.icc.is_none() && kept.png_colour.is_empty() {
            kept.png_colour.push((*b"gAMA", GAMMA_OF_LIGHT.into()));
        }
        if format == ImageFormat::OpenExr && !self.is_light() {
            lost.push("the tone curve: values are written as they are, but OpenEXR means light".to_owned());
        }
        if format != ImageFormat::Png {
            let usual =
                |(kind, data): &([u8; 4], Vec<u8>)| kind == b"sRGB" || kind == b"gAMA" && data == &GAMMA_OF_SRGB;
            let unusual = kept.png_colour.iter().any(|chunk| !usual(chunk) && &chunk.0 != b"cHRM");
            if (unusual || self.linear) && kept.icc.is_none() && !light {
                lost.push("gamma and primaries".to_owned());
            }
            kept.png_colour.clear();
        }
        (kept, lost)
    }
}

/// 1/2.2 and 1, as PNG stores them.
const GAMMA_OF_SRGB: [u8; 4] = 45_455_u32.to_be_bytes();
const GAMMA_OF_LIGHT: [u8; 4] = 100_000_u32.to_be_bytes();

/// TIFF tags of texts.
pub(super) const TIFF_TEXTS: [(u16, &str); 5] =
    [(270, "Description"), (305, "Software"), (306, "Creation Time"), (315, "Author"), (33432, "Copyright")];

/// The TIFF tag that a text of that keyword has; a comment is a description.
pub(super) fn tiff_tag(keyword: &str) -> Option<u16> {
    let keyword = if keyword == "Comment" { "Description" } else { keyword };
    TIFF_TEXTS.iter().find(|(_, name)| *name == keyword).map(|(tag, _)| *tag)
}

/// Sets the orientation that an XMP packet names to normal, in place.
pub(super) fn upright_xmp(xmp: &mut [u8]) {
    for start in [&b"tiff:Orientation=\""[..], b"tiff:Orientation='", b"<tiff:Orientation>"] {
        let mut from = 0;
        while let Some(at) = xmp[from..].windows(start.len()).position(|window| window == start) {
            from += at + start.len();
            if let [value @ b'1'..=b'8', b'"' | b'\'' | b'<', ..] = &mut xmp[from..] {
                *value = b'1';
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(space: &[u8; 4]) -> Vec<u8> {
        let mut icc = vec![0; 128];
        icc[16..20].copy_from_slice(space);
        icc
    }

    #[test]
    fn profiles_stay_with_pixels_of_their_colour_space() {
        for (space, grey, rgb) in [(b"GRAY", true, false), (b"RGB ", false, true), (b"CMYK", false, false)] {
            assert_eq!([profile_fits(&profile(space), 1), profile_fits(&profile(space), 3)], [grey, rgb]);
            let metadata = Metadata { icc: Some(profile(space)), ..Metadata::default() };
            assert_eq!(metadata.fitted(ImageFormat::Png, 3).0.icc.is_some(), rgb);
            assert_eq!(metadata.fitted(ImageFormat::Png, 1).1.is_empty(), grey);
            assert_eq!(metadata.fitted(ImageFormat::WebP, 1).0.icc.is_some(), rgb, "which stores grey as RGB");
        }
        assert!(profile_fits(b"short", 1) && profile_fits(b"short", 3));
    }

    #[test]
    fn what_a_format_cannot_say_is_named() {
        let text = |keyword: &str| Text { keyword: keyword.into(), text: "a".into() };
        let metadata = Metadata {
            exif: Some(vec![0; 70_000]),
            xmp: Some(vec![0; 70_000]),
            resolution: Resolution::per(300.0, 300.0, 1.0),
            texts: vec![text("Comment"), text("Warning")],
            png_colour: vec![(*b"gAMA", 100_000_u32.to_be_bytes().into())],
            ..Metadata::default()
        };
        let lost = |format| metadata.fitted(format, 3).1.join(", ");
        assert_eq!(lost(ImageFormat::Png), "");
        assert_eq!(lost(ImageFormat::Jpeg), "EXIF, XMP, gamma and primaries");
        assert_eq!(lost(ImageFormat::Tiff), "EXIF, comments, gamma and primaries");
        // Its place is in EXIF, and this block does not hold it.
        assert_eq!(lost(ImageFormat::WebP), "the resolution, comments, gamma and primaries");
    }

    #[test]
    fn xmp_does_not_turn_what_is_upright() {
        let mut xmp = *b"<a tiff:Orientation=\"6\"/><tiff:Orientation>8</tiff:Orientation><b tiff:Orientation=\"";
        upright_xmp(&mut xmp);
        assert_eq!(&xmp, b"<a tiff:Orientation=\"1\"/><tiff:Orientation>1</tiff:Orientation><b tiff:Orientation=\"");
    }
}
