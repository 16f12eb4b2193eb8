//! `adir restore`: x from y.

use std::path::{Path, PathBuf};
use std::time::Instant;

use adir::adapt::{Workers, adaptation_memory};
use adir::guidance::{Adjoint, DataStep, Residual, Strength};
use adir::io::hash::hash_file;
use adir::io::image::{BitDepth, ImageFormat, Picture, WriteOptions, read_image, write_image};
use adir::io::limits::Limits;
use adir::models::guided_diffusion::{GuidedDiffusion, config_of};
use adir::operator::{ImageShape, bicubic_resize};
use adir::restore::{RestoreConfig, RestorePlan};
use adir::sampler::EpsAfterGuidance;
use adir::task::{Method, Overrides, Preset, Task};
use adir::tensor::{self, Tensor};
use adir::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::adaptation::{AdaptArgs, Adapted, Base, Mode, Observed};
use crate::args::{DegradationArgs, PresetName, agreement_psnr, names};
use crate::log::Log;
use crate::model::ModelArgs;
use crate::out::check_output;
use crate::samples::{at_once, draw, facts};
use crate::{memory, record};

/// Restore an image x from its degraded observation y = A x + e.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The observation y
    #[arg(required_unless_present = "input_option", conflicts_with = "input_option")]
    input: Option<PathBuf>,
    /// The observation y (the same, as an option)
    #[arg(short = 'i', long = "input", value_name = "INPUT")]
    input_option: Option<PathBuf>,
    /// Where to write x (.png, .tif, .jpg, .webp); settings and measurements go to a .json file beside it
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    degradation: DegradationArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    adaptation: AdaptArgs,
    /// Sample with this adapter: a file, or a name or key of `adir adapt list`; of a folder or of several that have the
    /// name, the one made for this observation
    #[arg(long, value_name = "ADAPTER", conflicts_with_all = ["gallery", "adapt", "prompt"])]
    adapter: Option<PathBuf>,
    /// Replace existing outputs
    #[arg(long)]
    overwrite: bool,
    /// Only check the request, and print every setting with its source, and the memory it takes
    #[arg(long, visible_alias = "plan")]
    explain: bool,
}

#[derive(Debug, Clone, Args)]
struct SamplingArgs {
    /// Named settings
    #[arg(long, value_enum, default_value = "fast")]
    preset: PresetName,
    /// Sampling steps: N, sections a,b,c or ddimN
    #[arg(long, value_name = "N")]
    steps: Option<String>,
    /// Seed of all noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of samples. With more than one, the output is their mean, and x.1.png, x.2.png ... beside it are
    /// the samples themselves
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    samples: u16,
    /// Class, for a class-conditional network
    #[arg(long)]
    class: Option<usize>,
    /// Guidance strength s, or "projection" (s = infinity, noise-free observations)
    #[arg(short = 's', long = "scale", value_name = "S", value_parser = strength)]
    strength: Option<Strength>,
    /// Sampler: the paper's ancestral form or the few-step form
    #[arg(long, value_enum)]
    method: Option<MethodName>,
    /// Fresh noise of the few-step form, 0 to 1
    #[arg(long)]
    eta: Option<f64>,
    /// Residual of the ancestral form
    #[arg(long, value_enum)]
    residual: Option<ResidualName>,
    /// A*: the transpose over the largest eigenvalue of A^T A, or the transpose itself
    #[arg(long, value_enum)]
    adjoint: Option<AdjointName>,
    /// Limit the gain of each ancestral step to that of a projection
    #[arg(long)]
    cap: Option<bool>,
    /// How the few-step form moves estimates of x0 towards A x = y
    #[arg(long, value_enum)]
    data_step: Option<DataStepName>,
    /// Limit estimates of x0 to black and white
    #[arg(long)]
    clip: Option<bool>,
    /// Which eps the few-step form goes on with after guidance
    #[arg(long, value_enum)]
    eps_after_guidance: Option<EpsName>,
}

names!(MethodName for Method {
    Ancestral => Method::Ancestral, "Algorithm 1";
    FewStep => Method::FewStep, "DDIM with guidance of the x0 estimate";
});
names!(ResidualName for Residual {
    Paper => Residual::Paper, "A mu - y_t, Eq. 16-17";
    Consistent => Residual::Consistent, "The same without its bias, for fewer steps";
});
names!(AdjointName for Adjoint {
    Normalized => Adjoint::Normalized, "A^T / lambda";
    Strict => Adjoint::Strict, "A^T";
});
names!(DataStepName for DataStep {
    Gradient => DataStep::Gradient, "A step along the gradient of the misfit (Eq. 17)";
    Proximal => DataStep::Proximal, "To the minimum of misfit and distance, by conjugate gradients: for blurs";
});
names!(EpsName for EpsAfterGuidance {
    Keep => EpsAfterGuidance::Keep, "The predicted one";
    Rederive => EpsAfterGuidance::Rederive, "The one that fits the corrected x0";
});

