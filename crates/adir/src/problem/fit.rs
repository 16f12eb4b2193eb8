//! A problem and its observation, brought together.

use std::sync::Arc;

use super::highlights::{Highlights, Points, highlights};
use super::measurement::{Grey, Measurement};
use super::over_exposed::{AtWhite, at_white};
use super::saturation::{Saturated, plateaus};
use super::{Problem, Sigma, gain, noise, points};
use crate::io::limits::Limits;
use crate::operator::{
    Boundary, Compose, Degradation, Grayscale, ImageShape, InWindow, Kernel, LinearOperator, Mask, Masked, Window,
    wraps_around,
};
use crate::task::{Choice, Hint, Source, Task};
use crate::tensor::{self, Tensor};
use crate::units::NoiseLevel;
use crate::{Error, Result};

/// The degradation of one channel, or of all at once.
struct Degraded<'a> {
    problem: &'a Problem,
    /// Absent for an operator of the caller's.
    degradation: Option<Degradation>,
    /// The missing pixels of an inpainting.
    mask: Option<Mask>,
    /// The pixels that are not ignored.
    ignored: Option<Mask>,
    /// The pixels that are not saturated.
    saturated: Option<Mask>,
}

/// What y does not measure.
struct Unmeasured {
    /// The pixels that are observed and not ignored; absent where all are.
    ignored: Option<Mask>,
    /// Those that are not saturated; absent where none is.
    saturated: Option<Mask>,
    /// What other values at white are worth besides, of the shape of y.
    cut_off: Option<Tensor<4>>,
}

/// An observation without what no x up to white explains.
struct WithinWhite {
    y: Tensor<4>,
    /// Mean square of what the light beyond white leaves unexplained around it, in [-1, 1] units.
    misfit: f64,
    /// The share of y that this is of.
    share: f64,
    /// Points brighter than white, of the operator's domain.
    points: Option<Points>,
}

impl Degraded<'_> {
    /// A for observations of shape `range`, without a mask of unmeasured pixels, and what y has besides A x.
    fn build(&self, range: ImageShape) -> Result<(Arc<dyn LinearOperator>, Option<Tensor<4>>)> {
        match (&self.problem.operator, &self.degradation) {
            (Some(operator), _) => Ok((operator.clone(), None)),
            (None, Some(degradation)) => {
                let domain = degradation.domain_for_range(range)?;
                Ok((degradation.build(domain, self.mask.as_ref())?, degradation.offset(domain, self.mask.as_ref())?))
            }
            (None, None) => Err(Error::config("a problem without a degradation")),
        }
    }

    /// `y` without what it has besides A x for an x up to white: `offset`, points, and the light beyond white of areas.
    /// Where saturated pixels have no highlights to stand for them, they are left as they are, to be masked.
    fn within_white(
        &self,
        y: Tensor<4>,
        operator: &dyn LinearOperator,
        offset: Option<Tensor<4>>,
    ) -> Result<WithinWhite> {
        let dtype = y.dtype();
        let within = match self.highlights(&y, operator.domain())? {
            None => WithinWhite { y, misfit: 0.0, share: 0.0, points: None },
            Some(Highlights { beyond, points, y, misfit, share }) => {
                let all = points.iter().fold(beyond, |all, points| all + points.light.clone());
                WithinWhite { y: (y - operator.apply(&all)?).cast(dtype), misfit, share, points }
            }
        };
        Ok(match offset {
            None => within,
            Some(offset) => WithinWhite { y: within.y - offset.cast(dtype), ..within },
        })
    }

    /// The light beyond white behind saturated pixels of `y`, and behind points that no x up to white explains.
    fn highlights(&self, y: &Tensor<4>, domain: ImageShape) -> Result<Option<Highlights>> {
        let Some(Degradation::Blur { kernel, .. }) = &self.degradation else { return Ok(None) };
        let kernel = kernel.build()?;
        if !self.has_highlights()? {
            return Ok(None);
        }
        let points = match self.problem.saturated {
            Some(Saturated::Keep) => None,
            _ => points::beyond_white(y, &kernel, self.ignored.as_ref())?,
        };
        if self.saturated.is_none() && points.is_none() {
            return Ok(None);
        }
        let shown = self.shown(ImageShape::of_batch(y))?;
        highlights(y, self.saturated.as_ref(), points.as_deref(), self.ignored.as_ref(), &kernel, domain, shown)
            .map(Some)
    }

    /// Whether highlights stand for saturated pixels.
    fn has_highlights(&self) -> Result<bool> {
        Ok(match &self.degradation {
            Some(Degradation::Blur { kernel, .. }) => kernel.build()?.is_non_negative(),
            _ => false,
        })
    }

    /// The part of the domain that lies under an observation of that shape.
    fn shown(&self, range: ImageShape) -> Result<Window> {
        self.degradation.as_ref().map_or(Ok(Window::whole(range)), |degradation| degradation.window_for_range(range))
    }

    /// `operator`, observed only where `mask` says so.
    fn masked(operator: Arc<dyn LinearOperator>, mask: Option<&Mask>) -> Result<Arc<dyn LinearOperator>> {
        Ok(match mask {
            None => operator,
            Some(mask) => Arc::new(Masked::new(operator, mask)?),
        })
    }
}

