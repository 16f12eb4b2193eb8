//! `adir restore`: x from y.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use adir::engine::{EngineBuilder, OutputRequest, Record, Request};
use adir::guidance::{Adjoint, DataStep, Residual, Strength};
use adir::models::stable_diffusion::LatentFiles;
use adir::sampler::EpsAfterGuidance;
use adir::task::{Method, Overrides, Preset, Task};
use adir::{Error, Result};
use clap::Args;

use super::restore_folder::{self, FolderArgs};
use super::restore_pages;
use super::upscale;
use crate::adaptation::AdaptArgs;
use crate::args::{DegradationArgs, MeasuredArgs, ReadArgs, preset, share, words};
use crate::cost;
use crate::latent::UpscalerArgs;
use crate::log::Log;
use crate::model::ModelArgs;
use crate::pipe::{self, Scratch, is_pipe};
use crate::seed::Seed;
use adir_web::report::Report;

/// Restore an image x from its degraded observation y = A x + e, or all images of a folder.
///
/// If INPUT is a folder, its images and those in its subfolders are restored, each as it would be alone, and the
/// results get the same names below OUTPUT. A file that cannot be restored does not stop the others: it is named at the
/// end, and the exit code is 1. Finished files are left alone, so that the same command continues after an
/// interruption. With --gallery, observations with the same nearest images share an adaptation. Manifests in OUTPUT say
/// what became of each file; `adir merge` joins those of several shards.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The observation y, or a folder of observations; - reads y from stdin
    #[arg(required_unless_present = "input_option", conflicts_with = "input_option")]
    pub(super) input: Option<PathBuf>,
    /// The observation y, given as an option
    #[arg(short = 'i', long = "input", value_name = "INPUT")]
    input_option: Option<PathBuf>,
    /// Where to write x (.png, .tif, .jpg, .webp, .fits, .exr), or the folder for the results of a folder; a record of settings and
    /// measurements is written beside each (x.png.json). - writes a PNG to stdout, and a record only with --record
    #[arg(short, long)]
    pub(super) output: PathBuf,
    /// Where to write the record, in place of the file beside the result
    #[arg(long, value_name = "JSON")]
    pub(super) record: Option<PathBuf>,
    /// Write a page about the result: input and result to compare, agreement, bias, where samples differ, settings. It
    /// needs no other file
    #[arg(long, value_name = "HTML")]
    pub(super) report: Option<PathBuf>,
    /// Page of a TIFF stack, plane of a FITS file or frame of an animation to restore, from 1 [default: 1, with a
    /// warning if there are more]. With "all", every page is restored as it would be alone: into one file if OUTPUT
    /// ends in .tif or .fits (a cube of grey planes), else into a folder, with one file per page (a.p1.tif, a.p2.tif
    /// ...). A FITS cube of 3 planes is one RGB image without --page, and three pages with it
    #[arg(long, value_name = "N|all")]
    pub(super) page: Option<PageArg>,
    #[command(flatten)]
    pub(super) read: ReadArgs,
    #[command(flatten)]
    pub(super) degradation: DegradationArgs,
    #[command(flatten)]
    pub(super) measured: MeasuredArgs,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    #[command(flatten)]
    pub(super) adaptation: AdaptArgs,
    /// Sample with this adapter: a file, a folder, or a name or key shown by `adir adapt list`. If several match, the
    /// one made for this observation is used. With --gallery, low-rank factors trained on the nearest images refine it
    #[arg(long, value_name = "ADAPTER")]
    pub(super) adapter: Option<PathBuf>,
    /// Keep the margin around the observation that a blur with the boundary valid saw; by default the result has the
    /// size of the observation
    #[arg(long)]
    pub(super) keep_margin: bool,
    /// Shortest time in seconds between two writes of the run's state to the cache. After a kill at any moment, the
    /// same command continues from the last state. Writing takes at most a twentieth of the time [default: 5]
    #[arg(long, value_name = "SECONDS", value_parser = crate::time::seconds)]
    checkpoint_seconds: Option<Duration>,
    #[command(flatten)]
    pub(super) upscaler: UpscalerArgs,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    /// Replace existing outputs; of a folder, those that are not finished
    #[arg(long)]
    pub(super) overwrite: bool,
    /// Check the request, print every setting with its source, memory and time, and stop. For a folder, print the plan
    /// of the first file, and the memory and time of all files
    #[arg(long, visible_alias = "plan")]
    pub(super) explain: bool,
}