fn strength(text: &str) -> Result<Strength, String> {
    match text {
        "projection" | "inf" => Ok(Strength::Projection),
        _ => text.parse().map(Strength::Scale).map_err(|_| "expected a number or \"projection\"".into()),
    }
}

impl SamplingArgs {
    fn overrides(&self) -> Overrides {
        Overrides {
            method: self.method.map(Into::into),
            steps: self.steps.clone(),
            strength: self.strength,
            residual: self.residual.map(Into::into),
            adjoint: self.adjoint.map(Into::into),
            cap: self.cap,
            data_step: self.data_step.map(Into::into),
            clip_x0: self.clip,
            eta: self.eta,
            eps_after_guidance: self.eps_after_guidance.map(Into::into),
        }
    }
}

pub fn run(args: &RestoreArgs, log: &Log) -> Result<u8> {
    let started = Instant::now();
    let limits = Limits::default();
    let input = args.input.as_ref().or(args.input_option.as_ref()).ok_or_else(|| Error::config("no input"))?;
    let samples = usize::from(args.sampling.samples);
    let outputs = Outputs::new(&args.output, samples);
    let format = ImageFormat::from_path(&args.output)?;
    for path in outputs.all() {
        check_output(input, path, args.overwrite)?;
    }
    let picture = read_image(input, &limits)?;
    let (degradation, mask) = args.degradation.build(&limits)?;
    if args.degradation.task == Task::Denoise && args.degradation.sigma == 0.0 {
        return Err(Error::config("--task denoise needs the noise level, for example --sigma 25"));
    }
    let file = args.model.open()?;
    let config = match args.model.config(&file)? {
        Some(config) => config,
        None => config_of(&file).map_err(|e| Error::model(file.path(), e.to_string()))?,
    };
    let (device, dtype) = args.model.place()?;
    let preset: Preset = args.sampling.preset.into();
    let mode = args.adaptation.mode(preset)?;
    let request = RestoreConfig {
        task: args.degradation.task,
        degradation: degradation.clone(),
        mask: mask.clone(),
        sigma: args.degradation.noise(),
        rounding: picture.bit_depth.rounding(),
        preset,
        overrides: args.sampling.overrides(),
        seed: args.sampling.seed,
        class: args.sampling.class,
    };
    let plan = request.plan(picture.tensor.clone(), &facts(&config)?)?;
    check_size(args, &plan, &picture, depth(&picture, format), &limits)?;
    let at_once = at_once(samples, &device);
    let need = config.forward_memory(plan.canvas().height, plan.canvas().width, at_once)?;
    let adapt_config = args.adaptation.config(mode, preset, args.sampling.seed);
    let adapt_need = match mode {
        Mode::None => None,
        _ => Some(adaptation_memory(&config, &adapt_config, Workers::available())?),
    };
    if args.explain {
        explain(args, &plan, need)?;
        if let Some(need) = adapt_need {
            say!("adaptation memory    at most about {:.2} GB", need as f64 / 1e9)?;
            say!("adaptation           {}", serde_json::to_string(&adapt_config).unwrap_or_default())?;
        }
        return Ok(crate::exit::DONE);
    }
    memory::check(need.max(adapt_need.unwrap_or(0)), &args.model.device)?;

    let model_sha256 = file.sha256()?.to_string();
    let model = GuidedDiffusion::load(&file, Some(config.clone()), &device, dtype)?;
    let base = Base { model: &model, sha256: &model_sha256 };
    let adapted = match &args.adapter {
        Some(reference) => with_adapter(&args.adaptation.store.resolve_for(reference, input)?, &base)?,
        None => {
            let observed = Observed { file: input, y: &picture.tensor };
            args.adaptation.run(&base, &observed, mode, adapt_config, log)?
        }
    };
    let model = adapted.model;
    let loaded = Instant::now();
    let (results, mean) = draw(&plan, &model, samples, log)?;
    let sampled = Instant::now();

    let options = write_options(&picture, &mean, format)?;
    for (path, x) in outputs.samples.iter().zip(&results) {
        write_image(path, x, &options)?;
    }
    write_image(&args.output, &mean, &options)?;
    // What was saved is what is judged.
    let saved = read_image(&args.output, &limits)?.tensor;
    let agreement = agreement_psnr(&degradation, mask.as_ref(), &saved, &picture.tensor)?;
    let record = json!({
        "program": concat!("adir ", env!("CARGO_PKG_VERSION")),
        "input": {"path": input, "sha256": hash_file(input)?.1},
        "model": {"name": args.model.name(), "sha256": model_sha256, "config": config},
        "device": args.model.device, "dtype": args.model.dtype.name(),
        "task": args.degradation.task, "degradation": degradation, "sigma": args.degradation.sigma,
        "mask": match &args.degradation.mask { Some(path) => json!({"path": path, "sha256": hash_file(path)?.1}), None => Value::Null },
        "seed": args.sampling.seed, "samples": samples, "class": args.sampling.class,
        "settings": plan.settings(), "sources": plan.choices(), "adaptation": adapted.record,
        "seconds": {
            "load_and_adapt": (loaded - started).as_secs_f64(), "sample": (sampled - loaded).as_secs_f64(),
        },
        "agreement_psnr": record::number(agreement),
    });
    record::write(&outputs.record, &record)?;
    log.info(&format!(
        "{}: {:.1} s, agrees with the observation to {agreement:.1} dB",
        args.output.display(),
        started.elapsed().as_secs_f64()
    ));
    Ok(crate::exit::DONE)
}