impl Problem {
    /// The problem of the observation `y`, `[1, c, h, w]` in [-1, 1], whose values were rounded by `rounding` (a
    /// standard deviation), for images of `channels` channels.
    ///
    /// Without a boundary given, a blur is circular where opposite borders of y continue each other (see
    /// [`wraps_around`]), and else valid: y is a window of a larger scene. A grey y of a task that keeps colours is one
    /// measurement of three channels, also where it is stored three times. Pixels that are ignored, or at white after a
    /// blur, are not observed. Noise that is not given is estimated, see [`super::Sigma`].
    ///
    /// # Errors
    /// As [`Problem::degradation`]; [`Error::Config`] when y, the degradation and the channels do not fit together, or a
    /// denoising has nothing to remove; [`Error::Numerical`] when y is not finite.
    pub fn measure(
        &self,
        y: &Tensor<4>,
        rounding: NoiseLevel,
        channels: usize,
        limits: &Limits,
    ) -> Result<Measurement> {
        let mut measurement = self.fit(y, channels, limits)?;
        let one = if measurement.is_grey() { y.clone().narrow(1, 0, 1) } else { y.clone() };
        let known = measurement.measured();
        let noise = noise::settle(self.task, self.sigma, self.gain, &one, known.as_ref(), rounding)?;
        measurement.sigma = noise.levels;
        // Where the noise differs from value to value, that of rounding is in its variance.
        let rounding = match measurement.variances(y, self.gain, rounding)? {
            None => rounding,
            Some(variances) => {
                // Weighted light has the noise of the encoded values, and its residuals are nearly theirs.
                let level = measurement.light.as_ref().map(|_| gain::encoded(measurement.sigma, rounding));
                let uneven = gain::weights(&variances, measurement.operator.observed(), level);
                if let Some(gain) = self.gain {
                    let [mean, most] = [uneven.noise.mean, uneven.noise.most].map(NoiseLevel::to_255);
                    let value = format!("{gain} (noise of {mean:.1} grey levels on average, {most:.1} at most)");
                    measurement.notes.push(Choice { name: "gain".into(), value, source: Source::Given });
                }
                measurement.uneven = Some(uneven);
                NoiseLevel(0.0)
            }
        };
        // Noise is in the misfit, too. What is left of it is taken for noise everywhere.
        let (misfit, share) = measurement.around_white;
        let unexplained = share * (misfit - measurement.sigma().0.powi(2) - rounding.0.powi(2)).max(0.0);
        measurement.beyond_white = NoiseLevel(unexplained.sqrt());
        measurement.rounding = NoiseLevel(rounding.0.hypot(measurement.beyond_white.0));
        measurement.notes.extend(noise.note);
        measurement.warnings.extend(noise.warning);
        Ok(measurement)
    }

