//! A problem that fits its observation.

use std::sync::Arc;

use super::highlights::Points;
use super::noise_estimate::end_at;
use crate::Result;
use crate::io::light::Light;
use crate::operator::{Degradation, ImageShape, LinearOperator, Mask, Weighted, Window};
use crate::task::{Choice, Hint, Task, Unevenness};
use crate::tensor::{self, Tensor};
use crate::units::NoiseLevel;

/// How a grey observation was stored, and so how its result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grey {
    OneChannel,
    EqualChannels,
}

/// Noise that differs from value to value of y.
#[derive(Debug, Clone)]
pub(super) struct Uneven {
    /// Weights of the values of y, which make their noise alike; their squares are 1 on average.
    pub(super) weights: Arc<[f64]>,
    /// Standard deviation of the weighted noise, in grey levels.
    pub(super) level: f64,
    /// How much the noise differs.
    pub(super) noise: Unevenness,
}

/// A problem that fits its observation.
#[derive(Debug, Clone)]
pub struct Measurement {
    pub(super) y: Tensor<4>,
    pub(super) operator: Arc<dyn LinearOperator>,
    pub(super) on_result: Arc<dyn LinearOperator>,
    pub(super) window: Window,
    pub(super) grey: Option<Grey>,
    pub(super) hint: Hint,
    pub(super) task: Task,
    pub(super) degradation: Option<Degradation>,
    pub(super) mask: Option<Mask>,
    /// Pixels of y that are known, of the mask and otherwise; absent where all are.
    pub(super) known: Option<Mask>,
    /// Points brighter than white, of the shape of results: what they hold besides what the network made. Where A acts on
    /// light, they are in light.
    pub(super) points: Option<Points>,
    /// In grey levels. Where noise grows with the signal, what it is besides.
    pub(super) sigma: f64,
    /// Where noise grows with the signal.
    pub(super) uneven: Option<Uneven>,
    /// Where A acts on light.
    pub(super) light: Option<Arc<Light>>,
    pub(super) rounding: NoiseLevel,
    pub(super) beyond_white: NoiseLevel,
    /// Mean square of what light beyond white leaves unexplained around it, noise included, and the share of y that this is.
    pub(super) around_white: (f64, f64),
    /// Whether y is more than white where its noise was cut off there.
    pub(super) whites_are_more: bool,
    pub(super) notes: Vec<Choice>,
    pub(super) warnings: Vec<String>,
}

/// A function of an index and of the values of `x` and `other` there, tensors of one image.
fn combined(x: &Tensor<4>, other: &Tensor<4>, f: impl Fn(usize, f64, f64) -> f64) -> Result<Tensor<4>> {
    let both = tensor::to_f64(x)?.into_iter().zip(tensor::to_f64(other)?);
    let values = both.enumerate().map(|(i, (x, other))| f(i, x, other)).collect();
    Ok(tensor::from_f64(values, x.dims(), &x.device()).cast(x.dtype()))
}

impl Measurement {
    /// The observation that guidance keeps to, `[1, range]`: of one channel where it is grey, less what a boundary of one
    /// grey level adds, and 0 where it was not measured. Where A acts on light, it is that.
    pub fn y(&self) -> &Tensor<4> {
        &self.y
    }

    /// A, from images of the network's channels to [`Measurement::y`].
    pub fn operator(&self) -> &Arc<dyn LinearOperator> {
        &self.operator
    }

    /// The part of A's domain that is the result.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Shape of the result.
    pub fn result(&self) -> ImageShape {
        let channels = match self.grey {
            Some(Grey::OneChannel) => 1,
            Some(Grey::EqualChannels) | None => self.operator.domain().channels,
        };
        ImageShape { channels, height: self.window.height, width: self.window.width }
    }

    /// Whether y is grey, and with it the result.
    pub fn is_grey(&self) -> bool {
        self.grey.is_some()
    }

    /// The kind of operator, for presets.
    pub fn hint(&self) -> Hint {
        self.hint
    }

    /// The task.
    pub fn task(&self) -> Task {
        self.task
    }

    /// The degradation by name, if it has one.
    pub fn degradation(&self) -> Option<&Degradation> {
        self.degradation.as_ref()
    }

    /// The missing pixels of an inpainting.
    pub fn mask(&self) -> Option<&Mask> {
        self.mask.as_ref()
    }

    /// Whether noise in the values of y, `y`, was cut off at black and at white: where it was, y is not right on average.
    pub(crate) fn cut_off(&self, y: &[f64]) -> [bool; 2] {
        let [at_black, at_white] = end_at(y, [-1.0, 1.0]);
        [at_black, self.whites_are_more || at_white]
    }

    /// Standard deviation of the noise in y; of the [weighted](Measurement::weights) y where it differs from value to value.
    pub fn sigma(&self) -> NoiseLevel {
        NoiseLevel::from_255(self.uneven.as_ref().map_or(self.sigma, |uneven| uneven.level))
    }

    /// The noise that does not grow with the signal, in grey levels of 0..255, as it was given or estimated.
    pub fn sigma_255(&self) -> f64 {
        self.sigma
    }

    /// How much noise differs from value to value of y, if it does.
    pub fn unevenness(&self) -> Option<Unevenness> {
        self.uneven.as_ref().map(|uneven| uneven.noise)
    }

