//! `adir restore`: x from y.

use std::path::{Path, PathBuf};

use adir::engine::{OutputRequest, Request};
use adir::guidance::{Adjoint, DataStep, Residual, Strength};
use adir::sampler::EpsAfterGuidance;
use adir::task::{Method, Overrides, Preset, Task};
use adir::{Error, Result};
use clap::Args;

use super::restore_folder::{self, FolderArgs};
use crate::adaptation::AdaptArgs;
use crate::args::{DegradationArgs, MeasuredArgs, ReadArgs, preset, share, words};
use crate::log::Log;
use crate::model::ModelArgs;
use crate::seed::Seed;

/// Restore an image x from its degraded observation y = A x + e, or all images of a folder.
///
/// If INPUT is a folder, its images and those in its folders are restored, each as it would be alone, and the results get
/// their names below OUTPUT. A file that cannot be restored stops nothing: it is named at the end, and the exit code is 1.
/// Finished files are left alone, so that the same command goes on after an interruption. With --gallery, observations
/// with the same nearest images share an adaptation. Manifests in OUTPUT say what became of each file; `adir merge` joins
/// those of several shards.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The observation y, or a folder of observations
    #[arg(required_unless_present = "input_option", conflicts_with = "input_option")]
    input: Option<PathBuf>,
    /// The observation y, given as an option
    #[arg(short = 'i', long = "input", value_name = "INPUT")]
    input_option: Option<PathBuf>,
    /// Where to write x (.png, .tif, .jpg, .webp), or the folder for the results of a folder; a record of settings and
    /// measurements is written beside each (x.png.json)
    #[arg(short, long)]
    pub(super) output: PathBuf,
    /// Page of a TIFF stack or frame of an animation to restore, from 1 [default: 1, with a warning if there are more]
    #[arg(long, value_name = "N")]
    page: Option<usize>,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    degradation: DegradationArgs,
    #[command(flatten)]
    measured: MeasuredArgs,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    #[command(flatten)]
    pub(super) adaptation: AdaptArgs,
    /// Sample with this adapter: a file, a folder, or a name or key shown by `adir adapt list`. If several match, the
    /// one made for this observation is used. With --gallery, low-rank factors trained on the nearest images refine it
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<PathBuf>,
    /// Keep the margin around the observation that a blur with the boundary valid saw; by default the result has the
    /// size of the observation
    #[arg(long)]
    keep_margin: bool,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    /// Replace existing outputs; of a folder, those that are not finished
    #[arg(long)]
    pub(super) overwrite: bool,
    /// Check the request, print every setting with its source and the memory needed, and stop
    #[arg(long, visible_alias = "plan")]
    pub(super) explain: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct SamplingArgs {
    /// Preset: fast (the method staged, about 20 network evaluations), or paper (settings of the paper's Table 4: 1000
    /// ancestral steps)
    #[arg(long, default_value = "fast", value_parser = preset())]
    preset: Preset,
    /// What the result should be: faithful (nearest to the truth in every pixel, and smooth), detailed (one of the
    /// likely images, as sharp as the truth), balanced, or a number from 0 (faithful) to 1 (detailed) [default: faithful; detailed for
    /// large holes and lost colours]
    #[arg(long, value_name = "AIM", value_parser = aim)]
    aim: Option<f64>,
    /// Network evaluations per sample. Methods of one pass also take a,b,c (steps per section) and ddimN (constant
    /// stride)
    #[arg(long, value_name = "N")]
    steps: Option<String>,
    /// Random seed; -1 draws one, which the record holds
    #[arg(long, default_value_t)]
    pub(super) seed: Seed,
    /// Number of samples. With more than one, the output is their mean, and the samples are written beside it as
    /// x.1.png, x.2.png ...
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    samples: usize,
    /// Class label, for a class-conditional network
    #[arg(long)]
    class: Option<usize>,
    /// Guidance strength s, or "projection" for noise-free observations (s = infinity); the step of dps
    #[arg(short = 's', long = "scale", value_name = "S", value_parser = strength)]
    strength: Option<Strength>,
    /// Sampler: staged (an estimate with opposed noise, then detail as --aim asks), few-step (the paper's guidance with
    /// DDIM), ancestral (the paper's Algorithm 1), or a published solver with its published settings: ddnm, ddrm, diffpir,
    /// dps and pigdm (by gradients through the network: slow), daps (1000 network evaluations)
    #[arg(long, value_parser = words::<Method>(Method::ALL.map(Method::name)))]
    method: Option<Method>,
    /// Fresh noise per step of few-step, ddnm, ddrm and pigdm, 0 to 1
    #[arg(long)]
    eta: Option<f64>,
    /// Fresh share of the noise variance in diffpir, 0 to 1
    #[arg(long)]
    zeta: Option<f64>,
    /// Residual used by the ancestral sampler: paper (A mu - y_t (Eq. 16-17)), or consistent (without its bias, for
    /// fewer steps)
    #[arg(long, value_parser = words::<Residual>(&["paper", "consistent"]))]
    residual: Option<Residual>,
    /// A*: normalized (A^T over the largest eigenvalue of A^T A), or strict (A^T)
    #[arg(long, value_parser = words::<Adjoint>(&["normalized", "strict"]))]
    adjoint: Option<Adjoint>,
    /// Limit each ancestral correction to that of a projection
    #[arg(long)]
    cap: Option<bool>,
    /// How the few-step sampler moves the x0 estimate towards A x = y: gradient (a step along the gradient of the
    /// misfit,
    /// Eq. 17), or proximal (to the minimum of misfit and distance, by conjugate gradients: for blurs)
    #[arg(long, value_parser = words::<DataStep>(&["gradient", "proximal"]))]
    data_step: Option<DataStep>,
    /// Clip the x0 estimate to the range from black to white
    #[arg(long)]
    clip: Option<bool>,
    /// The eps that the few-step form continues with after guidance: keep (the predicted one), or rederive (the one that
    /// fits the corrected x0)
    #[arg(long, value_parser = words::<EpsAfterGuidance>(&["keep", "rederive"]))]
    eps_after_guidance: Option<EpsAfterGuidance>,
}