    /// [`Problem::measure`] without regard to noise, not even to how it differs: enough to compare a result with y.
    ///
    /// # Errors
    /// As [`Problem::measure`].
    pub fn fit(&self, y: &Tensor<4>, channels: usize, limits: &Limits) -> Result<Measurement> {
        self.check()?;
        tensor::check_finite(y, "the observation")?;
        let light = self.light();
        let y_light = light.as_ref().map(|light| light.to_light(y)).transpose()?;
        let y = y_light.as_ref().unwrap_or(y);
        let stored_as_rgb = self.task == Task::Colourise && y.dims()[1] == 3;
        let grey_of_rgb = stored_as_rgb.then(|| one_channel(y)).transpose()?;
        let y = grey_of_rgb.as_ref().unwrap_or(y);
        let (mut notes, mut warnings) = (Vec::new(), Vec::new());
        let shape = ImageShape::of_batch(y);
        let (degradation, mask, window) = match &self.operator {
            Some(operator) => (None, None, Window::whole(operator.domain())),
            None => {
                let boundary = self.boundary_of(y, &mut notes)?;
                let (degradation, mask) = self.degradation_with_warnings(boundary, limits, &mut warnings)?;
                let window = degradation.window_for_range(shape)?;
                (Some(degradation), mask, window)
            }
        };
        let kernel = match &degradation {
            Some(Degradation::Blur { kernel, .. }) => Some(kernel.build()?),
            _ => None,
        };
        let Unmeasured { ignored, saturated, cut_off } = self.unmeasured(y, kernel.as_ref(), limits, &mut notes)?;
        let degraded = Degraded { problem: self, degradation, mask, ignored, saturated };
        let (ignored, saturated) = (degraded.ignored.clone(), degraded.saturated.clone());
        let unmeasured = both(ignored.as_ref(), saturated.as_ref())?;
        let known = both(degraded.mask.as_ref(), unmeasured.as_ref())?;
        // Pixels that pull at nothing. Saturated ones pull where highlights stand for them, and count nowhere.
        let silent = if degraded.has_highlights()? { ignored } else { unmeasured.clone() };
        let keeps_colours = self.operator.is_none() && self.task != Task::Colourise;
        let grey = match y.dims()[1] {
            1 if keeps_colours && channels == 3 => Some(Grey::OneChannel),
            3 if keeps_colours && channels == 3 && channels_are_equal(y, known.as_ref().map(Mask::known))? => {
                Some(Grey::EqualChannels)
            }
            _ => None,
        };
        let (within, operator, of_grey) = match grey {
            None => {
                let (operator, offset) = degraded.build(shape)?;
                (degraded.within_white(y.clone(), operator.as_ref(), offset)?, operator, None)
            }
            Some(_) => {
                let y = y.clone().narrow(1, 0, 1);
                let (of_grey, offset) = degraded.build(ImageShape::of_batch(&y))?;
                let within = degraded.within_white(y, of_grey.as_ref(), offset)?;
                let mean = Grayscale::new(ImageShape { channels, ..of_grey.domain() })?;
                notes.push(Choice::rule("grey", "one measurement", "the observation is grey, and so is the result"));
                let operator: Arc<dyn LinearOperator> = Arc::new(Compose::new(vec![Arc::new(mean), of_grey.clone()])?);
                (within, operator, Some(of_grey))
            }
        };
        let WithinWhite { y, misfit, share, points } = within;
        let whites_are_more = cut_off.is_some();
        let y = match cut_off {
            None => y,
            Some(more) => {
                let channels = y.dims()[1];
                let more = more.narrow(1, 0, channels).cast(y.dtype());
                y + more
            }
        };
        let domain = operator.domain();
        if domain.channels != channels {
            return Err(Error::config(format!(
                "the restored image would have {} channels, the network makes {channels}",
                domain.channels
            )));
        }
        if operator.range() != ImageShape::of_batch(&y) {
            return Err(Error::config(format!(
                "the operator observes images of {}, the observation is {} (channels x height x width)",
                operator.range(),
                ImageShape::of_batch(&y)
            )));
        }
        let window = if self.keep_margin { Window::whole(domain) } else { window };
        let points = points.map(|points| of_result(&points, window, grey, channels, &mut notes)).transpose()?;
        let on_stored = match (grey, of_grey) {
            (Some(Grey::OneChannel), Some(of_grey)) => of_grey,
            _ => operator.clone(),
        };
        let on_stored = Degraded::masked(on_stored, unmeasured.as_ref())?;
        let operator = Degraded::masked(operator, silent.as_ref())?;
        let y = match &silent {
            Some(mask) => mask.keep(&y)?,
            None => y,
        };
        let on_result: Arc<dyn LinearOperator> =
            if window == Window::whole(domain) { on_stored } else { Arc::new(InWindow::new(on_stored, window)?) };
        // Nothing but noise, and pixels of which not even that is known: the network has to fill holes.
        let hint = match (self.task.hint(), &unmeasured) {
            (Hint::Identity, Some(_)) => Hint::Hides,
            (hint, _) => hint,
        };
        let Degraded { degradation, mask, .. } = degraded;
        Ok(Measurement {
            y,
            operator,
            on_result,
            window,
            grey,
            hint,
            task: self.task,
            degradation,
            mask,
            known,
            points,
            sigma: 0.0,
            uneven: None,
            light,
            rounding: NoiseLevel(0.0),
            beyond_white: NoiseLevel(0.0),
            around_white: (misfit, share),
            whites_are_more,
            notes,
            warnings,
        })
    }