/// The model with an adapter that is there already.
fn with_adapter(path: &Path, base: &Base) -> Result<Adapted> {
    let (adapter, info) = base.read_adapter(path)?;
    let record = json!({"mode": "adapter", "path": path, "sha256": hash_file(path)?.1, "name": info.name, "made_from": info.made_from});
    Ok(Adapted { model: base.with(&adapter)?, record })
}

struct Outputs {
    main: PathBuf,
    samples: Vec<PathBuf>,
    record: PathBuf,
}

impl Outputs {
    fn new(main: &Path, samples: usize) -> Self {
        let extension = main.extension().unwrap_or_default().to_string_lossy().into_owned();
        let name = |k: usize| main.with_extension(format!("{k}.{extension}"));
        Self {
            main: main.to_owned(),
            samples: if samples > 1 { (1..=samples).map(name).collect() } else { Vec::new() },
            record: record::path_for(main),
        }
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.main, &self.record].into_iter().chain(&self.samples)
    }
}

/// As deep as the input where the format can hold it.
fn depth(picture: &Picture, format: ImageFormat) -> BitDepth {
    if format.supports(picture.bit_depth) { picture.bit_depth } else { BitDepth::Eight }
}

/// What is written must not be larger than what is read again, by this program too.
fn check_size(
    args: &RestoreArgs,
    plan: &RestorePlan,
    picture: &Picture,
    depth: BitDepth,
    limits: &Limits,
) -> Result<()> {
    let ImageShape { channels, height, width } = plan.operator().domain();
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let samples = channels as u64 + u64::from(picture.alpha.is_some());
    limits.check(&args.output, (side(width), side(height)), samples * depth.bytes()).map(drop)
}

/// The input's depth where the format can hold it, its profile, and its alpha brought to size.
fn write_options(picture: &Picture, x: &Tensor<4>, format: ImageFormat) -> Result<WriteOptions> {
    let bit_depth = depth(picture, format);
    let [_, _, h, w] = picture.tensor.dims();
    let [_, _, height, width] = x.dims();
    let alpha = match &picture.alpha {
        Some(alpha) => {
            let plane = tensor::from_f32(alpha.clone(), [1, 1, h, w], &tensor::cpu());
            let plane = bicubic_resize(&plane, height, width)?;
            Some(tensor::to_f32(&plane)?.into_iter().map(|v| v.clamp(0.0, 1.0)).collect())
        }
        None => None,
    };
    Ok(WriteOptions { bit_depth, alpha, icc: picture.icc.clone(), exif: picture.exif.clone() })
}

fn explain(args: &RestoreArgs, plan: &RestorePlan, need: u64) -> Result<()> {
    let (canvas, domain) = (plan.canvas(), plan.operator().domain());
    say!("task                 {}", args.degradation.task)?;
    say!("model                {}", args.model.name())?;
    say!("observation          {} (channels x height x width)", plan.operator().range())?;
    say!("result               {domain}")?;
    if canvas != domain {
        say!("sampled as           {canvas}, of which the result is a window")?;
    }
    say!("network evaluations  {} x {} samples", plan.steps(), args.sampling.samples)?;
    say!("memory               about {:.1} GB", need as f64 / 1e9)?;
    say!("seed                 {}", args.sampling.seed)?;
    for choice in plan.choices() {
        say!("{:<20} {:<28} {}", choice.name, choice.value, choice.source)?;
    }
    Ok(())
}