/// What `--page` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageArg {
    One(usize),
    All,
}

impl FromStr for PageArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::One).map_err(|_| Error::config("expected the number of a page, or all")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Args)]
pub(super) struct SamplingArgs {
    /// Preset: fast (the method staged, about 20 network evaluations), or paper (settings of the paper's Table 4: 1000
    /// ancestral steps; with Stable Diffusion's x4 upscaler 500 of DDIM)
    #[arg(long, default_value = "fast", value_parser = preset())]
    pub(super) preset: Preset,
    /// What the result should be: faithful (nearest to the truth in every pixel, and smooth), detailed (one of the
    /// likely images, as sharp as the truth), balanced, or a number from 0 (faithful) to 1 (detailed) [default: faithful; detailed for
    /// large holes and lost colours]
    #[arg(long, value_name = "AIM", value_parser = aim)]
    pub(super) aim: Option<f64>,
    /// Steps per sample, each an evaluation of the network; two at the same noise level are one. Methods of one pass also
    /// take a,b,c (steps per section) and ddimN (constant stride)
    #[arg(long, value_name = "N")]
    pub(super) steps: Option<String>,
    /// Random seed; -1 draws one, which the record holds
    #[arg(long, default_value_t)]
    pub(super) seed: Seed,
    /// Number of samples. With more than one, the output is their mean; the samples are written beside it as
    /// x.1.png, x.2.png ..., and where they differ as x.std.png (standard deviation in 1/256 of a grey level) and
    /// x.heat.png
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    pub(super) samples: usize,
    /// Class label, for a class-conditional network
    #[arg(long)]
    pub(super) class: Option<usize>,
    /// Sample in tiles of at most this many pixels a side, overlapping and blended at every step; the whole image if that is
    /// no larger [default: the whole image up to 768x768 pixels, else 512, or less where the memory does not suffice]
    #[arg(long, value_name = "PIXELS")]
    pub(super) tile: Option<usize>,
    /// Guidance strength s, or "projection" for noise-free observations (s = infinity); the step of dps
    #[arg(short = 's', long = "scale", value_name = "S", value_parser = strength)]
    pub(super) strength: Option<Strength>,
    /// Sampler: staged (an estimate with opposed noise, then detail as --aim asks), few-step (the paper's guidance with
    /// DDIM), ancestral (the paper's Algorithm 1), or a published solver with its published settings: ddnm, ddrm, diffpir,
    /// dps and pigdm (by gradients through the network: slow), daps (1000 network evaluations)
    #[arg(long, value_parser = words::<Method>(Method::ALL.map(Method::name)))]
    pub(super) method: Option<Method>,
    /// Fresh noise per step of few-step, ddnm, ddrm and pigdm, 0 to 1
    #[arg(long)]
    pub(super) eta: Option<f64>,
    /// Fresh share of the noise variance in diffpir, 0 to 1
    #[arg(long)]
    pub(super) zeta: Option<f64>,
    /// Residual used by the ancestral sampler: paper (A mu - y_t (Eq. 16-17)), or consistent (without its bias, for
    /// fewer steps)
    #[arg(long, value_parser = words::<Residual>(&["paper", "consistent"]))]
    pub(super) residual: Option<Residual>,
    /// A*: normalized (A^T over the largest eigenvalue of A^T A), or strict (A^T)
    #[arg(long, value_parser = words::<Adjoint>(&["normalized", "strict"]))]
    pub(super) adjoint: Option<Adjoint>,
    /// Limit each ancestral correction to that of a projection
    #[arg(long)]
    pub(super) cap: Option<bool>,
    /// How the few-step sampler moves the x0 estimate towards A x = y: gradient (a step along the gradient of the
    /// misfit,
    /// Eq. 17), or proximal (to the minimum of misfit and distance, by conjugate gradients: for blurs)
    #[arg(long, value_parser = words::<DataStep>(&["gradient", "proximal"]))]
    pub(super) data_step: Option<DataStep>,
    /// Clip the x0 estimate to the range from black to white
    #[arg(long)]
    pub(super) clip: Option<bool>,
    /// The eps that the few-step form continues with after guidance: keep (the predicted one), or rederive (the one that
    /// fits the corrected x0)
    #[arg(long, value_parser = words::<EpsAfterGuidance>(&["keep", "rederive"]))]
    pub(super) eps_after_guidance: Option<EpsAfterGuidance>,
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

