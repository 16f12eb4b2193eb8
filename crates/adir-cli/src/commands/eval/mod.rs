//! `adir eval`: compares methods on folders of images whose truth is known.

mod paper;
mod report;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use adir::engine::{Adapt, Engine, Event, Keep, Target};
use adir::evaluate::{Bench, EvalConfig, EvalTask, Method, Truth};
use adir::io::ending::{Written, check_ending};
use adir::io::folder::{check_output_folder, image_files};
use adir::io::tally::Tally;
use adir::metric::evaluation;
use adir::task::Preset;
use adir::{Error, Result};
use clap::Args;

use self::paper::PaperArgs;
use self::report::Report;
use crate::adaptation::AdaptSettings;
use crate::args::{at_least_one, preset};
use crate::log::Log;
use crate::metrics::LeftOut;
use crate::model::{ModelArgs, named};
use crate::store::Store;

/// Compare methods on images whose truth is known: degrade, restore, measure.
///
/// Writes OUTPUT/table.md, OUTPUT/cells.csv and OUTPUT/sheet.png. Every result is kept in OUTPUT/cells: the same
/// command continues after an interruption, and a command with more images, tasks or methods computes only what is new.
/// By default it uses the middle 128x128 pixels of ten images per set and 4 samples; see --full.
/// Sides are cut to what the network's size multiple and the factor both divide: 120 of 128 pixels for sr3 where the
/// network takes multiples of 8. Images below that are left out.
///
/// --paper makes a table of the ADIR paper anew beside its published numbers, from a folder of images, the published
/// weights, and the index of a gallery: see docs/results/paper.md. It writes OUTPUT/table.md and OUTPUT/cells.jsonl, keeps
/// every picture and number in OUTPUT/cells, and continues in the same way, also in the middle of a picture.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Folders of images; each folder is a set
    #[arg(required_unless_present = "paper")]
    sets: Vec<PathBuf>,
    /// Folder for the results [default with --paper: paper-TABLE]
    #[arg(short, long, required_unless_present = "paper")]
    output: Option<PathBuf>,
    /// Tasks, TASK[:KERNEL][+SIGMA][+GAINg][+light]: for example sr4, deblur:box:5+10, denoise+25, denoise+2+1.5g (with a gain
    /// of 1.5, see `adir restore --gain`), deblur:box:5+1+light (see --linear-light), inpaint (a hole of a quarter of the sides)
    #[arg(long, value_delimiter = ',', default_value = "sr4,deblur:box:5+10")]
    tasks: Vec<EvalTask>,
    /// Degrade and restore light, and not the encoded values: every task as with +light. The images have the tone curve of
    /// sRGB
    #[arg(long)]
    linear_light: bool,
    /// Methods [default: every method whose inputs are given, except shared, auto and the solvers]
    ///
    /// observed: the observation itself; bicubic: interpolation; wiener: a Wiener filter tuned on these images; none: the
    /// prior as it is; self, random, knn, lora: the prior adapted to the observation, to random images, to the nearest
    /// images with all weights, and with low-rank factors; shared: one adaptation per group of observations with the same
    /// nearest images; auto: adapted weights only if held-out images are denoised better; adapter: the one of --adapter;
    /// the solvers staged, few-step, ancestral, paper, ddnm, ddrm, diffpir, dps, pigdm, daps: the prior as it is, with the
    /// settings of `adir restore --method` (paper: of that preset)
    #[arg(long, value_delimiter = ',', value_parser = named::<Method>(Method::ALL.map(|(_, name)| name)))]
    methods: Vec<Method>,
    /// Gallery (folder or index) for the methods knn, lora, shared and auto; with --paper an index
    #[arg(long, value_name = "FOLDER")]
    gallery: Option<PathBuf>,
    /// Folder of images for the method random
    #[arg(long, value_name = "FOLDER")]
    random_from: Option<PathBuf>,
    /// Adapter for the method adapter: a file, or a name or key shown by `adir adapt list`
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<PathBuf>,
    /// Images per set, spread evenly over it [default: 10]
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    count: Option<usize>,
    /// Side of the central crop in pixels, at most: cut to what the network and the factor divide [default: 128]. With
    /// --paper, side of the table's largest references [default: the paper's]
    #[arg(long, value_name = "PIXELS", value_parser = at_least_one::<usize>)]
    crop: Option<usize>,
    /// Samples per image
    #[arg(short = 'n', long, default_value_t = 4, value_name = "N")]
    samples: usize,
    /// Number of seeds; each repeats everything random
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = at_least_one::<u64>)]
    seeds: u64,
    /// All images, whole (but for what is cut as above)
    #[arg(long, conflicts_with_all = ["count", "crop"])]
    full: bool,
    /// Further metrics, as of `adir compare`: psnr_y, or with the file of a network musiq=FILE, lpips=FILE
    #[arg(long = "metric", value_name = "NAME[=FILE]")]
    metrics: Vec<String>,
    /// Preset: fast or paper, as of `adir restore`
    #[arg(long, default_value = "fast", value_parser = preset())]
    preset: Preset,
    /// Sampling steps of every method [default: those of the preset, or of the solver]
    #[arg(long, value_name = "N")]
    steps: Option<String>,
    /// Rank of the low-rank factors of the method lora [default: 16]
    #[arg(long, value_name = "RANK")]
    lora: Option<usize>,
    /// For the method shared: group observations whose nearest images overlap by at least this share on average, 0 to 1
    /// [default: 0.25]
    #[arg(long, value_name = "SHARE", value_parser = crate::args::share)]
    overlap: Option<f64>,
    /// Images per set and task shown in the sheet
    #[arg(long, default_value_t = 4, value_name = "N")]
    show: usize,
    #[command(flatten)]
    settings: AdaptSettings,
    #[command(flatten)]
    store: Store,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    paper: PaperArgs,
}

