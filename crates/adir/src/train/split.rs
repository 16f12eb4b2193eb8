//! Which files are held out: photographs whole, with all of their tiles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every n-th photograph is held out.
const HELD_OUT_EVERY: usize = 25;

/// Whether files named `NAME_ROW_COLUMN.png`, with numbers of up to three digits, are parts of the one photograph
/// `NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tiles {
    /// If they look like tiles and not like dates or numbered scans: numbers without leading zeros, some of which are 0,
    /// and a name that does not end in a year.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The files of every 25th photograph, in the order of the CRC-32 of their names.
pub(super) fn held_out(files: &[String], tiles: Tiles) -> BTreeSet<&str> {
    let mut photographs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let tiled = match tiles {
        Tiles::Auto => files.iter().any(|file| tile(stem(file)).is_some_and(|tile| tile.is_plausible && tile.has_zero)),
        Tiles::Always => true,
        Tiles::Never => false,
    };
    for file in files {
        let stem = stem(file);
        let tile = tile(stem).filter(|tile| tiled && (tile.is_plausible || tiles == Tiles::Always));
        photographs.entry(tile.map_or(stem, |tile| tile.photograph)).or_default().push(file);
    }
    if photographs.len() < 2 && tiles != Tiles::Always {
        // Files of one name in many folders, say: nothing would be left to train on.
        photographs = files.iter().map(|file| (file.as_str(), vec![file.as_str()])).collect();
    }
    let mut photographs: Vec<_> = photographs.into_iter().collect();
    photographs.sort_by_key(|(name, _)| crc32fast::hash(name.as_bytes()));
    photographs.into_iter().step_by(HELD_OUT_EVERY).flat_map(|(_, files)| files).collect()
}

fn stem(file: &str) -> &str {
    Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or(file)
}

/// A name that a tile could have.
#[derive(Debug, PartialEq)]
struct Tile<'a> {
    photograph: &'a str,
    /// Whether it looks like one, and not like a date or a numbered scan.
    is_plausible: bool,
    /// Whether its row or column is 0: who tiles a photograph counts from there.
    has_zero: bool,
}

fn tile(stem: &str) -> Option<Tile<'_>> {
    let number = |name: &str| {
        let (before, digits) = name.rsplit_once('_')?;
        let is_number = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        (is_number && !before.is_empty()).then(|| (before.len(), digits.len() > 1 && digits.starts_with('0')))
    };
    let (end_of_row, padded_column) = number(stem)?;
    let (end_of_name, padded_row) = number(&stem[..end_of_row])?;
    let photograph = &stem[..end_of_name];
    let last_word = photograph.rsplit(|c: char| !c.is_alphanumeric()).next();
    let year = last_word.and_then(|word| word.parse::<u32>().ok());
    Some(Tile {
        photograph,
        is_plausible: !padded_column && !padded_row && !year.is_some_and(|year| (1800..2200).contains(&year)),
        has_zero: stem[end_of_name..].split('_').any(|digits| digits == "0"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[String], tiles: Tiles) -> Vec<&str> {
        held_out(all, tiles).into_iter().collect()
    }

    #[test]
    fn names_of_tiles_and_of_other_things() {
        for (name, photograph, is_plausible) in [
            ("photo_a2ec_2_2", "photo_a2ec", true),
            ("scan_0_12", "scan", true),
            ("scan_001_012", "scan", false),
            ("2023_05_01", "2023", false),
            ("2023_5_1", "2023", false),
            ("IMG_2023_10_11", "IMG_2023", false),
            ("photo_5c4e1944_5_1", "photo_5c4e1944", true),
        ] {
            let tile = tile(name).unwrap();
            assert_eq!((tile.photograph, tile.is_plausible), (photograph, is_plausible), "{name}");
        }
        for name in ["IMG_001", "cc_0123456789", "_1_2", "x_1_1234", "plain"] {
            assert_eq!(tile(name), None, "{name}");
        }
    }

    /// Dates, scans and years are photographs of their own: 1 in 25 is held out.
    #[test]
    fn dated_and_numbered_names_are_no_tiles() {
        let dates: Vec<String> = (1..=31).map(|day| format!("2023_05_{day:02}.png")).collect();
        let years: Vec<String> =
            (0..100).map(|k| format!("{}_{}_{}.jpg", 2022 + k % 2, 1 + k % 12, 1 + k % 28)).collect();
        let scans: Vec<String> = (1..=50).map(|k| format!("book/scan_{:02}_{:02}.tif", k / 8, k % 8)).collect();
        let pages: Vec<String> = (1..=50).map(|k| format!("book_{}_{}.tif", 1 + k / 8, 1 + k % 8)).collect();
        let same: Vec<String> = (0..26).map(|k| format!("{k}/page.png")).collect();
        for (files, count) in [(dates, 2), (years, 4), (scans, 2), (pages, 2), (same, 2)] {
            assert_eq!(names(&files, Tiles::Auto).len(), count, "{}", files[0]);
        }
    }

    /// A photograph is held out with all of its tiles.
    #[test]
    fn tiles_stay_together() {
        let files: Vec<String> =
            (0..30).flat_map(|k| (0..4).map(move |t| format!("p{k:x}_{}_{}.webp", t / 2, t % 2))).collect();
        let out = names(&files, Tiles::Auto);
        assert_eq!(out.len(), 8);
        assert!(out.chunks(4).all(|four| four.iter().all(|name| name[..3] == four[0][..3])), "{out:?}");
        assert_eq!(names(&files, Tiles::Never).len(), 5);
        let padded: Vec<String> = (0..50).map(|k| format!("p{}_01_{:02}.png", k / 2, k % 2)).collect();
        assert_eq!((names(&padded, Tiles::Auto).len(), names(&padded, Tiles::Always).len()), (2, 2));
        assert!(names(&padded, Tiles::Always).windows(2).all(|pair| pair[0][..3] == pair[1][..3]));
        let one = &padded[..2];
        assert_eq!(names(one, Tiles::Always).len(), 2, "a photograph is never divided");
        assert_eq!(names(one, Tiles::Auto).len(), 1);
    }
}
