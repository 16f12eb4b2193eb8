//! What a result says of itself: how far A x is from y, against what the noise allows.
//!
//! Every number is of the image as it was saved. Thresholds are constants here, and
//! `docs/guide/reading-the-report.md` explains them.

use serde::{Deserialize, Serialize};

use crate::operator::ImageShape;
use crate::problem::Measurement;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// A misfit above this many times what is allowed is too large.
pub const TOO_FAR: f64 = 1.25;
/// What the solvers leave on noise-free observations, in grey levels of 0..255: allowed besides noise and rounding.
pub const SOLVER_255: f64 = 1.0;
/// With noise given, a misfit below this share of it reproduces the noise.
pub const TOO_CLOSE: f64 = 0.5;
/// A bias is one beyond this many standard errors of the mean ...
pub const BIAS_ERRORS: f64 = 4.0;
/// ... that also exceeds this many grey levels of 0..255.
pub const LEAST_BIAS_255: f64 = 0.25;
/// Share of the values that may be black or white beyond the share of y.
pub const CLIPPED: f64 = 0.02;
/// Network evaluations below which they may be too few.
pub const FEW_STEPS: usize = 8;
/// So many standard deviations of the noise from black or white, a value of y may be black or white.
pub const CLIPPED_NOISE: f64 = 2.0;

/// The numbers of a result, and what is wrong with them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Findings {
    /// Values of y that A x is compared with.
    pub observed: usize,
    /// Root mean square of A x - y over them, in grey levels of 0..255. Where noise grows with the signal, weighted by the
    /// inverse of its variance, with weights of 1 on average, as everything here but the bias.
    pub misfit_255: f64,
    /// What it would be for the truth, in grey levels of 0..255: the noise given, the rounding of y, what storing the
    /// result changed of A x, what light beyond white leaves unexplained, and [`SOLVER_255`].
    pub allowed_255: f64,
    /// What light beyond white leaves unexplained around it, spread over all of y: it may be that of a wrong kernel.
    #[serde(default)]
    pub beyond_white_255: f64,
    /// The noise given, in grey levels of 0..255; of the weighted values where it grows with the signal.
    pub sigma_255: f64,
    /// Mean of A x - y per channel of y.
    pub bias: Vec<Bias>,
    /// Share of the values of x that are black or white, 0 to 1.
    pub clipped: f64,
    /// The same of y, values within [`CLIPPED_NOISE`] standard deviations of its noise among them: white paper is white in
    /// the result, and half of it is darker in a noisy y.
    pub clipped_observed: f64,
    /// What is wrong, in words; nothing if the result passes.
    pub faults: Vec<String>,
}

/// The mean of A x - y in a channel, in grey levels of 0..255.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bias {
    /// The mean.
    pub mean_255: f64,
    /// Its standard error.
    pub error_255: f64,
}

impl Bias {
    /// Whether it is more than chance and rounding.
    pub fn is_significant(&self) -> bool {
        self.mean_255.abs() > LEAST_BIAS_255.max(BIAS_ERRORS * self.error_255)
    }
}

