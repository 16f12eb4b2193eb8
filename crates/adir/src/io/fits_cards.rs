//! The cards of a FITS header: what they say, and which of them hold for a picture of another size.

/// 80 characters: a keyword of 8, and mostly a value.
pub(super) type Card = [u8; 80];

/// The cards of a FITS file that its result has, too: all but those of the layout of its data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FitsHeader {
    cards: Vec<Card>,
    /// Of the picture that they are of.
    size: [u32; 2],
    /// Its place along the axes from the third on, where it is a plane.
    planes: Vec<u64>,
}

/// Cards of the layout, and of what is no longer so: checksums, extremes, the date of the file.
const OF_THE_FILE: [&str; 22] = [
    "", "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "EXTEND", "BLOCKED", "PCOUNT", "GCOUNT", "GROUPS", "BSCALE", "BZERO",
    "BLANK", "CHECKSUM", "DATASUM", "DATAMIN", "DATAMAX", "DATE", "INHERIT", "NEXTEND", "END", "FILENAME",
];
/// World coordinates: keywords of axes, which are followed by their numbers, and others.
const OF_AXES: [&str; 15] = [
    "CRPIX", "CRVAL", "CDELT", "CROTA", "CTYPE", "CUNIT", "CNAME", "CRDER", "CSYER", "CD", "PC", "PV", "PS", "LTV",
    "LTM",
];
const OF_WORLD: [&str; 8] = ["WCSAXES", "WCSNAME", "RADESYS", "RADECSYS", "EQUINOX", "LONPOLE", "LATPOLE", "WCSDIM"];
/// Begin keywords of distortions by tables and plate solutions, which are not scaled.
const UNSCALED: [&str; 13] =
    ["CPDIS", "CPERR", "CQDIS", "CQERR", "DP", "DQ", "DVERR", "D2IM", "AMD", "PPO", "CNPIX", "PLT", "WAT"];
/// Sizes of pixels.
const PIXEL_SIZES: [&str; 9] =
    ["XPIXSZ", "YPIXSZ", "PIXSIZE1", "PIXSIZE2", "PIXSCALE", "PIXSCAL1", "PIXSCAL2", "SECPIX1", "SECPIX2"];
/// Parts of the picture, in pixels.
const SECTIONS: [&str; 4] = ["DATASEC", "TRIMSEC", "BIASSEC", "AMPSEC"];

/// A card from the bytes of a file: what is no ASCII text becomes blank.
pub(super) fn card(bytes: &Card) -> Card {
    bytes.map(|byte| if (0x20..0x7f).contains(&byte) { byte } else { b' ' })
}

fn text(card: &[u8]) -> &str {
    std::str::from_utf8(card).unwrap_or_default()
}

/// The keyword.
pub(super) fn keyword(card: &Card) -> &str {
    text(&card[..8]).trim_end()
}

/// Value and comment, as they are written.
fn parts(card: &Card) -> Option<(&str, &str)> {
    let rest = text(&card[8..]).strip_prefix("= ")?.trim_start();
    let end = match rest.strip_prefix('\'') {
        None => rest.find('/').unwrap_or(rest.len()),
        Some(string) => {
            // A quote within is written twice.
            let mut quotes = string.match_indices('\'').map(|(at, _)| at).peekable();
            let mut end = None;
            while let Some(at) = quotes.next() {
                if quotes.next_if_eq(&(at + 1)).is_none() {
                    end = Some(at + 2);
                    break;
                }
            }
            end.unwrap_or(rest.len())
        }
    };
    let (value, after) = rest.split_at(end);
    Some((value.trim_end(), after.trim_start().strip_prefix('/').unwrap_or_default().trim()))
}

fn find<'a>(cards: &'a [Card], key: &str) -> Option<&'a str> {
    cards.iter().find(|card| keyword(card) == key).and_then(parts).map(|(value, _)| value)
}

/// A number by its keyword.
pub(super) fn number(cards: &[Card], key: &str) -> Option<f64> {
    find(cards, key)?.replace(['D', 'd'], "E").parse().ok()
}

/// A whole number by its keyword.
pub(super) fn whole(cards: &[Card], key: &str) -> Option<i64> {
    find(cards, key)?.parse().ok()
}

/// Whether a keyword is there and true.
pub(super) fn is_true(cards: &[Card], key: &str) -> bool {
    find(cards, key) == Some("T")
}

/// A string by its keyword, without blanks at its end; `None` if nothing is left.
pub(super) fn string(cards: &[Card], key: &str) -> Option<String> {
    let string = find(cards, key)?.strip_prefix('\'')?;
    let string = string.strip_suffix('\'').unwrap_or(string).replace("''", "'");
    Some(string.trim_end().to_owned()).filter(|string| !string.is_empty())
}