fn aim(text: &str) -> Result<f64, String> {
    match text {
        "faithful" => Ok(0.0),
        "balanced" => Ok(0.5),
        "detailed" => Ok(1.0),
        _ => share(text).map_err(|_| "expected faithful, balanced, detailed, or 0 to 1".into()),
    }
}

fn strength(text: &str) -> Result<Strength, String> {
    match text {
        "projection" | "inf" => Ok(Strength::Projection),
        _ => text.parse().map(Strength::Scale).map_err(|_| "expected a number or \"projection\"".into()),
    }
}

impl SamplingArgs {
    /// Refuses the factor of the task as a strength: other programs call it -s.
    fn check_strength(&self, task: Task) -> Result<()> {
        match (self.strength, task) {
            (Some(Strength::Scale(s)), Task::SuperResolution { factor })
                if self.preset == Preset::Fast && self.method.is_none() && s == factor as f64 =>
            {
                Err(Error::config(format!(
                    "-s {s} is the guidance strength, not the factor, which {task} says already: leave it out, or name a \
                     --method that takes a strength"
                )))
            }
            _ => Ok(()),
        }
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            method: self.method,
            steps: self.steps.clone(),
            strength: self.strength,
            residual: self.residual,
            adjoint: self.adjoint,
            cap: self.cap,
            data_step: self.data_step,
            clip_x0: self.clip,
            eta: self.eta,
            aim: self.aim,
            zeta: self.zeta,
            eps_after_guidance: self.eps_after_guidance,
        }
    }
}

impl RestoreArgs {
    /// The observation, or the folder of observations.
    pub(super) fn input(&self) -> Result<&Path> {
        let input = self.input.as_ref().or(self.input_option.as_ref());
        input.map(PathBuf::as_path).ok_or_else(|| Error::config("no input"))
    }

    /// Whether an interrupted training is kept.
    pub(super) fn keeps_training(&self) -> bool {
        let adaptation = &self.adaptation;
        (adaptation.gallery.is_some() || adaptation.adapt.is_some()) && !adaptation.no_cache
    }

    /// The request that the arguments make.
    pub(super) fn request(&self) -> Result<Request> {
        let input = self.input()?;
        let mut problem = self.measured.of(self.degradation.problem()?);
        problem.keep_margin = self.keep_margin;
        let sampling = &self.sampling;
        let mut request = Request::new(input, problem).preset(sampling.preset).seed(sampling.seed.value);
        request.reading = self.read.reading(self.page)?;
        request.sampling.samples = sampling.samples;
        request.sampling.class = sampling.class;
        request.sampling.overrides = sampling.overrides();
        sampling.check_strength(request.problem.task)?;
        request.adapt = match &self.adapter {
            Some(adapter) => Some(self.adaptation.refining(adapter, sampling.preset)?),
            None => self.adaptation.request(sampling.preset)?,
        };
        request.output = Some(OutputRequest::new(&self.output, self.overwrite));
        Ok(request)
    }
}

pub fn run(args: &RestoreArgs, log: &Log) -> Result<u8> {
    let started = std::time::Instant::now();
    if args.input()?.is_dir() {
        return restore_folder::run(args, log);
    }
    args.folder.refuse_for_a_file(args.input()?)?;
    let engine = args.adaptation.engine(args.model.engine()).build()?;
    let plan = engine.plan(&args.request()?)?;
    if args.explain {
        plan.warnings().iter().for_each(|warning| log.warn(warning));
        say!("{plan}")?;
        return Ok(crate::exit::DONE);
    }
    if args.sampling.seed.drawn {
        log.info(&format!("seed {}", args.sampling.seed));
    }
    for found in plan.restore().choices().iter().filter(|found| ["sigma", "saturated"].contains(&found.name.as_ref())) {
        log.info(&format!("{} {} ({})", found.name, found.value, found.source));
    }
    let watcher = log.watcher();
    let restored = engine.run(&plan, &|event| watcher.see(event));
    watcher.finish();
    if matches!(restored, Err(Error::Interrupted)) {
        let kept = if args.keeps_training() { "; a training goes on where it was" } else { "" };
        log.warn(&format!("stopped: nothing is written; the same command starts again{kept}"));
    }
    let mut restored = restored?;
    restored.save(&engine)?;
    log.info(&format!(
        "{}: {:.1} s, agrees with the observation to {}",
        args.output.display(),
        started.elapsed().as_secs_f64(),
        restored.record.agreement_psnr
    ));
    Ok(crate::exit::DONE)
}
