//! The staged sampler: how an aim between the least error and the most detail becomes stages.
//!
//! The numbers are those of docs/results/sampling.md, chosen on tuning images.

use super::Hint;
use super::method::{Overrides, Source};
use super::resolve::{Choices, Situation, count};
use super::settings::{GuidanceSettings, Levels, SamplerSettings, StageSettings};
use crate::guidance::{PigdmConfig, Trust};
use crate::io::tally::counted;
use crate::operator::{ImageShape, LinearOperator};
use crate::sampler::{EpsAfterGuidance, Mixture, Start};
use crate::{Error, Result};

/// Fresh share of the noise of a stage with opposed noise.
const OPPOSED_FRESH: f64 = 0.3;
/// The noise of such a stage.
const OPPOSED: Mixture = Mixture::Opposed(OPPOSED_FRESH);
/// Weight of y against the error of an estimate.
const TRUST: f64 = 8.0;
/// The same in the first of two stages, where the noise that comes with y is counted; the second takes it out.
const TRUST_AT_FIRST: f64 = 24.0;
/// The share of these that y gets for a share of the detail of photographs: a network errs less where there is less, down to a
/// least share (docs/results/borders.md).
const PER_DETAIL: f64 = 2.0;
const LEAST_SHARE: f64 = 0.2;
/// The same in the second stage of a blur of light (docs/results/light.md).
const TRUST_IN_LIGHT: Trust = Trust::Calibrated { factor: 1.0 };
/// Noise-to-signal ratio from which the first stage starts where y decides what is coarse.
const COARSE: f64 = 2.0;
/// Noise-to-signal ratios from which the second stage starts, for aims of 0 and 1.
const DETAIL: [f64; 2] = [0.19, 0.72];
/// The same where y has no noise and lacks pixels between its own.
const DETAIL_OF_SMALLER: [f64; 2] = [0.19, 1.0];
/// The same for blurs whose noise is counted: y decides more.
const DETAIL_OF_COUNTED: [f64; 2] = [0.12, 0.17];
/// The same where pixels are missing here and there: y decides all but the finest.
const DETAIL_OF_SCATTERED: [f64; 2] = [0.08, 0.19];
/// Distance to the nearest observed pixel, in pixels along rows and columns, from which a gap is a hole.
const HOLE: usize = 6;
/// Share of the pixels below which they are missing here and there.
const FEW: f64 = 0.05;
/// Weight of y against the noise of the next level in the second stage, where y is a part of what has a spectrum.
const OF_PART: f64 = 1.5;
/// The same where the second stage of a blur has opposed noise.
const OF_BLUR: f64 = 7.0;
/// Noise of up to so many times that of rounding is taken for rounding alone.
const ROUNDING_ALONE: f64 = 1.1;
/// eta of the second stage.
const ETA: f64 = 0.85;

/// Steps of both stages unless a number is given, for an aim.
struct Counts {
    /// A third of those that are given.
    third: usize,
    /// The others.
    rest: usize,
}

pub(super) fn stages(
    situation: &Situation<'_>,
    given: &Overrides,
    choices: &mut Choices,
) -> Result<Vec<StageSettings>> {
    let holes = situation.hint == Hint::Hides && has_holes(situation.operator);
    let (aim, source) = default_aim(situation.hint, holes);
    let aim = choices.pick("aim", given.aim, aim, source, f64::to_string);
    let steps = given.steps.as_deref().map(count).transpose()?;
    let (clip, source) = situation.clip(Source::rule("always"));
    let clip_x0 = choices.pick("clip", given.clip_x0, clip, source, bool::to_string);
    let share = situation.detail.map_or(1.0, |detail| (PER_DETAIL * detail).clamp(LEAST_SHARE, 1.0));
    if share < 1.0 {
        let rule = Source::rule("the observation has less detail than photographs have");
        choices.note("weight of y", format!("{:.0} % of the usual", 100.0 * share), rule);
    }
    let stages = Recipe { situation, holes, aim, steps, clip_x0, share }.stages()?;
    for (stage, name) in stages.iter().zip(["first stage", "second stage"]) {
        let (first, steps) = match &stage.levels {
            Levels::Powers { first, count, .. } => (*first, *count),
            _ => continue,
        };
        let rule = match stage.start {
            Start::Noise if matches!(stage.guidance, GuidanceSettings::Pigdm(_)) => {
                "from noise, by gradients through the adapted network"
            }
            Start::Noise => "from noise: the observation does not decide what is coarse",
            Start::Estimate if name == "first stage" => "from what the observation decides",
            Start::Estimate => "detail finer than the noise it starts from",
            Start::Observed | Start::Noisy => "from the observation at the level of its noise",
        };
        choices.note(name, format!("{steps} steps from t = {first}"), Source::rule(rule));
    }
    Ok(stages)
}

