//! References of one size from photographs of any, on the 256 levels of 8 bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::tensor::{self, Tensor, cpu, from_f32};
use crate::{Error, Result};

/// How a square reference is made of a photograph. The paper does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preparation {
    /// As guided-diffusion prepares its training images: halved while it is at least twice as large, then scaled so that the
    /// short side is that of the reference, then cut to its middle.
    #[default]
    Centre,
    /// The middle, at the scale of the photograph.
    Crop,
}

impl Preparation {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 2] = [(Self::Centre, "centre"), (Self::Crop, "crop")];

    /// The reference `[1, 3, side, side]` of `image`, `[1, 1 or 3, h, w]` in [-1, 1]; grey becomes three equal channels. An
    /// image with a shorter side is enlarged, where it is scaled at all.
    ///
    /// # Errors
    /// [`Error::Config`] for an image of other channels, or one that is to be cut and is smaller; [`Error::Backend`] when the
    /// values cannot be read.
    pub fn apply(self, image: &Tensor<4>, side: usize) -> Result<Tensor<4>> {
        let mut image = Levels::of(image)?;
        if self == Self::Centre {
            while image.least() >= 2 * side {
                let [h, w] = [image.height / 2, image.width / 2];
                image = image.resized(h, w, &BOX);
            }
            let factor = side as f64 / image.least() as f64;
            let [h, w] = [image.height, image.width].map(|length| (length as f64 * factor).round_ties_even() as usize);
            image = image.resized(h, w, &CUBIC);
        }
        if image.least() < side {
            let Levels { height, width, .. } = image;
            return Err(Error::config(format!("an image of {width}x{height} pixels has no part of {side}x{side}")));
        }
        Ok(image.middle(side).tensor())
    }
}

impl FromStr for Preparation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(_, name)| *name == text);
        found.map(|(this, _)| this).ok_or_else(|| Error::config(format!("unknown preparation {text:?}")))
    }
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Centre => "scaled to the short side, middle",
            Self::Crop => "middle, not scaled",
        })
    }
}

/// A filter of PIL's `Image.resize`: its reach in source pixels where nothing is made smaller, and its values.
struct Filter {
    reach: f64,
    value: fn(f64) -> f64,
}

const BOX: Filter = Filter { reach: 0.5, value: |x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 } };

/// Keys' cubic with a = -1/2.
const CUBIC: Filter = Filter {
    reach: 2.0,
    value: |x| match x.abs() {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    },
};

/// Bits behind the point of PIL's weights for 8-bit images.
const FRACTION: u32 = 32 - 8 - 2;

/// An RGB image of 8 bits, plane by plane.
struct Levels {
    planes: Vec<Vec<u8>>,
    height: usize,
    width: usize,
}