    /// What the same command does after it was stopped, if the state was `kept` or not.
    fn how_to_go_on(&self, kept: bool) -> String {
        match (kept, self.adaptation.no_cache, self.sampling.seed) {
            (true, _, seed) if seed.drawn => format!("with --seed {seed} goes on from here"),
            (true, ..) => "goes on from here".into(),
            (false, true, _) => "begins anew: with --no-cache nothing is kept".into(),
            (false, false, _) => "begins anew".into(),
        }
    }

    /// An engine for the command.
    pub(super) fn engine(&self) -> EngineBuilder {
        let engine = self.adaptation.engine(self.model.engine());
        match self.checkpoint_seconds {
            Some(time) => engine.state_every(time),
            None => engine,
        }
    }

    /// The page that was asked for, if it is one.
    pub(super) fn one_page(&self) -> Option<usize> {
        match self.page {
            Some(PageArg::One(page)) => Some(page),
            Some(PageArg::All) | None => None,
        }
    }

    /// Whether every page is an observation.
    pub(super) fn every_page(&self) -> bool {
        self.page == Some(PageArg::All)
    }

    /// Whether there are several observations, whose results go into a folder: those of a folder, or the pages of a file.
    pub(super) fn makes_folder(&self) -> Result<bool> {
        let input = self.input()?;
        if self.every_page() && is_pipe(input) {
            return Err(Error::config("--page all takes a file or a folder, not - for a pipe"));
        }
        Ok(input.is_dir() || self.every_page() && !restore_pages::is_stack(&self.output))
    }

    /// Refuses options whose files are one for each observation.
    pub(super) fn check_for_folder(&self) -> Result<()> {
        let several = if self.input()?.is_dir() { "the input is a folder" } else { "every page has its own" };
        for (given, option) in [(self.record.is_some(), "--record"), (self.report.is_some(), "--report")] {
            if given {
                return Err(Error::config(format!("{option} names one file, but {several}")));
            }
        }
        Ok(())
    }

    /// The request that the arguments make, writing the result to `output`.
    pub(super) fn request(&self, output: &Path) -> Result<Request> {
        let input = self.input()?;
        let mut problem = self.measured.of(self.degradation.problem()?);
        if self.keep_margin && self.degradation.kernel.is_none() {
            return Err(Error::config("--keep-margin has no effect without --kernel: only a blur sees a margin"));
        }
        problem.keep_margin = self.keep_margin;
        let sampling = &self.sampling;
        let observation = if input.is_dir() { input.into() } else { pipe::observation(input)? };
        let mut request = Request::new(observation, problem).preset(sampling.preset).seed(sampling.seed.value);
        request.reading = self.read.reading(self.one_page())?;
        request.sampling.samples = sampling.samples;
        request.sampling.class = sampling.class;
        request.sampling.tile = sampling.tile;
        request.sampling.overrides = sampling.overrides();
        sampling.check_strength(request.problem.task)?;
        request.adapt = match &self.adapter {
            Some(adapter) => Some(self.adaptation.refining(adapter, sampling.preset)?),
            None => self.adaptation.request(sampling.preset)?,
        };
        let mut asked = OutputRequest::new(output, self.overwrite);
        asked.record.clone_from(&self.record);
        asked.report.clone_from(&self.report);
        request.output = Some(asked);
        Ok(request)
    }
}

