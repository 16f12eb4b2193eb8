//! The noise of y: given, or estimated from y.

use serde::{Deserialize, Serialize};

use super::{estimate_noise, gain};
use crate::operator::Mask;
use crate::task::{Choice, Task};
use crate::tensor::Tensor;
use crate::units::NoiseLevel;
use crate::{Error, Result};

/// Standard deviation of the noise in y. Where none is said, it is estimated for deblurring and denoising, which depend
/// on it, and 0 for the other tasks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
#[non_exhaustive]
pub enum Sigma {
    /// Estimated from y, see [`estimate_noise`].
    Auto,
    /// In grey levels of 0..255, 0 to 1000.
    Levels(f64),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Levels(f64),
    Word(String),
}

impl TryFrom<Written> for Sigma {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Levels(levels) => Ok(Self::Levels(levels)),
            Written::Word(word) if word == "auto" => Ok(Self::Auto),
            Written::Word(word) => Err(format!("sigma {word:?}: expected a number of grey levels or \"auto\"")),
        }
    }
}

impl From<Sigma> for Written {
    fn from(sigma: Sigma) -> Self {
        match sigma {
            Sigma::Levels(levels) => Self::Levels(levels),
            Sigma::Auto => Self::Word("auto".into()),
        }
    }
}

/// Noise below this many times that of rounding, which is counted anyway, is rounding.
const ABOVE_ROUNDING: f64 = 1.5;
/// Noise below this, in grey levels, is none.
const NONE: f64 = 0.05;
/// A given noise and an estimate contradict each other where one is more than so many times the other, and ...
const CONTRADICTS: f64 = 2.0;
/// ... so many grey levels more. Estimates err upwards by as much where all of an image is textured.
const BEYOND: f64 = 1.5;

const TOO_LITTLE: &str = "too little of the observation is known to estimate its noise";

/// Refuses a noise level that none can have.
pub(super) fn check(task: Task, sigma: Option<Sigma>, gain: Option<f64>) -> Result<()> {
    match sigma {
        Some(Sigma::Levels(levels)) if !(levels.is_finite() && (0.0..=1000.0).contains(&levels)) => {
            Err(Error::config(format!("sigma {levels}: expected 0 to 1000 grey levels, or auto")))
        }
        Some(Sigma::Levels(0.0)) if task == Task::Denoise && gain.is_none() => {
            Err(Error::config("the task denoise needs a noise level above 0, for example --sigma 25, or --sigma auto"))
        }
        _ => Ok(()),
    }
}

/// What is decided of the noise.
#[derive(Debug, Default)]
pub(super) struct Noise {
    /// In grey levels.
    pub(super) levels: f64,
    /// Where it was estimated.
    pub(super) note: Option<Choice>,
    /// Where it was given, and y contradicts it.
    pub(super) warning: Option<String>,
}

/// The noise of `y`, which does not grow with the signal, whose values were rounded by `rounding` and where all pixels but those of a mask are known.
pub(super) fn settle(
    task: Task,
    sigma: Option<Sigma>,
    gain: Option<f64>,
    y: &Tensor<4>,
    known: Option<&Mask>,
    rounding: NoiseLevel,
) -> Result<Noise> {
    let depends = matches!(task, Task::Deblur | Task::Denoise);
    let estimate = || -> Result<Option<f64>> { Ok(estimate_noise(y, known.map(Mask::known))?.map(NoiseLevel::to_255)) };
    if let Some(gain) = gain {
        return beside_gain(depends, sigma, gain, y, known.map(Mask::known));
    }
    // A blur is solved for with that of rounding at least, from the start on (docs/results/noise.md).
    let least = if task == Task::Deblur { hundredths(rounding.to_255()) } else { 0.0 };
    match sigma {
        None if !depends => Ok(Noise::default()),
        Some(Sigma::Levels(levels)) => {
            let found = if depends { estimate()? } else { None };
            let warning = found.and_then(|found| contradiction(levels, found));
            let rule = "the file's, counted as noise: more than the sigma that was given";
            let note = (levels < least).then(|| Choice::rule("rounding", least.to_string(), rule));
            Ok(Noise { levels: levels.max(least), note, warning })
        }
        None | Some(Sigma::Auto) => {
            let (levels, rule) = match estimate()? {
                None => (0.0, TOO_LITTLE),
                Some(found) => (beyond_rounding(found, rounding.to_255()), "estimated from the observation"),
            };
            if levels == 0.0 && task == Task::Denoise {
                return Err(Error::config(format!(
                    "{}; if there is noise to remove, give --sigma",
                    if rule == TOO_LITTLE { rule } else { "the observation shows no noise" }
                )));
            }
            let (levels, rule) = match levels {
                0.0 if rule == TOO_LITTLE => (least, rule),
                0.0 => (least, "the observation shows no noise but that of rounding"),
                levels => (levels, rule),
            };
            Ok(Noise { levels, note: Some(Choice::rule("sigma", levels.to_string(), rule)), warning: None })
        }
    }
}

