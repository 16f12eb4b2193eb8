//! Between the values of a file and linear light, by the tone curves of its ICC profile.
//!
//! Operators act on each channel alone and are linear, so that it does not matter which primaries the light is of: the
//! profile's own will do, and no colour is converted.

use super::metadata::{Metadata, profile_fits};
use crate::operator::ImageShape;
use crate::tensor::{self, Tensor, from_f64};
use crate::{Error, Result};
use moxcms::{ColorProfile, ToneReprCurve};

/// Intervals of a curve.
const INTERVALS: usize = 4096;
/// Light between neighbouring points, at least, as a share of that of a straight line: a curve needs an inverse.
const LEAST_SLOPE: f64 = 1e-3;

/// The tone curves of an image's channels.
#[derive(Debug, Clone, PartialEq)]
pub struct Light {
    /// One for all channels, or one for each.
    curves: Vec<Curve>,
}

/// Light from 0 to 1, at even steps of the encoded value from 0 to 1; beyond, the curve goes on straight.
#[derive(Debug, Clone, PartialEq)]
struct Curve(Vec<f64>);

impl Curve {
    fn new(light: impl Fn(f64) -> f64) -> Option<Self> {
        let raw: Vec<f64> = (0..=INTERVALS).map(|k| light(k as f64 / INTERVALS as f64)).collect();
        let (black, white) = (raw[0], raw[INTERVALS]);
        if raw.iter().any(|v| !v.is_finite()) || white - black < 0.5 {
            return None;
        }
        let mut points = vec![0.0; INTERVALS + 1];
        for k in 1..=INTERVALS {
            let rise = ((raw[k] - raw[k - 1]) / (white - black)).max(LEAST_SLOPE / INTERVALS as f64);
            points[k] = points[k - 1] + rise;
        }
        let sum = points[INTERVALS];
        points.iter_mut().for_each(|v| *v /= sum);
        Some(Self(points))
    }

    /// The interval that an encoded value lies in, and where in it.
    fn place(v: f64) -> (usize, f64) {
        let at = v * INTERVALS as f64;
        let k = (at.max(0.0) as usize).min(INTERVALS - 1);
        (k, at - k as f64)
    }

    fn light(&self, v: f64) -> f64 {
        let (k, within) = Self::place(v);
        self.0[k] + within * (self.0[k + 1] - self.0[k])
    }

    fn encoded(&self, light: f64) -> f64 {
        let k = self.0.partition_point(|v| *v <= light).clamp(1, INTERVALS) - 1;
        (k as f64 + (light - self.0[k]) / (self.0[k + 1] - self.0[k])) / INTERVALS as f64
    }

    fn slope(&self, v: f64) -> f64 {
        let (k, _) = Self::place(v);
        (self.0[k + 1] - self.0[k]) * INTERVALS as f64
    }
}

/// That of sRGB (IEC 61966-2-1).
fn srgb(v: f64) -> f64 {
    if v <= 0.04045 { v / 12.92 } else { libm::pow((v + 0.055) / 1.055, 2.4) }
}

impl Default for Light {
    /// That of sRGB.
    fn default() -> Self {
        Self { curves: Curve::new(srgb).into_iter().collect() }
    }
}

impl Light {
    /// By the ICC profile of an image of `channels` channels; none for formats of light; of a PNG without a profile by its
    /// gamma; else that of sRGB.
    ///
    /// # Errors
    /// [`Error::Config`] for a profile that is damaged or has no tone curves, and for a PNG that declares another encoding.
    pub fn of(metadata: &Metadata, channels: usize) -> Result<Self> {
        if let Some(icc) = metadata.icc.as_ref().filter(|icc| profile_fits(icc, channels)) {
            return Self::of_profile(icc, channels);
        }
        if metadata.linear {
            return Ok(Self { curves: Curve::new(|v| v).into_iter().collect() });
        }
        let chunk = |kind: &[u8; 4]| metadata.png_colour.iter().find(|(found, _)| found == kind).map(|(_, data)| data);
        match chunk(b"cICP").map(Vec::as_slice) {
            // The transfer functions of BT.709, sRGB and their like.
            None | Some([_, 1 | 2 | 6 | 13, ..]) => {}
            Some([_, 8, ..]) => return Ok(Self { curves: Curve::new(|v| v).into_iter().collect() }),
            Some(_) => {
                return Err(Error::config("the file names a transfer function (cICP) that is not supported"));
            }
        }
        let gamma = chunk(b"gAMA").filter(|_| chunk(b"sRGB").is_none() && chunk(b"cICP").is_none());
        match gamma.and_then(|data| data.first_chunk::<4>()).map(|data| f64::from(u32::from_be_bytes(*data)) / 1e5) {
            // 1/2.2 is what programs write that mean sRGB.
            Some(gamma) if (gamma - 1.0 / 2.2).abs() > 2e-3 && (0.1..=10.0).contains(&gamma) => {
                Ok(Self { curves: Curve::new(|v| libm::pow(v, 1.0 / gamma)).into_iter().collect() })
            }
            _ => Ok(Self::default()),
        }
    }