    /// The boundary of the blur, where there is one.
    fn boundary_of(&self, y: &Tensor<4>, notes: &mut Vec<Choice>) -> Result<Boundary> {
        if self.kernel.is_none() {
            return Ok(Boundary::Valid);
        }
        let (boundary, source) = match self.boundary {
            Some(boundary) => (boundary, Source::Given),
            None if wraps_around(y)? => {
                (Boundary::Circular, Source::Rule("opposite borders of the observation continue each other".into()))
            }
            None => (Boundary::Valid, Source::Rule("the observation is a window of a larger scene".into())),
        };
        notes.push(Choice { name: "boundary".into(), value: boundary.to_string(), source });
        Ok(boundary)
    }

    /// What y does not measure.
    fn unmeasured(
        &self,
        y: &Tensor<4>,
        kernel: Option<&Kernel>,
        limits: &Limits,
        notes: &mut Vec<Choice>,
    ) -> Result<Unmeasured> {
        let ImageShape { height, width, .. } = ImageShape::of_batch(y);
        let share =
            |mask: &Mask| mask.known().iter().filter(|known| !**known).count() as f64 / mask.known().len() as f64;
        let ignored = match &self.ignore {
            None => None,
            Some(source) => {
                let mask = source.read_for(height, width, limits)?;
                let value = format!("{:.2} % of the observation", 100.0 * share(&mask));
                notes.push(Choice { name: "ignored".into(), value, source: Source::Given });
                Some(mask)
            }
        };
        if let Some(mask) = &self.observed {
            let value = format!("{:.2} % of the observation", 100.0 * share(mask));
            notes.push(Choice::rule("not observed", value, "the file says so (BLANK or NaN)"));
        }
        let ignored = both(self.observed.as_ref(), ignored.as_ref())?;
        let mut cut_off = None;
        let saturated = match (self.saturated, kernel) {
            (Some(Saturated::Keep), _) => None,
            (Some(Saturated::Ignore), _) => plateaus(y)?,
            (None, Some(kernel)) if self.task == Task::Deblur => match plateaus(y)? {
                Some(known) if kernel.is_non_negative() => {
                    let AtWhite { over_exposed, cut_off: more } = at_white(y, &known, ignored.as_ref(), kernel)?;
                    // Where noise differs from value to value, one level does not tell what was cut off.
                    let is_even = self.gain.is_none() && !self.linear_light && self.sigma != Some(Sigma::Levels(0.0));
                    cut_off = is_even.then_some(more);
                    over_exposed
                }
                known => known,
            },
            (None, _) => None,
        };
        if let Some(mask) = &saturated {
            let value = format!("{:.2} % of the observation", 100.0 * share(mask));
            notes.push(match self.saturated {
                Some(_) => Choice { name: "saturated".into(), value, source: Source::Given },
                None => Choice::rule(
                    "saturated",
                    value,
                    "no image up to white explains what is around: they are bounds, not measurements",
                ),
            });
        }
        Ok(Unmeasured { ignored, saturated, cut_off })
    }
}