pub fn run(args: &EvalArgs, log: &Log) -> Result<u8> {
    if let Some(table) = args.paper.paper {
        return paper::run(args, table, log);
    }
    if args.paper.images.is_some() {
        return Err(Error::config("--images has no effect without --paper TABLE: name the sets only"));
    }
    let output = args.output.clone().unwrap_or_default();
    let config = args.config();
    let of_task = |task: &EvalTask| if args.linear_light { task.in_light() } else { Ok(task.clone()) };
    let tasks = args.tasks.iter().map(of_task).collect::<Result<Vec<_>>>()?;
    let methods = args.methods(&config)?;
    let further = crate::metrics::metrics(&args.metrics)?;
    args.check_effects(&methods)?;
    check_ending(&output, Written::Folder)?;
    check_output_folder(&output)?;
    check_output(&output, &args.sets)?;
    let names = names_of(&args.sets)?;
    if let Some(k) = (1..tasks.len()).find(|k| tasks[..*k].iter().any(|task| task.text == tasks[*k].text)) {
        return Err(Error::config(format!("the task {} is given twice", tasks[k].text)));
    }
    if let Some(idle) = args.methods.iter().find(|method| !tasks.iter().any(|task| method.suits(task))) {
        let tasks = tasks.iter().map(|task| task.text.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::config(format!("the method {} is for none of the tasks ({tasks})", idle.name())));
    }
    let sets = args.sets.iter().map(|set| Ok((set, args.files(set, log)?))).collect::<Result<Vec<_>>>()?;
    let cells = output.join("cells");
    std::fs::create_dir_all(&cells).map_err(|e| Error::io(&cells, e))?;
    let builder = args.settings.engine(args.model.engine());
    let builder = match args.store.find() {
        Some(cache) => builder.cache(cache),
        None => builder,
    };
    let engine = builder.build()?;
    let header = engine.header()?;
    if header.info().channels != 3 {
        return Err(Error::config("eval needs a network for RGB images"));
    }
    args.check_sources(&config, &engine)?;
    let mut metrics = evaluation()?;
    for metric in further {
        if metrics.iter().all(|known| known.name() != metric.name()) {
            metrics.push(metric);
        }
    }
    let mut report = Report::new(&metrics, args.show);
    let (mut failed, mut left_out) = (BTreeSet::new(), LeftOut::default());
    let watcher = log.watcher();
    let watch = |event: &Event| watcher.see(event);
    for ((set, files), name) in sets.into_iter().zip(names) {
        for task in &tasks {
            let images = args.images(set, &files, task.unit(header.info().size_multiple), &mut failed, log)?;
            let suiting: Vec<Method> = methods.iter().copied().filter(|m| m.suits(task)).collect();
            for seed in 0..args.seeds {
                let bench = Bench::new((&config, &engine), task, seed, &images, &metrics, &watch)?;
                let mine = suiting.iter().copied().filter(|&method| {
                    let refusal = bench.refusal(method);
                    if let Some(reason) = &refusal {
                        log.warn(&format!("left out: {} of {}: {reason}", method.name(), task.text));
                    }
                    refusal.is_none()
                });
                let mine: Vec<Method> = mine.collect();
                for (i, truth) in images.iter().enumerate() {
                    let mut pictures = Vec::new();
                    for &method in &mine {
                        log.check()?;
                        let (cell, shown) = bench.kept_or_measured(&cells, &name, method, i)?;
                        watcher.finish();
                        log.info(&cell.summary(&metrics));
                        let lacking = metrics.iter().filter(|metric| cell.lacks(metric.as_ref()));
                        lacking.for_each(|metric| left_out.add(metric.as_ref(), format!("{name}/{}", truth.name)));
                        pictures.push(shown);
                        report.add(cell);
                    }
                    if seed == 0 {
                        report.show(&name, task, i, bench.observation(i), &truth.x, &mine, &pictures)?;
                    }
                }
            }
        }
    }
    left_out.tell(log);
    report.write(&output, engine.prior(&watch)?.id()?.as_str())?;
    log.info(&format!("{}: table.md, cells.csv, sheet.png", output.display()));
    Ok(if failed.is_empty() { crate::exit::DONE } else { crate::exit::SOME_FAILED })
}

