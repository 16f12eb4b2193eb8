//! `adir eval`: methods compared on folders of images whose truth is known.
//!
//! Every cell (set, task, image, method, seed) is measured once and kept in a file of its own, named by all that
//! determines it: an interrupted run goes on where it stopped, a longer one uses what a shorter one found.

mod cell;
mod key;
mod method;
mod report;
mod task;

use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};

use adir::io::folder::image_files;
use adir::io::hash::hash_file;
use adir::io::image::{WriteOptions, read_image, write_image};
use adir::io::limits::Limits;
use adir::metric::evaluation;
use adir::models::Denoiser;
use adir::operator::ImageShape;
use adir::task::Preset;
use adir::tensor::Tensor;
use adir::{Error, Result};
use clap::Args;

use self::cell::{Cell, measure};
use self::method::{Bench, Method};
use self::report::Report;
use self::task::EvalTask;
use crate::adaptation::{AdaptSettings, Base};
use crate::args::PresetName;
use crate::log::Log;
use crate::model::ModelArgs;
use crate::stop;
use crate::store::Store;

/// Compare methods on images whose truth is known: degraded, restored, measured.
///
/// Writes OUTPUT/table.md, OUTPUT/cells.csv and OUTPUT/sheet.png. Every result is kept in OUTPUT/cells, so that the
/// same command goes on after an interruption, and one with more images, tasks or methods computes what is new.
/// Unless --full is given, the middle 128x128 pixels of ten images a set, 4 samples of 20 steps.
/// Sides are cut to what the network's size multiple and the factor both divide: 120 of 128 pixels for sr3 where the
/// network takes multiples of 8. Images below that are left out.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Folders of images (each is a set)
    #[arg(required = true)]
    sets: Vec<PathBuf>,
    /// Folder of the results
    #[arg(short, long)]
    output: PathBuf,
    /// Tasks, TASK[:KERNEL][+SIGMA], as sr4, deblur:box:5+10 or denoise+25 (inpaint: a hole of a quarter of the sides)
    #[arg(long, value_delimiter = ',', default_value = "sr4,deblur:box:5+10")]
    tasks: Vec<EvalTask>,
    /// Methods [default: all for which there is what they need, but for shared and auto]
    #[arg(long, value_enum, value_delimiter = ',')]
    methods: Vec<Method>,
    /// Gallery (a folder, or an index) of the methods knn, lora, shared and auto
    #[arg(long, value_name = "FOLDER")]
    gallery: Option<PathBuf>,
    /// Folder from which the method random takes its images
    #[arg(long, value_name = "FOLDER")]
    random_from: Option<PathBuf>,
    /// Adapter of the method adapter: a file, or a name or key of `adir adapt list`
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<PathBuf>,
    /// Images of each set, spread evenly over it
    #[arg(long, default_value_t = 10, value_name = "N")]
    count: usize,
    /// Side of the part in the middle that is used, at most: cut to what the network and the factor divide
    #[arg(long, default_value_t = 128, value_name = "PIXELS")]
    crop: usize,
    /// Samples an image
    #[arg(short = 'n', long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    samples: u16,
    /// Seeds: each repeats everything that is random
    #[arg(long, default_value_t = 1, value_name = "N")]
    seeds: u64,
    /// All images, whole (but for what is cut as above), with the preset's steps
    #[arg(long, conflicts_with_all = ["count", "crop"])]
    full: bool,
    /// Named settings
    #[arg(long, value_enum, default_value = "fast")]
    preset: PresetName,
    /// Sampling steps [default: 20, with --full the preset's]
    #[arg(long, value_name = "N")]
    steps: Option<String>,
    /// Rank of the factors of the method lora
    #[arg(long, default_value_t = 16, value_name = "RANK")]
    lora: usize,
    /// Of the method shared: observations share an adaptation that on average have so much of their nearest images in
    /// common, 0 to 1
    #[arg(long, default_value_t = 0.25, value_name = "SHARE", value_parser = crate::args::share)]
    overlap: f64,
    /// Images of each set and task that are shown in the sheet
    #[arg(long, default_value_t = 4, value_name = "N")]
    show: usize,
    #[command(flatten)]
    settings: AdaptSettings,
    #[command(flatten)]
    store: Store,
    #[command(flatten)]
    model: ModelArgs,
}

