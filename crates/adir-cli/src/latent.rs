//! What the commands for latent diffusion models share.

use std::path::Path;
use std::time::Instant;

use adir::engine::{Engine, LatentRequest};
use adir::latent::Solver;
use adir::{Error, Result};
use clap::{Args, ValueEnum};

use crate::log::Log;

/// The sampler of a latent diffusion model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sampler {
    /// DDIM; with --eta it adds fresh noise
    Ddim,
    /// DPM-Solver++ of second order: about as good in a third of the steps
    Dpm,
}

/// How to sample with a latent diffusion model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stable Diffusion")]
pub struct LatentArgs {
    /// What the result should not show
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
    /// How strongly the prompt counts, 1 to 100; above 1 each step takes two passes of the network, unless there is no
    /// prompt [default: 9 for sr4, 7.5 for edit]
    #[arg(long, value_name = "SCALE")]
    pub guidance_scale: Option<f64>,
    /// How the sampler goes down the noise levels [default: ddim]
    #[arg(long, value_enum, value_name = "SAMPLER")]
    pub sampler: Option<Sampler>,
}

impl LatentArgs {
    /// The options that were given.
    fn given(&self) -> Option<&'static str> {
        [
            (self.negative_prompt.is_some(), "--negative-prompt"),
            (self.guidance_scale.is_some(), "--guidance-scale"),
            (self.sampler.is_some(), "--sampler"),
        ]
        .into_iter()
        .find_map(|(given, option)| given.then_some(option))
    }

    /// `request` sampled so, in `steps` where these are given.
    pub fn applied(&self, request: LatentRequest, steps: Option<&str>, eta: Option<f64>) -> Result<LatentRequest> {
        let mut request = request;
        request.negative_prompt = self.negative_prompt.clone().unwrap_or_default();
        let sampling = &mut request.sampling;
        if let Some(scale) = self.guidance_scale {
            sampling.scale = scale;
        }
        sampling.solver = match (self.sampler.unwrap_or(Sampler::Ddim), eta) {
            (Sampler::Ddim, eta) => Solver::Ddim { eta: eta.unwrap_or(0.0) },
            (Sampler::Dpm, None) => Solver::Dpm,
            (Sampler::Dpm, Some(_)) => return Err(Error::config("--eta has no effect with --sampler dpm")),
        };
        if let Some(steps) = steps {
            let number = steps.parse().map_err(|_| Error::config(format!("--steps {steps}: expected a whole number")));
            sampling.steps = number?;
        }
        Ok(request)
    }
}

/// What the x4 upscaler can do besides.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stable Diffusion")]
pub struct UpscalerArgs {
    #[command(flatten)]
    pub common: LatentArgs,
    /// Level of the noise that the x4 upscaler adds to the observation, 0 to 350: the higher, the more it invents
    /// [default: 20]
    #[arg(long, value_name = "LEVEL")]
    pub noise_level: Option<usize>,
    /// Move the result of the x4 upscaler to the nearest image that agrees with the observation
    #[arg(long)]
    pub match_observation: bool,
    /// Take the coarse colours of the x4 upscaler's result from the observation
    #[arg(long)]
    pub match_colours: bool,
}

impl UpscalerArgs {
    /// Refuses them for other models.
    pub fn refuse(&self) -> Result<()> {
        let own = [
            (self.noise_level.is_some(), "--noise-level"),
            (self.match_observation, "--match-observation"),
            (self.match_colours, "--match-colours"),
        ];
        let given = own.into_iter().find_map(|(given, option)| given.then_some(option)).or(self.common.given());
        given.map_or(Ok(()), |option| {
            Err(Error::config(format!(
                "{option} is for Stable Diffusion's x4 upscaler (--model FOLDER), not for this model"
            )))
        })
    }
}

/// Carries out a latent request, or explains it.
pub fn run(
    engine: &Engine,
    request: &LatentRequest,
    output: &Path,
    explain: bool,
    seed_drawn: bool,
    log: &Log,
) -> Result<u8> {
    let started = Instant::now();
    let plan = engine.plan_latent(request)?;
    if explain {
        plan.warnings().iter().for_each(|warning| log.warn(warning));
        say!("{plan}")?;
        return Ok(crate::exit::DONE);
    }
    if seed_drawn {
        log.info(&format!("seed {}", request.seed));
    }
    plan.to_string().lines().for_each(|line| log.detail(line));
    let watcher = log.watcher();
    let restored = engine.run_latent(&plan, &|event| watcher.see(event));
    watcher.finish();
    if matches!(restored, Err(Error::Interrupted)) {
        let goes_on = if watcher.kept() { "goes on from here" } else { "begins anew" };
        log.warn(&format!("stopped: no result is written; the same command {goes_on}"));
    }
    let mut restored = restored?;
    restored.save(&plan)?;
    let seconds = started.elapsed().as_secs_f64();
    let agreement = restored.record.agreement_psnr.map(|found| format!(", agrees with the observation to {found}"));
    log.info(&format!("{}: {seconds:.1} s{}", output.display(), agreement.unwrap_or_default()));
    Ok(crate::exit::DONE)
}