/// The sets' names: those of their folders, with as many of the folders above as it takes to tell them apart.
fn names_of(sets: &[PathBuf]) -> Result<Vec<String>> {
    let places: Vec<PathBuf> = sets.iter().map(|set| set.canonicalize().unwrap_or_else(|_| set.clone())).collect();
    let end = |place: &Path, count: usize| {
        let parts: Vec<_> = place.iter().rev().take(count).map(|part| part.to_string_lossy()).collect();
        parts.into_iter().rev().collect::<Vec<_>>().join("/")
    };
    let name = |(k, place): (usize, &PathBuf)| {
        if places[..k].contains(place) {
            return Err(Error::config(format!("{}: is given twice", sets[k].display())));
        }
        let others = || places.iter().filter(|other| *other != place);
        let most = place.iter().count();
        let count = (1..most).find(|count| others().all(|other| end(other, *count) != end(place, *count)));
        Ok(end(place, count.unwrap_or(most)))
    };
    places.iter().enumerate().map(name).collect()
}

/// Refuses an output in a set: results there would be taken for its images.
fn check_output(output: &Path, sets: &[PathBuf]) -> Result<()> {
    let place = |path: &Path| {
        let known = path.ancestors().find_map(|part| part.canonicalize().ok().map(|place| (part, place)));
        known.map(|(part, place)| place.join(path.strip_prefix(part).unwrap_or(path)))
    };
    let absolute = if output.is_absolute() { output.to_owned() } else { Path::new(".").join(output) };
    let Some(absolute) = place(&absolute) else { return Ok(()) };
    let inside = |set: &&PathBuf| set.canonicalize().is_ok_and(|set| absolute.starts_with(set));
    match sets.iter().find(inside) {
        None => Ok(()),
        Some(set) => Err(Error::config(format!(
            "{}: is in the folder {}, and results there would count as its images: choose another folder",
            output.display(),
            set.display()
        ))),
    }
}

impl EvalArgs {
    /// What all methods have in common.
    fn config(&self) -> EvalConfig {
        let mut config = EvalConfig::new();
        config.gallery.clone_from(&self.gallery);
        config.random_from.clone_from(&self.random_from);
        config.adapter.clone_from(&self.adapter);
        config.samples = self.samples;
        config.steps = self.steps.clone();
        config.preset = self.preset;
        config.lora = Adapt::factors(self.lora.unwrap_or(16), self.preset);
        config.overlap = self.overlap.unwrap_or(0.25);
        config.adapt = self.settings.request(Target::Itself, Keep::Always, None);
        config
    }

    /// The methods asked for, or all whose inputs are given.
    fn methods(&self, config: &EvalConfig) -> Result<Vec<Method>> {
        if self.methods.is_empty() {
            let all = Method::ALL.iter().map(|(method, _)| *method);
            let suits = |m: &Method| {
                !matches!(m, Method::Shared | Method::Auto) && !m.is_solver() && config.lacks(*m).is_none()
            };
            return Ok(all.filter(suits).collect());
        }
        match self.methods.iter().find_map(|m| Some((m, config.lacks(*m)?))) {
            Some((method, what)) => Err(Error::config(format!("the method {} needs {what}", method.name()))),
            None => Ok(self.methods.clone()),
        }
    }