/// Refuses what stdout cannot hold.
fn check_pipe(args: &RestoreArgs) -> Result<()> {
    if args.sampling.samples > 1 {
        return Err(Error::config("-o - holds one picture, several samples are several files: give -o FILE"));
    }
    if args.explain { Ok(()) } else { pipe::check_stdout() }
}

pub fn run(args: &RestoreArgs, log: &Log) -> Result<u8> {
    let started = std::time::Instant::now();
    let averaged = args.upscaler.common.ema;
    if let Some(model) = &args.model.model
        && let Some(files) = LatentFiles::recognised(model, averaged)?
    {
        return upscale::run(args, files, log);
    }
    args.upscaler.refuse()?;
    if args.makes_folder()? {
        return restore_folder::run(args, || Ok(args.request(&args.output)?.into()), log);
    }
    args.folder.refuse_for_a_file(args)?;
    if args.every_page() {
        return restore_pages::run(args, log);
    }
    let to_stdout = pipe::is_pipe(&args.output);
    let scratch = match to_stdout {
        true => Some(check_pipe(args).and_then(|()| Scratch::new())?),
        false => None,
    };
    let output = scratch.as_ref().map_or(args.output.clone(), |scratch| scratch.file("stdout.png"));
    let engine = args.engine().build()?;
    let plan = engine.plan(&args.request(&output)?)?;
    if args.explain {
        plan.warnings().iter().for_each(|warning| log.warn(warning));
        say!("{plan}")?;
        cost::say_indexing(&engine, plan.gallery())?;
        cost::say_time(engine.speed()?, plan.products(), plan.training_products(), plan.adaptation_minutes())?;
        return Ok(crate::exit::DONE);
    }
    if args.sampling.seed.drawn {
        log.info(&format!("seed {}", args.sampling.seed));
    }
    const TOLD: [&str; 3] = ["sigma", "saturated", "beyond white"];
    for found in plan.restore().choices().iter().filter(|found| TOLD.contains(&found.name.as_ref())) {
        log.info(&format!("{} {} ({})", found.name, found.value, found.source));
    }
    plan.to_string().lines().for_each(|line| log.detail(line));
    let watcher = log.watcher();
    let restored = engine.run(&plan, &|event| watcher.see(event));
    watcher.finish();
    if matches!(restored, Err(Error::Interrupted)) {
        log.warn(&format!("stopped: no result is written; the same command {}", args.how_to_go_on(watcher.kept())));
    }
    let mut restored = restored?;
    restored.save(&engine)?;
    let name = if to_stdout { "<stdout>".into() } else { args.output.display().to_string() };
    if to_stdout {
        forget_place(&mut restored.record);
        args.record.as_ref().map_or(Ok(()), |record| restored.record.write(record))?;
    }
    let findings = restored.findings()?;
    if let Some(path) = &args.report {
        let warnings = watcher.warnings();
        Report { plan: &plan, restored: &restored, findings: &findings, warnings: &warnings, name: &name }
            .write(path)?;
    }
    if to_stdout {
        pipe::to_stdout(&output)?;
    }
    let seconds = restored.record.seconds;
    log.detail(&format!("{:.1} s to load and adapt, {:.1} s to sample", seconds.load_and_adapt, seconds.sample));
    log.info(&format!(
        "{name}: {:.1} s, agrees with the observation to {}",
        started.elapsed().as_secs_f64(),
        restored.record.agreement_psnr
    ));
    log.verdict(&name, &findings);
    Ok(crate::exit::DONE)
}

/// Takes the temporary file out of the record of a result that does not stay there.
pub(super) fn forget_place(record: &mut Record) {
    if let Some(request) = &mut record.request {
        request.output = None;
    }
    record.results.iter_mut().for_each(|file| file.path = None);
}