    /// A weight for each value of y, channel by channel and row by row: inverse to the standard deviation of its noise, and
    /// such that the squares are 1 on average over what was measured; for light, such that its noise is that of the encoded
    /// values. `None` where noise is alike everywhere.
    pub fn weights(&self) -> Option<&[f64]> {
        self.uneven.as_ref().map(|uneven| uneven.weights.as_ref())
    }

    /// The tone curves of images, where A acts on light.
    pub fn light(&self) -> Option<&Arc<Light>> {
        self.light.as_ref()
    }

    /// What A acts on of images: their light, where it does, else they themselves.
    ///
    /// # Errors
    /// Those of reading x.
    pub fn acted_on(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.light.as_ref().map_or_else(|| Ok(x.clone()), |light| light.to_light(x))
    }

    /// A and y with white noise of standard deviation [`Measurement::sigma`]: with the weights, where there are some.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn whitened(&self) -> Result<(Arc<dyn LinearOperator>, Tensor<4>)> {
        self.weighted(&self.operator)
    }

    /// A on results, or [on their light](Measurement::acted_on), and y, with the same weights: what a result is compared with.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn judged(&self) -> Result<(Arc<dyn LinearOperator>, Tensor<4>)> {
        self.weighted(&self.on_result)
    }

    fn weighted(&self, operator: &Arc<dyn LinearOperator>) -> Result<(Arc<dyn LinearOperator>, Tensor<4>)> {
        let Some(uneven) = &self.uneven else { return Ok((operator.clone(), self.y.clone())) };
        let weighted = Weighted::new(operator.clone(), uneven.weights.clone())?;
        let y = weighted.weigh(&self.y)?;
        Ok((Arc::new(weighted), y))
    }

    /// The pixels of y that were measured; `None` where all of them were.
    pub fn measured(&self) -> Option<Mask> {
        self.known.clone()
    }

    /// Standard deviation of the error of y's quantisation, and of what stands for the light of saturated pixels. Where
    /// noise differs from value to value, the quantisation is part of that.
    pub fn rounding(&self) -> NoiseLevel {
        self.rounding
    }

    /// The part of [`Measurement::rounding`] that stands for the light of saturated pixels.
    pub fn beyond_white(&self) -> NoiseLevel {
        self.beyond_white
    }

    /// What was decided by looking at y, with the reasons.
    pub fn notes(&self) -> &[Choice] {
        &self.notes
    }

    /// What the user should know: what was assumed and may be wrong, and where y contradicts what was given.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The result from an image of A's domain: cut to the window, grey where y is, and with the points brighter than white
    /// that y shows.
    ///
    /// # Errors
    /// Those of reading x.
    pub fn finish(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        let x = self.window.cut(x);
        let x = match self.grey {
            None => x,
            Some(Grey::OneChannel) => x.mean_dim(1),
            Some(Grey::EqualChannels) => {
                let channels = x.dims()[1];
                x.mean_dim(1).repeat_dim(1, channels)
            }
        };
        let Some(Points { light, .. }) = &self.points else { return Ok(x) };
        let with_points = combined(&self.acted_on(&x)?, light, |_, value, light| value + light)?;
        let encoded = self.light.as_ref().map_or(Ok(with_points.clone()), |curves| curves.to_encoded(&with_points))?;
        // Elsewhere, not even rounding changes x.
        let encoded = tensor::to_f64(&encoded)?;
        combined(&x, light, |i, value, light| if light > 0.0 { encoded[i] } else { value })
    }

    /// What [`Measurement::on_result`] acts on of results, to be compared with y: [their light](Measurement::acted_on),
    /// where A acts on that, without the points brighter than white, which are not in y either. A point at white was cut off
    /// there by a file; it stands on the ground.
    ///
    /// # Errors
    /// Those of reading x.
    pub fn compared(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        let acted_on = self.acted_on(x)?;
        match &self.points {
            Some(Points { light, ground }) if ImageShape::of_batch(light) == ImageShape::of_batch(x) => {
                let ground = tensor::to_f64(ground)?;
                let cut = tensor::to_f64(x)?.into_iter().map(|x| x == 1.0).collect::<Vec<_>>();
                combined(&acted_on, light, |i, value, light| match light > 0.0 {
                    true if cut[i] => ground[i],
                    _ => value - light,
                })
            }
            _ => Ok(acted_on),
        }
    }

    /// A on results, with the values of y that depend on nothing else as those that it observes.
    pub fn on_result(&self) -> &Arc<dyn LinearOperator> {
        &self.on_result
    }

    /// PSNR of A x against y in dB over the range of the images, x being a result `[1, c, h, w]`. Values of y that
    /// depend on what was cut off around the window do not count, nor do those that were not measured. Where noise differs
    /// from value to value, each counts by its [weight](Measurement::weights).
    ///
    /// # Errors
    /// [`crate::Error::Config`] when x has another shape than the result; those of the operator.
    pub fn agreement(&self, x: &Tensor<4>) -> Result<f64> {
        let (on_result, y) = self.judged()?;
        Ok(crate::metric::agreement(on_result.as_ref(), &self.compared(x)?, &y)?.first().copied().unwrap_or(f64::NAN))
    }
}