/// The same of the noise that `gain` does not explain.
fn beside_gain(depends: bool, sigma: Option<Sigma>, gain: f64, y: &Tensor<4>, known: Option<&[bool]>) -> Result<Noise> {
    match sigma {
        None if !depends => Ok(Noise::default()),
        Some(Sigma::Levels(levels)) => {
            let excess = if depends { gain::excess(y, known, gain, levels)? } else { None };
            let warning = excess.filter(|excess| !(1.0 / CONTRADICTS..=CONTRADICTS).contains(excess)).map(|excess| {
                format!(
                    "the noise of the observation is about {excess:.1} times what gain {gain} and sigma {levels} say: the \
                     result will {}",
                    if excess > 1.0 { "show it amplified" } else { "be smoother than need be" }
                )
            });
            Ok(Noise { levels, note: None, warning })
        }
        None | Some(Sigma::Auto) => {
            let (levels, rule) = match gain::read_noise(y, known, gain)? {
                None => (0.0, TOO_LITTLE),
                Some(found) => (hundredths(found), "estimated from the observation, besides what the gain explains"),
            };
            Ok(Noise { levels, note: Some(Choice::rule("sigma", levels.to_string(), rule)), warning: None })
        }
    }
}

/// What of a noise is not rounding, to a hundredth, so that it can be given again as a number.
fn beyond_rounding(found: f64, rounding: f64) -> f64 {
    let rest = (found * found - rounding * rounding).max(0.0).sqrt();
    if rest < NONE.max(ABOVE_ROUNDING * rounding) { 0.0 } else { hundredths(rest) }
}

fn hundredths(levels: f64) -> f64 {
    (levels * 100.0).round() / 100.0
}

/// What to say where y shows another noise than was given.
fn contradiction(given: f64, found: f64) -> Option<String> {
    if found > CONTRADICTS * given + BEYOND {
        Some(format!(
            "the observation has noise of about {found:.1} grey levels, but sigma is {given}: the result will show it \
             amplified; --sigma auto takes the estimate"
        ))
    } else if given > CONTRADICTS * found + BEYOND {
        Some(format!(
            "the observation shows noise of about {found:.1} grey levels, but sigma is {given}: the result will be \
             smoother than need be; --sigma auto takes the estimate"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::image::BitDepth;
    use crate::tensor::{cpu, from_f32};

    #[test]
    fn rounding_is_no_noise() {
        let rounding = 1.0 / 12f64.sqrt();
        assert_eq!(beyond_rounding(0.29, rounding), 0.0);
        assert_eq!(beyond_rounding(0.5, rounding), 0.0);
        assert_eq!(beyond_rounding(1.0, rounding), 0.96);
        assert_eq!(beyond_rounding(2.0, 0.0), 2.0);
        assert_eq!(beyond_rounding(0.2, 0.0), 0.2);
    }

    #[test]
    fn a_blur_has_the_noise_of_rounding_at_least() {
        let y = from_f32((0..256).map(|i| i as f32 / 255.0 - 0.5).collect(), [1, 1, 16, 16], &cpu());
        let eight = BitDepth::Eight.rounding();
        let settled = |task, given, rounding| {
            let noise = settle(task, Some(Sigma::Levels(given)), None, &y, None, rounding).unwrap();
            (noise.levels, noise.note.map(|note| note.name.to_string()))
        };
        assert_eq!(settled(Task::Deblur, 0.0, eight), (0.29, Some("rounding".into())));
        assert_eq!(settled(Task::Deblur, 2.0, eight), (2.0, None));
        assert_eq!(settled(Task::Deblur, 0.0, NoiseLevel(0.0)), (0.0, None));
        assert_eq!(settled(Task::SuperResolution { factor: 2 }, 0.0, eight), (0.0, None));
    }

    #[test]
    fn contradictions_are_clear_ones() {
        assert!(contradiction(0.0, 2.0).unwrap().contains("about 2.0"));
        assert!(contradiction(25.0, 5.0).unwrap().contains("smoother"));
        for (given, found) in [(0.0, 1.3), (2.0, 3.5), (10.0, 6.0), (1.0, 0.3)] {
            assert_eq!(contradiction(given, found), None, "{given} {found}");
        }
    }

    #[test]
    fn sigma_is_a_number_or_auto() {
        for (text, sigma) in [("2.5", Sigma::Levels(2.5)), ("0", Sigma::Levels(0.0)), ("\"auto\"", Sigma::Auto)] {
            assert_eq!(serde_json::from_str::<Sigma>(text).unwrap(), sigma);
        }
        assert_eq!(serde_json::to_string(&Sigma::Auto).unwrap(), "\"auto\"");
        assert!(serde_json::from_str::<Sigma>("\"some\"").is_err());
    }
}