    /// Refuses options that no method of these uses.
    fn check_effects(&self, methods: &[Method]) -> Result<()> {
        use Method::{Adapter, Auto, Bicubic, Itself, Knn, Lora, Observed, Random, Shared, Wiener};
        let adapts = |m: &Method| matches!(m, Itself | Random | Knn | Lora | Shared | Auto);
        let searches = |m: &Method| matches!(m, Knn | Lora | Shared | Auto);
        type Uses<'a> = &'a dyn Fn(&Method) -> bool;
        let options: [(Option<&str>, Uses<'_>); 9] = [
            (self.settings.of_training(), &adapts),
            (self.settings.of_search(), &|m| searches(m) || *m == Random),
            (self.gallery.as_ref().map(|_| "--gallery"), &searches),
            (self.random_from.as_ref().map(|_| "--random-from"), &|m| *m == Random),
            (self.adapter.as_ref().map(|_| "--adapter"), &|m| *m == Adapter),
            (self.lora.map(|_| "--lora"), &|m| *m == Lora),
            (self.overlap.map(|_| "--overlap"), &|m| *m == Shared),
            (self.steps.as_ref().map(|_| "--steps"), &|m| !matches!(m, Observed | Bicubic | Wiener)),
            (self.settings.of_search().filter(|name| *name != "--neighbours"), &searches),
        ];
        match options.iter().find_map(|(option, uses)| option.filter(|_| !methods.iter().any(uses))) {
            Some(option) => {
                let methods = methods.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ");
                Err(Error::config(format!("{option} has no effect: none of the methods ({methods}) uses it")))
            }
            None => Ok(()),
        }
    }

    /// Refuses what methods adapt to, if it cannot be read: cells before it may take hours.
    fn check_sources(&self, config: &EvalConfig, engine: &Engine) -> Result<()> {
        if let Some(gallery) = &self.gallery {
            engine.check_gallery(gallery, config.adapt.tiles, None)?;
        }
        if let Some(folder) = &self.random_from {
            let listing = image_files(folder)?;
            if listing.files.is_empty() {
                return Err(Error::input(folder, listing.no_images()));
            }
        }
        self.adapter.as_ref().map_or(Ok(()), |adapter| self.store.find_adapter(adapter).map(drop))
    }

    /// The files of a set to use.
    fn files(&self, set: &Path, log: &Log) -> Result<Vec<String>> {
        let listing = image_files(set)?;
        listing.warnings().iter().for_each(|message| log.warn(message));
        if listing.files.is_empty() {
            return Err(Error::input(set, listing.no_images()));
        }
        let names = listing.files;
        if self.full {
            return Ok(names);
        }
        let (all, count) = (names.len(), self.count.unwrap_or(10).clamp(1, names.len()));
        Ok((0..count).map(|i| names[i * all / count].clone()).collect())
    }

    /// The images of these files of a set, cut to sides that are multiples of `unit`; those that cannot be read are added to
    /// `failed`.
    fn images(
        &self,
        set: &Path,
        names: &[String],
        unit: usize,
        failed: &mut BTreeSet<PathBuf>,
        log: &Log,
    ) -> Result<Vec<Truth>> {
        let most = if self.full { None } else { Some(self.crop.unwrap_or(128)) };
        let (mut images, mut notes) = (Vec::new(), Tally::default());
        for name in names {
            log.check()?;
            let path = set.join(name);
            match Truth::read(&path, name, most, unit) {
                Ok(Some(truth)) => {
                    truth.notes.iter().for_each(|note| notes.add(note, path.display()));
                    images.push(truth);
                }
                Ok(None) => log.warn(&format!("left out: {}: a side is below {unit} pixels", path.display())),
                Err(e @ (Error::Input { .. } | Error::TooLarge { .. } | Error::Limits(_))) => {
                    log.warn(&format!("left out: {e}"));
                    failed.insert(path);
                }
                Err(e) => return Err(e),
            }
        }
        notes.lines().iter().for_each(|note| log.warn(note));
        if images.is_empty() {
            return Err(Error::input(set, "contains no image that can be read and is large enough"));
        }
        Ok(images)
    }
}