/// A result to be judged, `[1, c, h, w]` in about [-1, 1].
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged<'a> {
    /// As it was saved.
    pub saved: &'a Tensor<4>,
    /// As it was computed.
    pub computed: &'a Tensor<4>,
    /// What the file holds, see [`Picture::bounds`](crate::io::image::Picture::bounds).
    pub bounds: Option<[f64; 2]>,
    /// Network evaluations that made it, where that is known.
    pub steps: Option<usize>,
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn pass(&self) -> bool {
        self.faults.is_empty()
    }

    /// Of a result of `measurement`.
    ///
    /// # Errors
    /// [`Error::Config`] when the shapes do not fit; [`Error::Numerical`] when a value is not finite; those of the
    /// operator.
    pub(super) fn of(measurement: &Measurement, judged: Judged<'_>) -> Result<Self> {
        let a = measurement.on_result();
        let ax = a.apply(&measurement.compared(judged.saved)?)?;
        let shape = ImageShape::of_batch(measurement.y());
        if ImageShape::of_batch(&ax) != shape {
            let found = ImageShape::of_batch(&ax);
            return Err(Error::config(format!(
                "a result whose observation is {found}, but the observation is {shape}"
            )));
        }
        tensor::check_finite(&ax, "A x")?;
        let within = match judged.bounds {
            None => judged.computed.clone(),
            Some([least, most]) => judged.computed.clone().clamp(least, most),
        };
        let stored = tensor::to_f64(&a.apply(&measurement.compared(&within)?)?)?;
        let (ax, y) = (tensor::to_f64(&ax)?, tensor::to_f64(measurement.y())?);
        let weight = |i: usize| measurement.weights().map_or(1.0, |weights| weights[i]);
        let seen: Vec<usize> = match a.observed() {
            None => (0..shape.pixels()).collect(),
            Some(flags) => (0..shape.pixels()).filter(|i| flags.get(*i).is_some_and(|seen| *seen)).collect(),
        };
        let at = |channel: usize| seen.iter().map(move |i| channel * shape.pixels() + i);
        let all = || (0..shape.channels).flat_map(at);
        let count = seen.len() * shape.channels;
        let mean_square = |difference: &dyn Fn(usize) -> f64| {
            all().map(|i| difference(i).powi(2)).sum::<f64>() / count.max(1) as f64 * 127.5 * 127.5
        };
        let misfit = mean_square(&|i| weight(i) * (ax[i] - y[i])).sqrt();
        let storing = mean_square(&|i| weight(i) * (ax[i] - stored[i]));
        let [noise, rounding] = [measurement.sigma().0 * 127.5, measurement.rounding().0 * 127.5];
        // Rounding that became light is in the noise of its values, but it is not the noise given.
        let sigma = if measurement.light().is_some() { measurement.sigma_255() } else { noise };
        let allowed = (noise * noise + rounding * rounding + storing + SOLVER_255 * SOLVER_255).sqrt();
        let bias_of = |those: &mut dyn Iterator<Item = usize>| {
            let differences: Vec<f64> = those.map(|i| (ax[i] - y[i]) * 127.5).collect();
            let per = differences.len().max(1) as f64;
            let mean = differences.iter().sum::<f64>() / per;
            let variance = differences.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / per;
            // Of few values, no less than the noise given.
            Bias { mean_255: mean, error_255: (variance.max(noise * noise) / per).sqrt() }
        };
        // Where noise was cut off at black or white, y is off on average, and not A x.
        let [is_dark, is_bright] = measurement.cut_off(&y);
        let apart = 1.0 - CLIPPED_NOISE * measurement.sigma().0;
        let is_whole = |i: usize| !(is_dark && ax[i] < -apart || is_bright && ax[i] > apart);
        let bias = |channel: usize| {
            let (all, whole) = (bias_of(&mut at(channel)), bias_of(&mut at(channel).filter(|i| is_whole(*i))));
            if all.is_significant() && !whole.is_significant() { whole } else { all }
        };
        let is_cut = |v: f64| (v.abs() - 1.0).abs() < 1e-6;
        let within = f64::max(1e-6, CLIPPED_NOISE * measurement.sigma().0);
        let x = tensor::to_f64(judged.saved)?;
        let share = |cut: usize, of: usize| cut as f64 / of.max(1) as f64;
        let mut findings = Self {
            observed: count,
            misfit_255: misfit,
            allowed_255: allowed,
            beyond_white_255: measurement.beyond_white().to_255(),
            sigma_255: sigma,
            bias: (0..shape.channels).map(bias).collect(),
            clipped: share(x.iter().filter(|v| is_cut(**v)).count(), x.len()),
            clipped_observed: share(all().filter(|i| y[*i].abs() >= 1.0 - within).count(), count),
            faults: Vec::new(),
        };
        findings.faults = findings.found(judged.steps);
        Ok(findings)
    }

    /// What explains how much of the misfit, in words: `noise and rounding explain 1.04`.
    pub fn explained(&self) -> String {
        let light =
            if self.beyond_white_255 > SOLVER_255 { ", rounding and light beyond white" } else { " and rounding" };
        format!("noise{light} explain {:.2}", self.allowed_255)
    }

    /// What is wrong, in words, with a result of so many network evaluations.
    fn found(&self, steps: Option<usize>) -> Vec<String> {
        let Self { misfit_255: misfit, allowed_255: allowed, sigma_255: sigma, .. } = self;
        let explained = self.explained();
        let mut faults = Vec::new();
        if *misfit > TOO_FAR * allowed {
            let few = steps.filter(|steps| *steps < FEW_STEPS);
            let few = few.map_or_else(String::new, |steps| format!(", or {steps} steps are too few"));
            faults.push(format!(
                "A x differs from y by {misfit:.2} grey levels, {explained}: the \
                 degradation or --sigma is not that of the observation{few}"
            ));
        }
        // Of less noise than a solver errs by, A x says nothing.
        if *sigma > SOLVER_255 && *misfit < TOO_CLOSE * sigma {
            faults.push(format!(
                "A x differs from y by {misfit:.2} grey levels, but the noise is given as {sigma:.2}: the result \
                 reproduces the noise, or --sigma is too large"
            ));
        }
        for (channel, bias) in self.bias.iter().enumerate().filter(|(_, bias)| bias.is_significant()) {
            let channel = self.channel(channel);
            let Bias { mean_255: mean, error_255: error } = bias;
            faults
                .push(format!("A x is off by {mean:+.2} grey levels{channel} on average (standard error {error:.2})"));
        }
        if self.clipped > self.clipped_observed + CLIPPED {
            let [x, y] = [self.clipped, self.clipped_observed].map(|share| 100.0 * share);
            faults.push(format!("{x:.1} % of the result is black or white, {y:.1} % of the observation, noise aside"));
        }
        faults
    }

    /// ` in red`, where there are colours.
    fn channel(&self, channel: usize) -> &'static str {
        match (self.bias.len(), channel) {
            (3, 0) => " in red",
            (3, 1) => " in green",
            (3, 2) => " in blue",
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::light::Light;
    use crate::io::limits::Limits;
    use crate::noise::{Noise, Stream};
    use crate::operator::{Degradation, Mask};
    use crate::problem::Problem;
    use crate::tensor::{DType, cpu, from_f32, to_f32};
    use crate::units::NoiseLevel;

    const SIDE: usize = 32;

    /// A picture with no value near black or white.
    fn truth() -> Tensor<4> {
        let values = (0..3 * SIDE * SIDE).map(|i| ((i % 97) as f32 / 97.0 - 0.5) * 1.2).collect();
        from_f32(values, [1, 3, SIDE, SIDE], &cpu())
    }

    fn noise(sigma: f64) -> Tensor<4> {
        let noise = Noise::new(5, Stream::Evaluation).normal_tensor(0, [1, 3, SIDE, SIDE], &cpu(), DType::F32);
        noise * (sigma / 127.5)
    }

    /// Of `x`, saved without loss, as the result of an observation with that noise.
    fn judge(problem: Problem, y: &Tensor<4>, x: &Tensor<4>) -> Findings {
        let measurement = problem.measure(y, NoiseLevel(0.0), 3, &Limits::default()).unwrap();
        let judged = Judged { saved: x, computed: x, bounds: Some([-1.0, 1.0]), steps: None };
        Findings::of(&measurement, judged).unwrap()
    }

    fn only_fault(findings: &Findings) -> &str {
        assert_eq!(findings.faults.len(), 1, "{findings:?}");
        &findings.faults[0]
    }

    /// The truth differs from y by the noise, and passes; told of half or of three times the noise, it does not.
    #[test]
    fn a_misfit_is_measured_by_the_noise() {
        let (x, y) = (truth(), truth() + noise(10.0));
        let found = judge(Problem::denoise(10.0), &y, &x);
        assert!(found.pass() && (found.misfit_255 - 10.0).abs() < 0.3, "{found:?}");
        assert_eq!((found.observed, found.bias.len()), (3 * SIDE * SIDE, 3));
        assert!((found.allowed_255 - (100.0 + SOLVER_255 * SOLVER_255).sqrt()).abs() < 1e-6, "{found:?}");
        let mut found = judge(Problem::denoise(5.0), &y, &x);
        assert!(only_fault(&found).ends_with("is not that of the observation"));
        // Few steps may be the reason.
        for (steps, end) in [(FEW_STEPS - 1, "are too few"), (FEW_STEPS, "is not that of the observation")] {
            found.faults = found.found(Some(steps));
            assert!(only_fault(&found).ends_with(end), "{steps}: {found:?}");
        }
        assert!(only_fault(&judge(Problem::denoise(30.0), &y, &x)).contains("reproduces the noise"));
        // The thresholds themselves: 1.25 times what is allowed, and half of the noise.
        let scaled = |share: f64| judge(Problem::denoise(10.0), &(truth() + noise(10.0 * share)), &x);
        assert!(scaled(1.2).pass() && !scaled(1.35).pass() && scaled(0.55).pass() && !scaled(0.45).pass());
    }

    /// Paper and ink whose noise was cut off at white and black are right although y is grey there on average; floats
    /// that were not cut off count everywhere.
    #[test]
    fn noise_that_was_cut_off_is_no_bias() {
        let page = |v: f32| {
            if v > -0.2 {
                1.0
            } else if v > -0.5 {
                -1.0
            } else {
                v
            }
        };
        let x = from_f32(to_f32(&truth()).unwrap().into_iter().map(page).collect(), [1, 3, SIDE, SIDE], &cpu());
        let y = x.clone() + noise(6.0);
        let found = judge(Problem::denoise(6.0), &y.clone().clamp(-1.0, 1.0), &x);
        assert!(found.faults.iter().all(|fault| !fault.contains("on average")), "{found:?}");
        assert!(found.bias.iter().all(|bias| bias.error_255 > 0.2), "fewer values: {found:?}");
        let shifted = judge(Problem::denoise(6.0), &(y.clone() + 2.0 / 127.5), &x);
        assert!(shifted.faults.iter().any(|fault| fault.contains("on average")), "{shifted:?}");
        // What is left of a page that was cut off tells a shift, too.
        let shifted = judge(Problem::denoise(6.0), &(y + 8.0 / 127.5).clamp(-1.0, 1.0), &x);
        assert!(shifted.faults.iter().any(|fault| fault.contains("on average")), "{shifted:?}");
    }

    /// A shift of the mean counts beyond four standard errors and a quarter of a grey level.
    #[test]
    fn a_bias_is_measured_by_its_standard_error() {
        let (x, y) = (truth(), truth() + noise(10.0));
        let shifted = |levels: f64| judge(Problem::denoise(10.0), &(y.clone() + levels / 127.5), &x);
        let found = shifted(3.0);
        assert_eq!(found.faults.len(), 3, "{found:?}");
        assert!(found.faults[2].starts_with("A x is off by -") && found.faults[2].contains("in blue"), "{found:?}");
        assert!((found.bias[0].error_255 - 10.0 / SIDE as f64).abs() < 0.03, "{found:?}");
        assert!(shifted(0.5).pass(), "chance explains it: {:?}", shifted(0.5));
        // A single value says nothing of how they scatter.
        let pixel = |v: f64| from_f32(vec![v as f32; 3], [1, 3, 1, 1], &cpu());
        assert!(judge(Problem::denoise(10.0), &pixel(9.0 / 127.5), &pixel(0.0)).pass());
        let exact = |levels: f64| judge(Problem::denoise(0.5), &(truth() + noise(0.5) + levels / 127.5), &x);
        assert!(exact(0.15).pass() && !exact(0.4).pass());
    }

    #[test]
    fn values_at_black_and_white_count_beyond_those_of_the_observation() {
        let cut = |share: f32, white: f32| {
            let last = (3.0 * (SIDE * SIDE) as f32 * share) as usize;
            let values = (0..3 * SIDE * SIDE).map(|i| if i < last { white } else { (i % 7) as f32 * 0.1 }).collect();
            from_f32(values, [1, 3, SIDE, SIDE], &cpu())
        };
        let problem = || Problem::denoise(5.0);
        let found = judge(problem(), &(cut(0.05, 0.8) + noise(5.0)), &cut(0.05, 1.0));
        assert!(
            found.faults.iter().any(|fault| fault.starts_with("5.0 % of the result is black or white")),
            "{found:?}"
        );
        let found = judge(problem(), &cut(0.05, 1.0), &cut(0.05, 1.0));
        assert_eq!((found.clipped, found.clipped_observed), (153.0 / 3072.0, 153.0 / 3072.0));
        assert!(found.faults.iter().all(|fault| !fault.contains("black or white")), "{found:?}");
        // The threshold itself: 2 % of the values.
        let told = |share: f32| {
            let found = judge(problem(), &(cut(share, 0.8) + noise(5.0)), &cut(share, 1.0));
            found.faults.iter().any(|fault| fault.contains("black or white"))
        };
        assert!(!told(0.018) && told(0.022));
        // Of noisy white, half is white.
        let noisy = (cut(0.2, 1.0) + noise(5.0)).clamp(-1.0, 1.0);
        let found = judge(problem(), &noisy, &cut(0.2, 1.0));
        assert!(found.faults.iter().all(|fault| !fault.contains("black or white")), "{found:?}");
    }

    /// What a file holds in a hole is no observation.
    #[test]
    fn missing_pixels_do_not_count() {
        let known: Vec<bool> = (0..SIDE * SIDE).map(|i| i >= SIDE).collect();
        let values: Vec<f32> = tensor::to_f32(&truth()).unwrap();
        let holed = values.iter().enumerate().map(|(i, v)| if i % (SIDE * SIDE) < SIDE { 1.0 } else { *v }).collect();
        let y = from_f32(holed, [1, 3, SIDE, SIDE], &cpu());
        let found = judge(Problem::inpaint(Mask::new(SIDE, SIDE, known).unwrap()), &y, &truth());
        assert_eq!((found.observed, found.misfit_255, found.clipped_observed), (3 * (SIDE - 1) * SIDE, 0.0, 0.0));
        assert!(found.pass());
    }

    /// The rounding of y counts as noise of its light, but it is not noise that a result could reproduce.
    #[test]
    fn rounding_that_became_light_is_no_noise_given() {
        let (light, rounding) = (Light::default(), NoiseLevel::from_255(0.5));
        let problem = Problem::super_resolution(2).in_light(light.clone());
        let a = Degradation::SuperResolution { factor: 2 }.build(ImageShape::new(3, SIDE, SIDE), None).unwrap();
        let y = light.to_encoded(&a.apply(&light.to_light(&truth()).unwrap()).unwrap()).unwrap();
        let measurement = problem.measure(&y, rounding, 3, &Limits::default()).unwrap();
        let (saved, computed) = (&truth(), &truth());
        let found =
            Findings::of(&measurement, Judged { saved, computed, bounds: Some([-1.0, 1.0]), steps: None }).unwrap();
        assert!(found.pass() && found.sigma_255 == 0.0 && found.misfit_255 < 0.01, "{found:?}");
        assert!(found.allowed_255 > SOLVER_255.hypot(0.4), "{found:?}");
    }

    /// What storing costs is allowed; what was wrong before is not.
    #[test]
    fn the_loss_of_a_format_is_allowed() {
        let (computed, saved) = (truth(), truth() + noise(4.0));
        let of = |y: &Tensor<4>| {
            let measurement = Problem::denoise(1.0).measure(y, NoiseLevel(0.0), 3, &Limits::default()).unwrap();
            Findings::of(
                &measurement,
                Judged { saved: &saved, computed: &computed, bounds: Some([-1.0, 1.0]), steps: None },
            )
            .unwrap()
        };
        let found = of(&(truth() + 0.001));
        assert!(found.pass() && found.misfit_255 > 3.8, "{found:?}");
        let noisy = Noise::new(9, Stream::Evaluation).normal_tensor(0, [1, 3, SIDE, SIDE], &cpu(), DType::F32);
        assert!(!of(&(truth() + noisy * (6.0 / 127.5))).pass());
    }
}
