//! Which file values are black and white, and how a file is to be read where it does not say so itself.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::codec::BitDepth;
use crate::{Error, Result};

/// The values of a file that mean black and white.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// What becomes -1.
    pub black: f64,
    /// What becomes 1; above `black`.
    pub white: f64,
}

impl Scale {
    /// White less black.
    pub fn span(self) -> f64 {
        self.white - self.black
    }

    /// The least and the greatest value of whole numbers of that depth, where black is 0 and white 1.
    pub(crate) fn bounds(self, depth: BitDepth) -> [f64; 2] {
        [0.0, depth.scale().white].map(|value| (value - self.black) / self.span())
    }

    /// Refuses levels that no scale has.
    ///
    /// # Errors
    /// [`Error::Config`] where a level is not finite or white is not above black.
    pub fn check(self) -> Result<()> {
        let Self { black, white } = self;
        let fits = |level: f64| level.is_finite() && level.abs() <= f64::from(f32::MAX);
        if !(fits(black) && fits(white) && black < white && self.span() > f64::from(f32::MIN_POSITIVE)) {
            return Err(Error::config(format!(
                "black {black} and white {white}: expected two numbers, white above black"
            )));
        }
        Ok(())
    }
}

/// How an image file is read where the file itself does not say it. The default: the first page, and black and white
/// as the samples' type has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Reading {
    /// The page of a stack or the frame of an animation, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<usize>,
    /// The file value that is black; by default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub black: Option<f64>,
    /// The file value that is white; by default 255, 65535, or 1 for floats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub white: Option<f64>,
}

impl Reading {
    /// With that scale, whatever the range of the values.
    pub fn scaled(scale: Scale) -> Self {
        Self { page: None, black: Some(scale.black), white: Some(scale.white) }
    }

    /// Whether nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses what is wrong whatever the file holds.
    ///
    /// # Errors
    /// [`Error::Config`] for page 0, or levels that are not finite or in the wrong order.
    pub fn check(&self) -> Result<()> {
        if self.page == Some(0) {
            return Err(Error::config("page 0: pages count from 1"));
        }
        match (self.black, self.white) {
            (None, None) => Ok(()),
            (black, Some(white)) => Scale { black: black.unwrap_or(0.0), white }.check(),
            (Some(black), None) => Scale { black, white: f64::from(f32::MAX) }.check(),
        }
    }

    /// The scale of a file whose type has white at `white`, if it has one.
    pub(super) fn scale(&self, path: &Path, white: Option<f64>) -> Result<Option<Scale>> {
        let Some(white) = self.white.or(white) else { return Ok(None) };
        let scale = Scale { black: self.black.unwrap_or(0.0), white };
        scale.check().map_err(|e| Error::config(format!("{}: {e}", path.display())))?;
        Ok(Some(scale))
    }
}

/// Beyond this, in units of white, values are taken for those of another scale.
const FAR: f32 = 32.0;
/// A median below this is taken for that of another scale: noise around black has one of about 0.
const DARK: f32 = -0.1;

/// Refuses values whose range shows that 0 and 1 are not black and white: half of them lie beyond white, or some far
/// beyond. A few may lie outside, as noise and bright stars do.
///
/// # Errors
/// [`Error::Input`] with the range and a proposal.
pub(super) fn check_unit_range(path: &Path, values: &[f32]) -> Result<()> {
    let [least, most] = range(values);
    if (-FAR..=FAR).contains(&least) && (-FAR..=FAR).contains(&most) && (least >= DARK && most <= 1.0) {
        return Ok(());
    }
    let above = values.iter().filter(|v| **v > 1.0).count();
    let below = values.iter().filter(|v| **v < DARK).count();
    if least >= -FAR && most <= FAR && above * 2 <= values.len() && below * 2 <= values.len() {
        return Ok(());
    }
    Err(Error::input(
        path,
        format!(
            "the values, {least} to {most}, do not fit a range from black (0) to white (1): say which value is white, \
             for example {}, or --white 1 if they are right as they are",
            proposal(least, most)
        ),
    ))
}

/// Least and largest value; 0 to 0 where there is none.
pub(super) fn range(values: &[f32]) -> [f32; 2] {
    let ends = values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[a, b], v| [a.min(*v), b.max(*v)]);
    if values.is_empty() { [0.0, 0.0] } else { ends }
}

/// Options that would fit values of that range.
pub(super) fn proposal(least: f32, most: f32) -> String {
    let usual = [1.0, 100.0, 127.0, 255.0, 1023.0, 4095.0, 16383.0, 32767.0, 65535.0].into_iter();
    // A physical quantity may be as small as it likes.
    let tiny = most > 0.0 && most < 0.1;
    let white = usual.clone().find(|white| most <= *white && !tiny).unwrap_or(most);
    if least < 0.0 { format!("--black {least} --white {most}") } else { format!("--white {white}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_scales_are_told_from_stars_and_noise() {
        let check = |values: &[f32]| check_unit_range(Path::new("y.tif"), values).map_err(|e| e.to_string());
        for right in [&[0.0, 0.5, 1.0][..], &[0.1, 0.1, 0.1, 3.0], &[-0.2, 0.4, 1.3], &[-0.02, 0.01, -0.01, 0.03], &[]]
        {
            check(right).unwrap();
        }
        let bytes = check(&[28.0, 145.0, 176.0]).unwrap_err();
        assert!(bytes.contains("28 to 176") && bytes.contains("--white 255"), "{bytes}");
        assert!(check(&[0.0, 0.0, 0.0, 0.5, 200.0]).is_err(), "dark, but of 0 to 255");
        assert!(check(&[0.0, 900.0, 3000.0]).unwrap_err().contains("--white 4095"));
        assert!(check(&[-1024.0, -900.0, 3000.0]).unwrap_err().contains("--black -1024 --white 3000"));
        assert!(check(&[-1.0, -0.8, 0.9]).is_err());
        assert!(check(&[1.5, 1.2, 0.9]).is_err());
    }

    #[test]
    fn levels_are_checked() {
        let reading = |black, white| Reading { black, white, page: None }.check();
        reading(None, Some(255.0)).unwrap();
        reading(Some(-1000.0), Some(3000.0)).unwrap();
        reading(Some(64.0), None).unwrap();
        for (black, white) in [(None, Some(0.0)), (Some(2.0), Some(1.0)), (None, Some(f64::NAN)), (Some(1e300), None)] {
            assert!(reading(black, white).is_err(), "{black:?} {white:?}");
        }
        assert!(Reading { page: Some(0), ..Reading::default() }.check().is_err());
    }
}