impl Measurement {
    /// The variances of y's noise, in squared grey levels, where they differ; `stored` is y as the file holds it.
    fn variances(&self, stored: &Tensor<4>, gain: Option<f64>, rounding: NoiseLevel) -> Result<Option<Vec<f64>>> {
        let signal = match (stored.dims()[1], self.y.dims()[1]) {
            (stored_as, measured) if stored_as == measured => stored.clone(),
            _ => stored.clone().mean_dim(1),
        };
        let (observed, sigma) = (self.operator.observed(), self.sigma);
        match (gain, &self.light) {
            (Some(gain), _) => gain::variances(&signal, observed, gain, sigma, rounding).map(Some),
            (None, Some(light)) => gain::variances_of_light(&signal, observed, light, sigma, rounding).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The points of a result, noted.
fn of_result(
    points: &Points,
    window: Window,
    grey: Option<Grey>,
    channels: usize,
    notes: &mut Vec<Choice>,
) -> Result<Points> {
    let cut = |of_domain: &Tensor<4>| match grey {
        Some(Grey::EqualChannels) => window.cut(of_domain).repeat_dim(1, channels),
        _ => window.cut(of_domain),
    };
    let points = Points { light: cut(&points.light), ground: cut(&points.ground) };
    let pixels = tensor::to_f32(&points.light.clone().max_dim(1))?.into_iter().filter(|v| *v > 0.0).count();
    let value = format!("{pixels} pixels of the result");
    notes.push(Choice::rule("beyond white", value, "no image up to white explains the observation there"));
    Ok(points)
}

/// The pixels that both masks know, where there are masks.
fn both(a: Option<&Mask>, b: Option<&Mask>) -> Result<Option<Mask>> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some(a.and(b)?),
        (a, b) => a.or(b).cloned(),
    })
}

/// Whether the known pixels of all channels are the same.
fn channels_are_equal(y: &Tensor<4>, known: Option<&[bool]>) -> Result<bool> {
    let values = tensor::to_f32(y)?;
    let plane = ImageShape::of_batch(y).pixels();
    Ok((0..plane)
        .filter(|&i| known.is_none_or(|known| known.get(i).is_none_or(|known| *known)))
        .all(|i| values[i] == values[plane + i] && values[i] == values[2 * plane + i]))
}

/// The grey image that three channels store, up to the rounding of colours in a JPEG file: most scans are stored so.
fn one_channel(y: &Tensor<4>) -> Result<Tensor<4>> {
    if channels_are_equal(y, None)? {
        return Ok(y.clone().narrow(1, 0, 1));
    }
    let values = tensor::to_f32(y)?;
    let plane = ImageShape::of_batch(y).pixels();
    let spread = |i: usize| {
        let [r, g, b] = [0, 1, 2].map(|channel| values[channel * plane + i]);
        r.max(g).max(b) - r.min(g).min(b)
    };
    let most = (0..plane).map(spread).fold(0.0, f32::max) * 127.5;
    if most > COLOURLESS {
        return Err(Error::config(format!(
            "the task colourise starts from a grey image, but the channels of this one differ by up to {most:.0} grey \
             levels: convert it to grey first, for example with `magick IN -colorspace Gray OUT`"
        )));
    }
    Ok(y.clone().mean_dim(1))
}

/// Grey levels that the channels of a grey image may differ by: a step of the least colour that JPEG stores.
const COLOURLESS: f32 = 4.0;
