//! Published solvers beside the paper's and this project's, with their published settings.

use super::method::{Method, Overrides, Source};
use super::resolve::{Choices, Situation, count};
use super::settings::{GuidanceSettings, Levels, SamplerSettings, StageSettings};
use crate::guidance::{DpsConfig, PigdmConfig, Strength, Trust};
use crate::sampler::{EpsAfterGuidance, Mixture, Start};
use crate::schedule::Respacing;
use crate::{Error, Result};

/// DiffPIR's lambda = 7 as deepinv has it, where images are in [0, 1] and noise levels of the network in [-1, 1].
const DIFFPIR_LAMBDA: f64 = 3.5;
/// DDRM's eta_b.
const ETA_B: f64 = 1.0;
/// Noise-to-signal ratios between which DAPS anneals, the degree of their spacing, and the steps of a pass.
const DAPS_RATIOS: [f64; 2] = [100.0, 0.1];
const DAPS_POWER: i32 = 7;
const DAPS_PASS: usize = 5;

/// The one stage of every other method.
///
/// # Errors
/// [`Error::Config`] when a setting is out of range for the method.
pub(super) fn stages(
    method: Method,
    situation: &Situation<'_>,
    given: &Overrides,
    choices: &mut Choices,
) -> Result<Vec<StageSettings>> {
    let mut eta = |default: f64| choices.pick("eta", given.eta, default, Source::Preset, f64::to_string);
    let renoise = |mixture, eps_after_guidance| SamplerSettings::Renoise { mixture, eps_after_guidance };
    let (sampler, guidance) = match method {
        Method::Ddrm => {
            let eta = eta(0.85);
            let guidance = situation.proximal(Trust::Ddrm { eta, eta_b: ETA_B }, true);
            (renoise(Mixture::Fresh(eta), EpsAfterGuidance::Keep), guidance)
        }
        Method::Diffpir => {
            let zeta = choices.pick("zeta", given.zeta, 0.1, Source::Preset, f64::to_string);
            let guidance = situation.proximal(Trust::Annealed { lambda: DIFFPIR_LAMBDA }, false);
            (renoise(Mixture::Fresh(zeta.sqrt()), EpsAfterGuidance::Rederive), guidance)
        }
        Method::Dps => {
            let step = match given.strength {
                None => 1.0,
                Some(Strength::Scale(step)) => step,
                Some(Strength::Projection) => {
                    return Err(Error::config("DPS cannot project: give a finite --scale"));
                }
            };
            let step = choices.pick("step", given.strength.map(|_| step), step, Source::Preset, f64::to_string);
            (SamplerSettings::Ancestral, GuidanceSettings::Dps(DpsConfig { step }))
        }
        Method::Pigdm => {
            let sampler = SamplerSettings::FewStep { eta: eta(1.0), eps_after_guidance: EpsAfterGuidance::Keep };
            (sampler, GuidanceSettings::Pigdm(PigdmConfig { sigma: situation.solver_sigma() }))
        }
        Method::Daps => (SamplerSettings::Decoupled { steps: DAPS_PASS }, situation.proximal(Trust::Decoupled, false)),
        // DDNM, and what has stages of its own.
        _ => {
            let eta = eta(0.85);
            let guidance = situation.proximal(Trust::Ddnm { eta }, true);
            (renoise(Mixture::Fresh(eta), EpsAfterGuidance::Keep), guidance)
        }
    };
    let default = match method {
        Method::Ddrm => "ddim20",
        Method::Dps | Method::Daps => "1000",
        _ => "100",
    };
    let steps = choices.pick("steps", given.steps.clone(), default.to_owned(), Source::Preset, Clone::clone);
    let levels = match method {
        Method::Daps => {
            let [first, last] = DAPS_RATIOS;
            Levels::Ratios { first, last, count: (count(&steps)? / DAPS_PASS).max(1), power: DAPS_POWER }
        }
        Method::Diffpir if is_plain(&steps) => Levels::Roots { count: count(&steps)? },
        _ => Levels::Respaced(steps),
    };
    let (clip, source) = situation.clip(Source::Preset);
    let clip_x0 = choices.pick("clip", given.clip_x0, clip, source, bool::to_string);
    let start = if method == Method::Ddrm { Start::Observed } else { Start::Noise };
    Ok(vec![StageSettings { start, levels, clip_x0, sampler, guidance }])
}

/// Whether it is a number, and not guided-diffusion's other words.
fn is_plain(steps: &str) -> bool {
    matches!(steps.parse::<Respacing>(), Ok(Respacing::Sections(counts)) if counts.len() == 1)
}