impl Levels {
    fn of(image: &Tensor<4>) -> Result<Self> {
        let [n, channels, height, width] = image.dims();
        if n != 1 || !matches!(channels, 1 | 3) || height * width == 0 {
            return Err(Error::config(format!("an image of shape {:?}: expected one, grey or RGB", image.dims())));
        }
        tensor::check_finite(image, "the image")?;
        let values = tensor::to_f32(image)?;
        let level = |v: &f32| ((f64::from(*v) + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        let planes: Vec<Vec<u8>> =
            values.chunks(height * width).map(|plane| plane.iter().map(level).collect()).collect();
        let planes = (0..3).map(|c| planes[c.min(channels - 1)].clone()).collect();
        Ok(Self { planes, height, width })
    }

    fn least(&self) -> usize {
        self.height.min(self.width)
    }

    fn tensor(&self) -> Tensor<4> {
        let values = self.planes.iter().flatten().map(|level| f32::from(*level) / 127.5 - 1.0).collect();
        from_f32(values, [1, 3, self.height, self.width], &cpu())
    }

    fn middle(&self, side: usize) -> Self {
        let (top, left) = ((self.height - side) / 2, (self.width - side) / 2);
        let rows = |plane: &Vec<u8>| {
            let lines = plane.chunks(self.width).skip(top).take(side);
            lines.flat_map(|line| line[left..left + side].iter().copied()).collect()
        };
        Self { planes: self.planes.iter().map(rows).collect(), height: side, width: side }
    }

    /// As PIL does it: the rows first, in whole numbers, rounded to 8 bits between the two passes.
    fn resized(&self, height: usize, width: usize, filter: &Filter) -> Self {
        let across = |plane: &Vec<u8>| scaled(plane, self.height, self.width, width, filter);
        let down = |plane: Vec<u8>| {
            let turned = transposed(&plane, self.height, width);
            transposed(&scaled(&turned, width, self.height, height, filter), width, height)
        };
        Self { planes: self.planes.iter().map(|plane| down(across(plane))).collect(), height, width }
    }
}

/// The lines of a plane at another length.
fn scaled(plane: &[u8], lines: usize, length: usize, to: usize, filter: &Filter) -> Vec<u8> {
    if length == to {
        return plane.to_vec();
    }
    let weights: Vec<(usize, Vec<i64>)> = (0..to).map(|i| weights(i, length, to, filter)).collect();
    let mut out = Vec::with_capacity(lines * to);
    for line in plane.chunks(length) {
        out.extend(weights.iter().map(|(first, weights)| {
            let sum: i64 = line[*first..].iter().zip(weights).map(|(v, w)| i64::from(*v) * w).sum();
            ((sum + (1 << (FRACTION - 1))) >> FRACTION).clamp(0, 255) as u8
        }));
    }
    out
}

/// The first source pixel that counts for the `i`-th of `to`, and what it and the following ones count.
fn weights(i: usize, length: usize, to: usize, filter: &Filter) -> (usize, Vec<i64>) {
    let scale = length as f64 / to as f64;
    let widened = scale.max(1.0);
    let reach = filter.reach * widened;
    let centre = (i as f64 + 0.5) * scale;
    let first = (centre - reach + 0.5).max(0.0) as usize;
    let last = ((centre + reach + 0.5) as usize).min(length);
    let values: Vec<f64> = (first..last).map(|k| (filter.value)((k as f64 - centre + 0.5) / widened)).collect();
    let sum: f64 = values.iter().sum();
    let whole = |v: f64| (v / sum * f64::from(1 << FRACTION)).round() as i64;
    (first, values.into_iter().map(whole).collect())
}

fn transposed(plane: &[u8], height: usize, width: usize) -> Vec<u8> {
    (0..width).flat_map(|x| (0..height).map(move |y| plane[y * width + x])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::hash::sha256;

    /// A picture whose levels are a function of their places.
    fn picture(height: usize, width: usize) -> Tensor<4> {
        let level = |i: usize| {
            let (c, y, x) = (i / (height * width), i / width % height, i % width);
            (y * 7 + x * 13 + c * 31 + y * x % 17 * 5) % 256
        };
        let values = (0..3 * height * width).map(|i| level(i) as f32 / 127.5 - 1.0).collect();
        from_f32(values, [1, 3, height, width], &cpu())
    }

    /// SHA-256 of what guided-diffusion's `center_crop_arr` makes of these pictures with PIL 13.0, plane by plane: halved and
    /// reduced, halved twice, enlarged, reduced a little, and as it is.
    #[test]
    fn references_are_guided_diffusions() {
        for (height, width, side, expected) in [
            (45, 70, 16, "63816331d28783c3aef4c1b3abf6906fd1958b4d311c2d3373378a8d20ac02a3"),
            (101, 163, 24, "a42b51d510b14b92d9794a8e7913999b44e20c9d29125c4f1ea2ce36b26936cb"),
            (13, 10, 16, "ac6f3e185154e065b862830d8e8aad7768d81176f9c911201cd777d5ed196d6c"),
            (40, 33, 32, "3dbc799def8e3ef0e9cd18676b588e2797e9180581a6177df7063291441d4355"),
            (32, 32, 32, "ff4bac3bd14fa415387001ce795c2ecedc699171b943806eef51482f5956ffeb"),
        ] {
            let made = Preparation::Centre.apply(&picture(height, width), side).unwrap();
            assert_eq!(made.dims(), [1, 3, side, side]);
            let planes = Levels::of(&made).unwrap().planes.concat();
            assert_eq!(sha256(&planes).to_string(), expected, "{height}x{width} to {side}");
        }
    }

    #[test]
    fn a_cut_is_the_middle_as_it_is() {
        let whole = picture(40, 33);
        let cut = Preparation::Crop.apply(&whole, 32).unwrap();
        let expected = whole.clone().narrow(2, 4, 32).narrow(3, 0, 32);
        assert_eq!(tensor::to_f32(&cut).unwrap(), tensor::to_f32(&expected).unwrap());
        let refused = Preparation::Crop.apply(&whole, 34).unwrap_err().to_string();
        assert!(refused.contains("33x40"), "{refused}");
        let grey = Preparation::Crop.apply(&whole.narrow(1, 0, 1), 8).unwrap();
        assert_eq!(grey.dims(), [1, 3, 8, 8]);
    }
}