    fn of_profile(icc: &[u8], channels: usize) -> Result<Self> {
        let refuse = |what: &str| Error::config(format!("the ICC profile {what}: convert the image to sRGB first"));
        let profile = ColorProfile::new_from_slice(icc).map_err(|_| refuse("cannot be read"))?;
        let found: Vec<Option<ToneReprCurve>> = match channels {
            1 => vec![profile.gray_trc],
            _ => vec![profile.red_trc, profile.green_trc, profile.blue_trc],
        };
        let curve = |curve: Option<ToneReprCurve>| {
            let curve = curve.ok_or_else(|| refuse("has tables in place of tone curves"))?;
            let curve = curve.make_linear_evaluator().map_err(|_| refuse("has a damaged tone curve"))?;
            Curve::new(|v| f64::from(curve.evaluate_value(v as f32))).ok_or_else(|| refuse("has a damaged tone curve"))
        };
        let mut curves = found.into_iter().map(curve).collect::<Result<Vec<_>>>()?;
        if curves.iter().all(|curve| *curve == curves[0]) {
            curves.truncate(1);
        }
        Ok(Self { curves })
    }

    /// Light from encoded values, both in [-1, 1].
    ///
    /// # Shapes
    /// `[n, c, h, w]`.
    ///
    /// # Errors
    /// [`Error::Backend`] when the tensor cannot be read.
    pub fn to_light(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.map(x, |curve, v| 2.0 * curve.light((v + 1.0) / 2.0) - 1.0)
    }

    /// The inverse of [`Light::to_light`].
    ///
    /// # Errors
    /// As [`Light::to_light`].
    pub fn to_encoded(&self, light: &Tensor<4>) -> Result<Tensor<4>> {
        self.map(light, |curve, v| 2.0 * curve.encoded((v + 1.0) / 2.0) - 1.0)
    }

    /// The slopes of [`Light::to_light`].
    ///
    /// # Errors
    /// As [`Light::to_light`].
    pub fn slope(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.map(x, |curve, v| curve.slope((v + 1.0) / 2.0))
    }

    fn map(&self, x: &Tensor<4>, f: impl Fn(&Curve, f64) -> f64) -> Result<Tensor<4>> {
        let shape = ImageShape::of_batch(x);
        let mut values = tensor::to_f64(x)?;
        for (plane, values) in values.chunks_mut(shape.pixels().max(1)).enumerate() {
            let curve = &self.curves[plane % shape.channels % self.curves.len()];
            values.iter_mut().for_each(|v| *v = f(curve, *v));
        }
        Ok(from_f64(values, x.dims(), &x.device()).cast(x.dtype()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{cpu, to_f64};

    fn line(values: &[f64]) -> Tensor<4> {
        from_f64(values.to_vec(), [1, 1, 1, values.len()], &cpu())
    }

    fn of(light: &Light, v: f64) -> f64 {
        to_f64(&light.to_light(&line(&[v])).unwrap()).unwrap()[0]
    }

    #[test]
    fn light_is_that_of_the_curve_and_goes_back() {
        let srgb_light = Light::default();
        for v in [0.0, 0.003, 0.2, 0.5, 0.735, 1.0] {
            assert!((of(&srgb_light, 2.0 * v - 1.0) - (2.0 * srgb(v) - 1.0)).abs() < 1e-6, "{v}");
        }
        assert_eq!((of(&srgb_light, -1.0), of(&srgb_light, 1.0)), (-1.0, 1.0));
        let profile = ColorProfile::new_adobe_rgb().encode().unwrap();
        let metadata = Metadata { icc: Some(profile), ..Metadata::default() };
        let adobe = Light::of(&metadata, 3).unwrap();
        assert!((of(&adobe, 0.0) - (2.0 * 0.5f64.powf(563.0 / 256.0) - 1.0)).abs() < 1e-3, "{}", of(&adobe, 0.0));
        let values = [-1.3, -1.0, -0.98, -0.3, 0.4, 0.99, 1.0, 1.7];
        for light in [srgb_light, adobe] {
            let x = line(&values);
            let back = to_f64(&light.to_encoded(&light.to_light(&x).unwrap()).unwrap()).unwrap();
            assert!(back.iter().zip(values).all(|(a, b)| (a - b).abs() < 1e-9), "{back:?}");
            let (slope, step) = (to_f64(&light.slope(&x).unwrap()).unwrap(), 1e-7);
            for (v, slope) in values.into_iter().zip(slope) {
                let found = (of(&light, v + step) - of(&light, v)) / step;
                assert!((found / slope - 1.0).abs() < 1e-3, "{v}: {found} {slope}");
            }
        }
    }

    #[test]
    fn what_a_file_says_of_its_tones_decides() {
        let png =
            |kind: &[u8; 4], data: &[u8]| Metadata { png_colour: vec![(*kind, data.to_vec())], ..Metadata::default() };
        let middle = |metadata: &Metadata| Light::of(metadata, 3).map(|light| of(&light, 0.0));
        let usual = middle(&Metadata::default()).unwrap();
        assert!((middle(&png(b"gAMA", &100_000u32.to_be_bytes())).unwrap()).abs() < 1e-9);
        assert_eq!(middle(&png(b"gAMA", &45_455u32.to_be_bytes())).unwrap(), usual);
        assert_eq!(middle(&png(b"cICP", &[1, 13, 0, 1])).unwrap(), usual);
        assert!(middle(&png(b"cICP", &[9, 16, 0, 1])).is_err());
        let damaged = Metadata { icc: Some(vec![7; 200]), ..Metadata::default() };
        assert!(Light::of(&damaged, 3).unwrap_err().to_string().contains("convert the image to sRGB"));
        // A profile of another colour space says nothing of these channels.
        let grey = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
        let grey = Metadata { icc: Some(grey), ..Metadata::default() };
        assert_eq!(middle(&grey).unwrap(), usual);
        assert!(of(&Light::of(&grey, 1).unwrap(), 0.0).abs() < 1e-3);
    }
}