/// An image of a set.
struct Truth {
    name: String,
    path: PathBuf,
    sha256: String,
    x: Tensor<4>,
}

pub fn run(args: &EvalArgs, log: &Log) -> Result<u8> {
    let methods = args.methods()?;
    let sets = args.sets.iter().map(|set| Ok((set, args.files(set)?))).collect::<Result<Vec<_>>>()?;
    let cells = args.output.join("cells");
    std::fs::create_dir_all(&cells).map_err(|e| Error::io(&cells, e))?;
    let (model, model_sha256) = args.model.load()?;
    if model.config().in_channels != 3 {
        return Err(Error::config("eval compares methods on RGB images; the network is for others"));
    }
    let adapter = match &args.adapter {
        Some(reference) => {
            let path = args.store.resolve(reference)?;
            let base = Base { model: &model, sha256: &model_sha256 };
            let with = base.with(&base.read_adapter(&path)?.0)?;
            Some((path, with))
        }
        None => None,
    };
    let metrics = evaluation()?;
    let preset: Preset = args.preset.into();
    let steps = args.steps.clone().or((!args.full).then(|| "20".to_owned()));
    let mut report = Report::new(&metrics, args.show);
    let (gallery, gallery_key) = (OnceCell::new(), OnceCell::new());
    for (set, files) in sets {
        let name = set.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        let name = name.unwrap_or_else(|| set.display().to_string());
        for task in &args.tasks {
            let images = args.images(set, &files, task.unit(model.size_multiple()), log)?;
            let wiener_ratio = task.tuned_wiener(&images)?;
            let mine: Vec<Method> = methods.iter().copied().filter(|m| m.suits(task)).collect();
            for seed in 0..args.seeds {
                let observe = |truth: &Truth| task.observe(&truth.x, truth.noise(seed));
                let bench = Bench {
                    args,
                    task,
                    seed,
                    images: &images,
                    observations: images.iter().map(observe).collect::<Result<_>>()?,
                    gallery: &gallery,
                    gallery_key: &gallery_key,
                    plans: images.iter().map(|_| OnceCell::new()).collect(),
                    shared: RefCell::default(),
                    model: &model,
                    model_sha256: &model_sha256,
                    preset,
                    steps: steps.clone(),
                    adapter: adapter.clone(),
                    metrics: &metrics,
                    wiener_ratio,
                };
                for (i, truth) in images.iter().enumerate() {
                    let mut pictures = Vec::new();
                    for &method in &mine {
                        stop::check()?;
                        let (cell, shown) = kept_or_measured(&bench, &cells, &name, method, i, log)?;
                        log.info(&cell.line(&metrics));
                        pictures.push(shown);
                        report.add(cell);
                    }
                    if seed == 0 {
                        report.show(&name, task, i, &bench.observations[i], &truth.x, &mine, &pictures)?;
                    }
                }
            }
        }
    }
    report.write(&args.output, &model_sha256)?;
    log.info(&format!("{}: table.md, cells.csv, sheet.png", args.output.display()));
    Ok(crate::exit::DONE)
}