/// A card with that value, which is written at the right as readers of old want it.
pub(super) fn written(key: &str, value: &str, comment: &str) -> Card {
    let line = if comment.is_empty() {
        format!("{key:<8}= {value:>20}")
    } else {
        format!("{key:<8}= {value:>20} / {comment}")
    };
    let mut card = [b' '; 80];
    card.iter_mut().zip(line.bytes()).for_each(|(to, from)| *to = from);
    card
}

fn with_number(card: &Card, value: f64) -> Card {
    let comment = parts(card).map_or("", |(_, comment)| comment);
    written(keyword(card), &format!("{value:?}").to_uppercase(), comment)
}

/// The numbers of the axes behind `stem`, and the letter of an alternative description: `CD1_2A` is [1, 2] behind `CD`.
fn axes(key: &str, stem: &str) -> Option<Vec<usize>> {
    let rest = key.strip_prefix(stem)?;
    let rest = rest.strip_suffix(|c: char| c.is_ascii_uppercase()).unwrap_or(rest);
    rest.split('_').map(|number| number.parse().ok()).collect()
}

/// The stem and the axes of a keyword of world coordinates.
fn of_axes(key: &str) -> Option<(&'static str, Vec<usize>)> {
    OF_AXES.iter().find_map(|stem| axes(key, stem).map(|axes| (*stem, axes)))
}

/// The order of a term of a distortion polynomial (SIP): `A_2_1` has 3.
fn of_polynomial(key: &str) -> Option<i32> {
    ["A_", "B_", "AP_", "BP_"].iter().find_map(|stem| match axes(key, stem)?.as_slice() {
        [p, q] => i32::try_from(p + q).ok(),
        _ => None,
    })
}

fn is_polynomial(key: &str) -> bool {
    ["A_", "B_", "AP_", "BP_"].iter().any(|stem| key.starts_with(stem))
}