/// The aim unless one is given. Where y decides what is coarse, the estimate of least error invents least; where it does
/// not, that estimate is a blur of all that could be there, and one of these is more use.
fn default_aim(hint: Hint, holes: bool) -> (f64, Source) {
    match hint {
        Hint::ShrinksBy(_) | Hint::Blurs | Hint::Identity => (0.0, Source::Preset),
        Hint::Hides if !holes => (0.0, Source::Preset),
        Hint::Hides => (1.0, Source::rule("the observation says nothing of large holes")),
        Hint::DropsColour => (1.0, Source::rule("the observation says nothing of colours")),
        Hint::Unknown => (1.0, Source::rule("nothing is known of the operator")),
    }
}

struct Recipe<'a> {
    situation: &'a Situation<'a>,
    /// Whether pixels are hidden in large holes.
    holes: bool,
    aim: f64,
    steps: Option<usize>,
    clip_x0: bool,
    /// Of the usual weight of y.
    share: f64,
}

impl Recipe<'_> {
    fn stages(&self) -> Result<Vec<StageSettings>> {
        let noisy = self.situation.sigma.0 > 0.0;
        match self.situation.hint {
            Hint::Identity if self.aim == 0.0 && self.is_alike() && self.only_or(1) == 1 => Ok(vec![self.at_once()]),
            Hint::Identity => {
                // Where noise differs, the levels reach from below the least to above the largest.
                let least = if self.situation.uneven.is_some() { 6 } else { 4 };
                Ok(vec![self.denoise(self.only_or(least + (4.0 * self.aim).round() as usize))])
            }
            Hint::ShrinksBy(_) if !noisy && self.aim == 0.0 => Ok(vec![self.coarse(self.only_or(10))]),
            Hint::Blurs if noisy && self.situation.adapted => {
                let Counts { third, rest } = self.counts(15, 30)?;
                Ok(vec![self.by_gradient(rest), self.detail(third, DETAIL)])
            }
            Hint::ShrinksBy(_) | Hint::Blurs => {
                let Counts { third, rest } = self.counts(8, 6 + (10.0 * self.aim).round() as usize)?;
                let range = match self.situation.hint {
                    Hint::Blurs if noisy && self.counts_noise() => DETAIL_OF_COUNTED,
                    Hint::ShrinksBy(_) if !noisy => DETAIL_OF_SMALLER,
                    _ => DETAIL,
                };
                Ok(vec![self.coarse(third), self.detail(rest, range)])
            }
            Hint::Hides | Hint::DropsColour | Hint::Unknown if self.aim == 0.0 => {
                let count = if self.is_all_but_whole() { 8 } else { 25 };
                Ok(vec![self.whole(self.only_or(count))])
            }
            Hint::Hides if !self.holes => {
                let Counts { third, rest } = self.counts(25, 4 + (4.0 * self.aim).round() as usize)?;
                Ok(vec![self.whole(third), self.detail(rest, DETAIL_OF_SCATTERED)])
            }
            // Nothing in y says how a hole or a colour looks: all of it is sampled. The noise of the rest is taken out then.
            Hint::Hides | Hint::DropsColour | Hint::Unknown => {
                let count = 20 + (30.0 * self.aim).round() as usize;
                let Some(after) = self.counts_as_measured().then_some(4 + (4.0 * self.aim).round() as usize) else {
                    return Ok(vec![self.sampled(self.only_or(count))]);
                };
                let (count, after) = match self.steps {
                    None => (count, after),
                    Some(steps) => (steps - steps / 6, steps / 6),
                };
                let denoise = (after > 0).then(|| self.denoise(after));
                Ok(std::iter::once(self.sampled(count)).chain(denoise).collect())
            }
        }
    }

    /// Whether the noise of y is what the network was trained on: alike everywhere, and not the same in every channel, as that
    /// of a grey y is.
    fn is_alike(&self) -> bool {
        let operator = self.situation.operator;
        operator.range().channels == operator.domain().channels && self.situation.uneven.is_none()
    }

    /// Whether the noise of y in an estimate is counted, direction by direction.
    fn counts_noise(&self) -> bool {
        self.situation.has_spectrum() || self.situation.is_part()
    }

    /// Whether the noise of y is more than that of its rounding, which is taken for the noise of a blur where there is no other.
    fn has_more_than_rounding(&self) -> bool {
        self.situation.sigma.0 > ROUNDING_ALONE * self.situation.rounding.0
    }

    fn only_or(&self, default: usize) -> usize {
        self.steps.unwrap_or(default)
    }

    /// The steps that were given, a third of them for the first stage, or else the defaults.
    fn counts(&self, third: usize, rest: usize) -> Result<Counts> {
        match self.steps {
            None => Ok(Counts { third, rest }),
            Some(steps) if steps > self.situation.schedule.len() => Err(Error::config(format!(
                "{steps} steps: the network knows {} noise levels",
                self.situation.schedule.len()
            ))),
            Some(steps @ 2..) => {
                let third = (steps / 3).clamp(1, steps - 1);
                Ok(Counts { third, rest: steps - third })
            }
            Some(steps) => {
                Err(Error::config(format!("{}: this task takes 2 or more, in two stages", counted(steps, "step"))))
            }
        }
    }

    fn trust(&self, factor: f64) -> Trust {
        Trust::Calibrated { factor: self.share * factor }
    }

    fn stage(&self, start: Start, first: u16, count: usize, mixture: Mixture, eps: EpsAfterGuidance) -> StageSettings {
        StageSettings {
            start,
            levels: Levels::Powers { first, last: 0, count, power: 2 },
            clip_x0: self.clip_x0,
            sampler: SamplerSettings::Renoise { mixture, eps_after_guidance: eps },
            guidance: self.situation.proximal(self.trust(TRUST), true),
        }
    }

    /// The network once, at the noise level of y: the mean of the posterior, as far as the network knows it. Of weaker noise
    /// than the network knows, y moves by the square of the ratio, as in Tweedie's formula with the score of the least level.
    fn at_once(&self) -> StageSettings {
        let first = self.situation.timestep(self.situation.sigma.0);
        let stage = self.stage(Start::Noisy, first, 1, OPPOSED, EpsAfterGuidance::Keep);
        let share = (self.situation.sigma.0 / self.least_level()).powi(2);
        let guidance = match share < 1.0 {
            true => self.situation.proximal(Trust::Annealed { lambda: 1.0 / (1.0 - share) }, false),
            false => GuidanceSettings::None,
        };
        StageSettings { guidance, ..stage }
    }

    /// The least noise-to-signal ratio that the network knows.
    fn least_level(&self) -> f64 {
        self.situation.schedule.ratio(0)
    }

    /// From above the noise level of y, whose noise is counted: down to it for the least error, as the network takes it out
    /// there, and where noise differs or detail is asked for to the end.
    fn denoise(&self, count: usize) -> StageSettings {
        let most = self.situation.uneven.map_or(self.noise_in_image(), |noise| noise.most.0);
        let first = self.situation.timestep(2.5 * most);
        let last = if self.aim == 0.0 { self.noise_timestep() } else { 0 };
        let eta = OPPOSED_FRESH;
        let guidance = self.situation.proximal(Trust::Ddnm { eta }, true);
        let stage = self.stage(Start::Estimate, first, count, OPPOSED, EpsAfterGuidance::Keep);
        StageSettings { levels: Levels::Powers { first, last, count, power: 2 }, guidance, ..stage }
    }

    /// From what y decides, with opposed noise.
    fn coarse(&self, count: usize) -> StageSettings {
        let first = self.situation.timestep(COARSE);
        let stage = self.stage(Start::Estimate, first, count, OPPOSED, EpsAfterGuidance::Rederive);
        if self.counts_noise() {
            return StageSettings { guidance: self.situation.proximal(self.trust(TRUST_AT_FIRST), true), ..stage };
        }
        stage
    }

    /// From noise, with opposed noise.
    fn whole(&self, count: usize) -> StageSettings {
        let first = self.situation.last_timestep();
        let trust = match self.counts_as_measured() {
            true => Trust::Ddnm { eta: OPPOSED_FRESH },
            false => self.trust(TRUST),
        };
        StageSettings {
            levels: Levels::Powers { first, last: self.noise_timestep(), count, power: 3 },
            guidance: self.situation.proximal(trust, true),
            ..self.stage(Start::Noise, first, count, OPPOSED, EpsAfterGuidance::Rederive)
        }
    }

    /// Whether y has noise that the network knows where it is a part of the image, or of its colours, which is counted value
    /// by value.
    fn counts_as_measured(&self) -> bool {
        self.situation.sigma.0 > self.least_level() && self.situation.has_spectrum()
    }

    /// Whether y is an image with noise of which a pixel is missing here and there, such as the dead ones of a sensor.
    fn is_all_but_whole(&self) -> bool {
        let observed = self.situation.operator.observed().unwrap_or_default();
        let missing = observed.iter().filter(|seen| !**seen).count();
        self.counts_as_measured() && !self.holes && (missing as f64) < FEW * observed.len() as f64
    }

    /// The noise of y in an image of which y says something: more where y is a mean of channels.
    fn noise_in_image(&self) -> f64 {
        let largest = self.situation.operator.exact_gram().map_or(1.0, |gram| gram.largest());
        self.situation.sigma.0 / largest.sqrt()
    }

    /// The timestep at which the network takes out what noise y has, if it is counted and alike everywhere, else 0: the least
    /// with as much noise as y; where it has more in the image, with as much as the geometric mean of the two. The network
    /// knows noise that differs between channels, and takes out more than that of y at its level.
    fn noise_timestep(&self) -> u16 {
        if self.situation.uneven.is_some() || !self.counts_as_measured() {
            return 0;
        }
        let sigma = (self.situation.sigma.0 * self.noise_in_image()).sqrt();
        let t = self.situation.timestep(sigma);
        let is_below = self.situation.schedule.ratio(usize::from(t)) < sigma;
        (t + u16::from(is_below)).min(self.situation.last_timestep())
    }

    /// From noise, with as much fresh noise as DDPM's.
    fn sampled(&self, count: usize) -> StageSettings {
        let first = self.situation.last_timestep();
        let stage = self.stage(Start::Noise, first, count, Mixture::Ddim(1.0), EpsAfterGuidance::Keep);
        StageSettings { levels: Levels::Powers { first, last: 0, count, power: 1 }, ..stage }
    }

    /// From noise, by the gradient of y's likelihood through the network. An adapted network knows which shapes there are,
    /// such as letters; y decides among them, which no step that leaves the network out can do. It costs about three times
    /// as much as another step, and has no advantage with the weights of a prior for photographs.
    fn by_gradient(&self, count: usize) -> StageSettings {
        StageSettings {
            start: Start::Noise,
            levels: Levels::Powers { first: self.situation.last_timestep(), last: 0, count, power: 1 },
            clip_x0: self.clip_x0,
            sampler: SamplerSettings::FewStep { eta: 1.0, eps_after_guidance: EpsAfterGuidance::Keep },
            guidance: GuidanceSettings::Pigdm(PigdmConfig { sigma: self.situation.solver_sigma() }),
        }
    }

    /// A sample of what is finer than the noise it starts from.
    fn detail(&self, count: usize, range: [f64; 2]) -> StageSettings {
        let [least, most] = range.map(f64::ln);
        let first = self.situation.timestep((least + self.aim * (most - least)).exp());
        let noisy = self.situation.solver_sigma() > 0.0;
        let counted = match noisy {
            true if self.situation.has_spectrum() => Some(Trust::Ddnm { eta: ETA }),
            true if self.situation.is_part() => Some(Trust::NextLevel { factor: OF_PART }),
            _ => None,
        };
        if let Some(trust) = counted {
            // The detail of an adapted network is a sample, not a mean: there are letters to choose from.
            if self.aim == 0.0 && self.situation.hint == Hint::Blurs && !self.situation.adapted {
                let stage = self.stage(Start::Estimate, first, count, OPPOSED, EpsAfterGuidance::Keep);
                // Nothing of y comes after the last step: where A keeps detail, its noise would come back with it.
                if self.has_more_than_rounding() && self.situation.uneven.is_none() {
                    let trust = Trust::NextLevel { factor: self.share * OF_BLUR };
                    return StageSettings { guidance: self.situation.proximal(trust, true), ..stage };
                }
                return stage;
            }
            let stage = self.stage(Start::Estimate, first, count, Mixture::Fresh(ETA), EpsAfterGuidance::Keep);
            return StageSettings { guidance: self.situation.proximal(trust, true), ..stage };
        }
        let (mixture, eps) = match noisy {
            true => (Mixture::Fresh(0.95), EpsAfterGuidance::Rederive),
            false => (Mixture::Ddim(1.0), EpsAfterGuidance::Keep),
        };
        let stage = self.stage(Start::Estimate, first, count, mixture, eps);
        if noisy && !self.situation.is_linear && self.situation.hint == Hint::Blurs {
            return StageSettings { guidance: self.situation.proximal(TRUST_IN_LIGHT, true), ..stage };
        }
        stage
    }
}

/// Whether an unobserved pixel is [`HOLE`] steps or more away from the nearest observed one.
fn has_holes(operator: &dyn LinearOperator) -> bool {
    let (Some(observed), ImageShape { height, width, .. }) = (operator.observed(), operator.range()) else {
        return false;
    };
    let mut reached: Vec<bool> = observed.to_vec();
    for _ in 1..HOLE {
        let before = reached.clone();
        for (i, reached) in reached.iter_mut().enumerate() {
            let (row, column) = (i / width, i % width);
            *reached |= (row > 0 && before[i - width])
                || (row + 1 < height && before[i + width])
                || (column > 0 && before[i - 1])
                || (column + 1 < width && before[i + 1]);
        }
    }
    reached.contains(&false)
}