/// The result of one cell, that of image `i`, and the picture of its first sample: as kept in the folder `cells`, or made now and kept.
fn kept_or_measured(
    bench: &Bench,
    cells: &Path,
    set: &str,
    method: Method,
    i: usize,
    log: &Log,
) -> Result<(Cell, PathBuf)> {
    let (task, seed, truth) = (bench.task, bench.seed, &bench.images[i]);
    let (shape, method_key) = (ImageShape::of(&truth.x), bench.describe(method, i, log)?);
    let made_from = key::made_from(&truth.sha256, shape, task, truth.noise(seed), bench.metrics, method_key)?;
    let key = key::name(&made_from);
    let (file, shown) = (cells.join(format!("{key}.json")), cells.join(format!("{key}.png")));
    if let Some(cell) = Cell::read(&file)?.filter(|_| shown.is_file()) {
        // The key knows contents only: set and image may have had other names.
        return Ok((Cell { set: set.to_owned(), image: truth.name.clone(), ..cell }, shown));
    }
    let made = bench.make(method, i, log)?;
    let cell = Cell {
        set: set.to_owned(),
        task: task.text.clone(),
        image: truth.name.clone(),
        method: method.name(),
        seed,
        seconds: made.seconds,
        held_out: made.held_out,
        measured: measure(bench.metrics, &made, task, &truth.x, &bench.observations[i])?,
        made_from,
    };
    write_image(&shown, &made.samples[0], &WriteOptions::default())?;
    cell.write(&file)?;
    Ok((cell, shown))
}

impl Truth {
    /// Every image and seed has noise of its own, the same for all methods and tasks, whatever other images there are.
    fn noise(&self, seed: u64) -> u64 {
        let own = self.sha256.bytes().take(8).fold(0, |all: u64, byte| all << 8 | u64::from(byte));
        own.wrapping_add(seed)
    }
}

impl EvalArgs {
    /// The methods asked for, or all that have what they need.
    fn methods(&self) -> Result<Vec<Method>> {
        let lacks = |m: &Method| match m {
            Method::Knn | Method::Lora | Method::Shared | Method::Auto if self.gallery.is_none() => {
                Some("--gallery FOLDER")
            }
            Method::Adapter if self.adapter.is_none() => Some("--adapter ADAPTER"),
            Method::Random if self.random_from.is_none() => Some("--random-from FOLDER"),
            _ => None,
        };
        if self.methods.is_empty() {
            return Ok(Method::ALL
                .iter()
                .copied()
                .filter(|m| !matches!(m, Method::Shared | Method::Auto) && lacks(m).is_none())
                .collect());
        }
        match self.methods.iter().find_map(|m| Some((m, lacks(m)?))) {
            Some((method, what)) => Err(Error::config(format!("the method {} needs {what}", method.name()))),
            None => Ok(self.methods.clone()),
        }
    }

    /// The files of a set that are asked for.
    fn files(&self, set: &Path) -> Result<Vec<String>> {
        let names = image_files(set)?;
        if names.is_empty() {
            return Err(Error::input(set, "holds no images"));
        }
        if self.full {
            return Ok(names);
        }
        let (all, count) = (names.len(), self.count.clamp(1, names.len()));
        Ok((0..count).map(|i| names[i * all / count].clone()).collect())
    }

    /// The images of these files of a set, cut to sides that are multiples of `unit`.
    fn images(&self, set: &Path, names: &[String], unit: usize, log: &Log) -> Result<Vec<Truth>> {
        let mut images = Vec::new();
        for name in names {
            stop::check()?;
            let path = set.join(name);
            let x = read_image(&path, &Limits::default())?.tensor;
            let x = if x.dims()[1] == 1 { x.repeat_dim(1, 3) } else { x };
            let [_, _, h, w] = x.dims();
            let side = |s: usize| if self.full { s / unit * unit } else { s.min(self.crop) / unit * unit };
            let (height, width) = (side(h), side(w));
            if height == 0 || width == 0 {
                log.warn(&format!("left out: {}: {w}x{h} is below {unit} pixels a side", path.display()));
                continue;
            }
            let x = x.narrow(2, (h - height) / 2, height).narrow(3, (w - width) / 2, width);
            images.push(Truth { name: name.clone(), sha256: hash_file(&path)?.1.to_string(), path, x });
        }
        if images.is_empty() {
            return Err(Error::input(set, "holds no image that is large enough"));
        }
        Ok(images)
    }
}