fn is_unscaled(key: &str) -> bool {
    UNSCALED
        .iter()
        .any(|stem| key.strip_prefix(stem).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
        || key.starts_with("WAT") && key.len() > 4
        || key.starts_with("D2IM")
        || key.starts_with("PLTRA")
}

fn is_world(key: &str) -> bool {
    let plain = key.strip_suffix(|c: char| c.is_ascii_uppercase()).unwrap_or(key);
    of_axes(key).is_some()
        || is_polynomial(key)
        || is_unscaled(key)
        || OF_WORLD.iter().any(|own| *own == key || *own == plain)
}

impl FitsHeader {
    /// Of the header `cards` of a picture of `size` columns and rows. `above` are those of the file, where the picture is
    /// in an extension. Along the axes from the third on, the picture is number `planes` from 0.
    pub(super) fn of(cards: &[Card], above: &[Card], planes: &[u64], size: [u32; 2]) -> Self {
        let kept = |card: &&Card| {
            let key = keyword(card);
            !OF_THE_FILE.contains(&key) && axes(key, "NAXIS").is_none()
        };
        let own: Vec<Card> = cards.iter().filter(kept).copied().collect();
        // Comments are of each; a value of the extension stands for that of the file.
        let of_all = |key: &str| matches!(key, "COMMENT" | "HISTORY" | "CONTINUE" | "HIERARCH");
        let inherited = above.iter().filter(kept).filter(|card| {
            let key = keyword(card);
            key != "CONTINUE" && (of_all(key) || own.iter().all(|other| keyword(other) != key))
        });
        let mut cards: Vec<Card> = inherited.chain(&own).copied().collect();
        for card in &mut cards {
            if let Some(("CRPIX", at)) = of_axes(keyword(card))
                && let [axis] = at.as_slice()
                && let Some(plane) = axis.checked_sub(3).and_then(|k| planes.get(k))
                && let Some(value) = value(card)
            {
                *card = with_number(card, value - *plane as f64);
            }
        }
        // Without its card, pixel 0 of an axis is the reference.
        for (axis, plane) in (3..).zip(planes) {
            let key = format!("CRPIX{axis}");
            let described = |card: &Card| of_axes(keyword(card)).is_some_and(|(_, at)| at.contains(&axis));
            if find(&cards, &key).is_none()
                && let Some(at) = cards.iter().rposition(described)
            {
                cards.insert(at + 1, written(&key, &format!("{:?}", -(*plane as f64)), ""));
            }
        }
        // Fewer axes are stored than described: their number must come before them.
        let axes = 2 + planes.len();
        let described = |card: &Card| of_axes(keyword(card)).is_some_and(|(_, at)| at.iter().any(|axis| *axis > 2));
        let first = cards.iter().position(|card| is_world(keyword(card)));
        if let Some(first) = first.filter(|_| cards.iter().any(described) && find(&cards, "WCSAXES").is_none()) {
            cards.insert(first, written("WCSAXES", &axes.to_string(), ""));
        }
        Self { cards, size, planes: planes.to_vec() }
    }

    /// The cards, 80 characters each.
    pub fn cards(&self) -> impl Iterator<Item = &str> {
        self.cards.iter().map(|card| text(card))
    }

    pub(super) fn raw(&self) -> &[Card] {
        &self.cards
    }

    /// Whether rows are stored from the top, against the usual order.
    pub(super) fn from_top(cards: &[Card]) -> bool {
        string(cards, "ROWORDER").is_some_and(|order| order.eq_ignore_ascii_case("TOP-DOWN"))
    }

    /// Whether this is the header of the plane `k` planes behind that of `first` in one cube: all of it is the same, but for its
    /// place along the third axis.
    pub(super) fn is_plane_of(&self, first: &Self, k: usize) -> bool {
        let same = |(own, other): (&Card, &Card)| {
            let third = matches!(of_axes(keyword(own)), Some(("CRPIX", at)) if at == [3]);
            match (third, value(own), value(other)) {
                (true, Some(own), Some(other)) => own == other - k as f64,
                _ => own == other,
            }
        };
        // Planes along another axis, too, are told apart by their places only where nothing describes it.
        let follows = match (self.planes.as_slice(), first.planes.as_slice()) {
            ([own, further @ ..], [other, beside @ ..]) => *own == other + k as u64 && further == beside,
            (own, other) => own.len() == other.len(),
        };
        follows && self.cards.len() == first.cards.len() && self.cards.iter().zip(&first.cards).all(same)
    }

    /// Brings the cards to a picture of `factors` as many columns and rows, now of `size`. Says whether world coordinates
    /// are lost, because it shows another part, or because they cannot be scaled.
    pub(super) fn resize(&mut self, factors: [f64; 2], size: [u32; 2]) -> bool {
        let whole = [0, 1].map(|k| f64::from(self.size[k]) * factors[k] == f64::from(size[k])) == [true; 2];
        let same = whole && factors == [1.0; 2];
        self.size = size;
        if same {
            return false;
        }
        self.cards.retain(|card| !SECTIONS.contains(&keyword(card)));
        let factor = factors[0];
        for card in &mut self.cards {
            if let (true, Some(size)) = (PIXEL_SIZES.contains(&keyword(card)) || keyword(card) == "SECPIX", value(card))
            {
                *card = with_number(card, size / factor);
            }
        }
        let scales = whole && factors[0] == factors[1] && !self.cards.iter().any(|card| is_unscaled(keyword(card)));
        if !scales {
            let before = self.cards.len();
            self.cards.retain(|card| !is_world(keyword(card)));
            return self.cards.len() < before;
        }
        for card in &mut self.cards {
            if let Some(scaled) = value(card).and_then(|v| scaled(keyword(card), v, factor)) {
                *card = with_number(card, scaled);
            }
        }
        false
    }
}

fn value(card: &Card) -> Option<f64> {
    parts(card)?.0.replace(['D', 'd'], "E").parse().ok()
}

/// The value of a keyword of world coordinates in an image of `factor` as many columns and rows. Pixels are counted from
/// 1, at their centres.
fn scaled(key: &str, value: f64, factor: f64) -> Option<f64> {
    if let Some(order) = of_polynomial(key) {
        return Some(value * factor.powi(1 - order));
    }
    let (stem, axes) = of_axes(key)?;
    match (stem, axes.as_slice()) {
        ("CRPIX" | "LTV", [1 | 2]) => Some((value - 0.5) * factor + 0.5),
        ("CDELT", [1 | 2]) | ("CD", [_, 1 | 2]) => Some(value / factor),
        ("LTM", [1 | 2, _]) => Some(value * factor),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cards(lines: &[&str]) -> Vec<Card> {
        let of = |line: &&str| {
            let mut card = [b' '; 80];
            card[..line.len()].copy_from_slice(line.as_bytes());
            card
        };
        lines.iter().map(of).collect()
    }

    #[test]
    fn values_are_read_as_they_are_written() {
        let cards = cards(&[
            "EXPTIME =                 30.5 / s / not min",
            "GAIN    = 1.5D-2",
            "OBJECT  = 'Barnard''s star / field ' / name",
            "EMPTY   = '        '",
            "BITPIX  = -32",
            "COMMENT = 'no value",
            "OPEN    = 'never closed",
        ]);
        assert_eq!(number(&cards, "EXPTIME"), Some(30.5));
        assert_eq!(number(&cards, "GAIN"), Some(0.015));
        assert_eq!(string(&cards, "OBJECT").as_deref(), Some("Barnard's star / field"));
        assert_eq!(parts(&cards[2]).unwrap().1, "name");
        assert_eq!((string(&cards, "EMPTY"), whole(&cards, "BITPIX")), (None, Some(-32)));
        assert_eq!(string(&cards, "OPEN").as_deref(), Some("never closed"));
        assert_eq!((whole(&cards, "EXPTIME"), number(&cards, "NONE")), (None, None));
        assert_eq!(number(&[with_number(&cards[0], -1.5e-9)], "EXPTIME"), Some(-1.5e-9));
    }

    /// The centre of the first of 4 x 4 new pixels lies at 0.625 of the old ones, counted from 1 at the centres.
    #[test]
    fn world_coordinates_follow_the_factor() {
        let file = cards(&[
            "SIMPLE  = T",
            "NAXIS1  = 8",
            "OBJECT  = 'M 31'",
            "CRPIX1  = 0.625",
            "CRPIX2A = 8.5",
            "CD1_2   = -0.004",
            "CDELT2  = 2.0",
            "CRVAL1  = 10.0",
            "A_ORDER = 2",
            "A_2_0   = 1.0",
            "A_0_1   = 3.0",
            "XPIXSZ  = 9.0",
            "DATASEC = '[1:8,1:8]'",
            "DATE-OBS= '2026-01-01'",
            "CHECKSUM= 'x'",
        ]);
        let header = FitsHeader::of(&file, &[], &[], [8, 8]);
        let mut scaled = header.clone();
        assert!(!scaled.resize([4.0; 2], [32, 32]));
        let of = |key| number(&scaled.cards, key);
        for (key, expected) in [
            ("CRPIX1", 1.0),
            ("CRPIX2A", 32.5),
            ("CD1_2", -0.001),
            ("CDELT2", 0.5),
            ("CRVAL1", 10.0),
            ("A_ORDER", 2.0),
            ("A_2_0", 0.25),
            ("A_0_1", 3.0),
            ("XPIXSZ", 2.25),
        ] {
            assert_eq!(of(key), Some(expected), "{key}");
        }
        assert_eq!(string(&scaled.cards, "OBJECT").as_deref(), Some("M 31"));
        for gone in ["NAXIS1", "DATASEC", "CHECKSUM", "SIMPLE"] {
            assert!(scaled.cards.iter().all(|card| keyword(card) != gone), "{gone}");
        }
        let mut same = header.clone();
        assert!(!same.resize([1.0; 2], [8, 8]) && same == header);
        // A margin around the picture moves the origin.
        let mut other = header;
        assert!(other.resize([1.0; 2], [12, 12]));
        assert_eq!((number(&other.cards, "CRPIX1"), number(&other.cards, "A_2_0")), (None, None));
        assert_eq!(string(&other.cards, "DATE-OBS").as_deref(), Some("2026-01-01"));
        let table = FitsHeader::of(&cards(&["CPDIS1  = 'LOOKUP'", "CRPIX1  = 4.0"]), &[], &[], [8, 8]);
        assert!(table.clone().resize([2.0; 2], [16, 16]) && !table.clone().resize([1.0; 2], [8, 8]));
    }

    #[test]
    fn extensions_inherit_and_planes_know_their_place() {
        let above = cards(&["SIMPLE  = T", "OBJECT  = 'above'", "INSTRUME= 'camera'", "HISTORY one"]);
        let own = cards(&["XTENSION= 'IMAGE'", "OBJECT  = 'own'", "CRPIX3  = 1.0", "CRVAL3  = 1.4E9", "HISTORY two"]);
        let header = FitsHeader::of(&own, &above, &[4, 0], [8, 8]);
        assert_eq!(string(&header.cards, "OBJECT").as_deref(), Some("own"));
        assert_eq!(string(&header.cards, "INSTRUME").as_deref(), Some("camera"));
        assert_eq!(header.cards().filter(|card| card.starts_with("HISTORY")).count(), 2);
        assert_eq!((number(&header.cards, "CRPIX3"), whole(&header.cards, "WCSAXES")), (Some(-3.0), Some(4)));
        assert!(FitsHeader::from_top(&cards(&["ROWORDER= 'TOP-DOWN'"])) && !FitsHeader::from_top(&own));
    }
}
