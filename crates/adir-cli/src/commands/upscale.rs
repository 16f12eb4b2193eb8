//! `adir restore --task sr4` by a latent diffusion model: Stable Diffusion's x4 upscaler, or latent diffusion's own.

use adir::engine::{LatentRequest, LatentTask, OutputRequest};
use adir::models::stable_diffusion::{LatentFiles, Purpose};
use adir::task::Task;
use adir::{Error, Result};

use super::restore::{RestoreArgs, SamplingArgs};
use super::restore_folder;
use crate::adaptation::{AdaptSettings, Mode};
use crate::args::{DegradationArgs, MeasuredArgs};
use crate::latent::{self, LatentAdaptArgs, Query};
use crate::log::Log;
use crate::pipe;

/// What [`RestoreArgs::other_settings`] are called.
const OTHER_SETTINGS: &str = "of the adaptation's options --closer-than, --gallery-tiles, --adapt-strength, \
                              --adapt-p2-gamma, --adapt-p2-k, --recompute and --adapt-micro-batch";

impl RestoreArgs {
    /// The settings of an adaptation that a latent diffusion model has not.
    fn other_settings(&self) -> AdaptSettings {
        AdaptSettings {
            encoder: None,
            neighbours: None,
            iterations: None,
            adapt_minutes: None,
            adapt_rate: None,
            adapt_crop: None,
            adapt_batch: None,
            adapt_ema: None,
            adapt_seed: None,
            ..self.adaptation.settings.clone()
        }
    }

    /// The adaptation of a latent diffusion model.
    fn latent_adaptation(&self) -> LatentAdaptArgs {
        let (args, settings) = (&self.adaptation, &self.adaptation.settings);
        let adapt = match args.adapt {
            Some(Mode::Gallery) => Some(Query::Gallery),
            Some(Mode::Text) => Some(Query::Text),
            Some(Mode::Auto) => Some(Query::Auto),
            Some(Mode::Itself | Mode::None) | None => None,
        };
        LatentAdaptArgs {
            gallery: args.gallery.clone().filter(|_| args.adapt != Some(Mode::None)),
            adapt,
            encoder: settings.encoder.clone(),
            neighbours: settings.neighbours,
            iterations: settings.iterations,
            adapt_minutes: settings.adapt_minutes,
            lora: args.lora,
            full: args.full,
            adapt_attention: self.upscaler.adapt_attention,
            adapt_rate: settings.adapt_rate,
            adapt_crop: settings.adapt_crop,
            adapt_batch: settings.adapt_batch,
            adapt_ema: settings.adapt_ema,
            adapt_seed: settings.adapt_seed,
            adapter: self.adapter.clone(),
            save_adapter: self.upscaler.save_adapter.clone(),
        }
    }

    /// Refuses what the x4 upscaler of Stable Diffusion does not do.
    fn check_for_upscaler(&self) -> Result<()> {
        let sampling = &self.sampling;
        if self.degradation.task != (Task::SuperResolution { factor: 4 }) {
            return Err(Error::config(format!("this model does --task sr4, not {}", self.degradation.task)));
        }
        let degradation = DegradationArgs {
            task: self.degradation.task,
            kernel: None,
            kernel_centre: None,
            boundary: None,
            mask: None,
            sigma: None,
            gain: None,
            linear_light: false,
        };
        let same_sampling = SamplingArgs {
            steps: sampling.steps.clone(),
            seed: sampling.seed,
            samples: sampling.samples,
            tile: sampling.tile,
            eta: sampling.eta,
            preset: sampling.preset,
            aim: None,
            class: None,
            strength: None,
            method: None,
            zeta: None,
            residual: None,
            adjoint: None,
            cap: None,
            data_step: None,
            clip: None,
            eps_after_guidance: None,
        };
        for (given, what) in [
            (self.degradation != degradation, "a degradation other than that of sr4"),
            (self.measured != MeasuredArgs::default(), "--ignore and --saturated"),
            (
                *sampling != same_sampling,
                "of the sampling options more than --preset, --steps, --eta, --seed, --samples and --tile",
            ),
            (matches!(self.adaptation.adapt, Some(Mode::Itself)), "--adapt self"),
            (self.other_settings() != AdaptSettings::default(), OTHER_SETTINGS),
            (self.adaptation.query.is_some(), "--query"),
            (self.adaptation.remote.given().is_some(), "a gallery on a server"),
            (self.keep_margin, "--keep-margin"),
            (self.model.model_config.is_some(), "--model-config"),
        ] {
            if given {
                return Err(Error::config(format!("an upscaler in latents does not take {what}")));
            }
        }
        for path in [self.input()?, &self.output] {
            if pipe::is_pipe(path) {
                return Err(Error::config("an upscaler in latents takes files and folders, not - for a pipe"));
            }
        }
        Ok(())
    }
}

/// The request that the arguments make of a model for that purpose.
fn request(args: &RestoreArgs, purpose: Purpose) -> Result<LatentRequest> {
    let (input, path) = (args.input()?, args.model.model.clone().unwrap_or_default());
    let request = match purpose {
        Purpose::SuperResolution => LatentRequest::super_resolution(input, path),
        _ => LatentRequest::upscale(input, path),
    };
    let mut request = args.upscaler.common.applied(
        request,
        args.sampling.preset,
        args.sampling.steps.as_deref(),
        args.sampling.eta,
    )?;
    if let LatentTask::Upscale { noise_level, agree, colours } = &mut request.task {
        *noise_level = args.upscaler.noise_level.or(*noise_level);
        (*agree, *colours) = (args.upscaler.match_observation, args.upscaler.match_colours);
    }
    request.reading = args.read.reading(args.one_page())?;
    request.prompt = args.adaptation.prompt.clone().unwrap_or_default();
    request.seed = args.sampling.seed.value;
    request.samples = args.sampling.samples;
    request.tile = args.sampling.tile;
    let mut output = OutputRequest::new(&args.output, args.overwrite);
    output.record.clone_from(&args.record);
    output.report.clone_from(&args.report);
    request.output = Some(output);
    args.latent_adaptation().applied(request)
}

/// Super-resolution by the model in `files`.
pub(super) fn run(args: &RestoreArgs, files: LatentFiles, log: &Log) -> Result<u8> {
    args.check_for_upscaler()?;
    if args.makes_folder()? {
        return restore_folder::run(args, || Ok(request(args, files.purpose())?.into()), log);
    }
    if args.every_page() {
        return Err(Error::config(
            "of --page all, an upscaler in latents makes a file a page: name a folder as output",
        ));
    }
    args.folder.refuse_for_a_file(args)?;
    let request = request(args, files.purpose())?;
    let engine = args.engine().build()?;
    latent::run(&engine, files, &request, args.explain, args.sampling.seed.drawn, log)
}
