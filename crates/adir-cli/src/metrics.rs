//! Metrics by name, and those of a user's file.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use adir::io::tally::Tally;
use adir::metric::{ClipIqa, Lpips, Metric, Musiq, NAMES, all, named};
use adir::models::{clip, lpips, musiq};
use adir::tensor::cpu;
use adir::{Error, Result};
use serde_json::json;

use crate::log::Log;

/// Names of MUSIQ's scores, by the images that the network learned from, and what each is.
const MUSIQ: [(&str, &str); 4] = [
    (
        "musiq",
        "0 to 100 for KonIQ; score by MUSIQ (arXiv 2108.05997) as pyiqa computes it; musiq:google=FILE as Google's code does, and so the next three",
    ),
    ("musiq-spaq", "0 to 100; score by MUSIQ that learned from SPAQ"),
    ("musiq-paq2piq", "0 to 100; score by MUSIQ that learned from PaQ-2-PiQ"),
    ("musiq-ava", "1 to 10; mean mark by MUSIQ that learned from AVA"),
];
/// What stands behind their names where they are computed as the authors' code does.
const AUTHORS: &str = ":google";
const CLIP_IQA: (&str, &str) =
    ("clip-iqa", "0 to 1; CLIP-IQA (arXiv 2207.12396) by any CLIP with a vision transformer, a file or a folder");
const LPIPS: (&str, &str) = ("lpips", "0 and above; LPIPS (arXiv 1801.03924) or ST-LPIPS (2207.13686), AlexNet or VGG");

/// The metrics of the words of `--metric`: each one or more names with commas between, or NAME=FILE.
///
/// # Errors
/// [`Error::Config`] for a name that is none, or that needs a file or takes none, or that comes twice; those of reading the file.
pub fn metrics(words: &[String]) -> Result<Vec<Box<dyn Metric>>> {
    let mut metrics: Vec<Box<dyn Metric>> = Vec::new();
    let mut push = |metric: Box<dyn Metric>| match metrics.iter().any(|other| other.name() == metric.name()) {
        true => Err(Error::config(format!("the metric {} is given twice", metric.name()))),
        false => {
            metrics.push(metric);
            Ok(())
        }
    };
    for word in words {
        match word.split_once('=') {
            Some((name, file)) => push(of_file(name, Path::new(file))?)?,
            None => word.split(',').try_for_each(|name| push(of_name(name)?))?,
        }
    }
    Ok(metrics)
}

fn takes_file(name: &str) -> bool {
    let kind = name.strip_suffix(AUTHORS).unwrap_or(name);
    name == LPIPS.0 || name == CLIP_IQA.0 || MUSIQ.iter().any(|(known, _)| *known == kind)
}

fn of_name(name: &str) -> Result<Box<dyn Metric>> {
    if takes_file(name) {
        return Err(Error::config(format!("the metric {name} needs its network: give --metric {name}=FILE")));
    }
    known(name)
}

/// The metric of that name without a network; an error lists those with one, too.
fn known(name: &str) -> Result<Box<dyn Metric>> {
    named(name).map_err(|error| match NAMES.contains(&name) {
        true => error,
        false => {
            let of_files = MUSIQ.iter().chain([&CLIP_IQA, &LPIPS]).map(|(name, _)| format!("{name}=FILE"));
            let all: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).chain(of_files).collect();
            Error::config(format!("no metric {name:?}: expected one of {}", all.join(", ")))
        }
    })
}

/// What the network in a file is, the name of its metric, and its SHA-256, if it is that of a metric.
pub fn of_network(file: &Path) -> Option<(String, String, String)> {
    if let Ok(network) = musiq::Musiq::open(file, &cpu()) {
        let metric = if network.gives_marks() { "musiq-ava" } else { "musiq" };
        return Some(("MUSIQ".into(), metric.into(), network.weights().into()));
    }
    let network = lpips::Lpips::open(file, &cpu()).ok()?;
    Some((network.name().to_uppercase().replace("_", " "), LPIPS.0.into(), network.weights().into()))
}

fn of_file(name: &str, file: &Path) -> Result<Box<dyn Metric>> {
    if name == LPIPS.0 {
        return Ok(Box::new(Lpips::new(lpips::Lpips::open(file, &cpu())?)));
    }
    if name == CLIP_IQA.0 {
        return Ok(Box::new(ClipIqa::new(Arc::new(clip::Clip::open(file, None, &cpu())?))?));
    }
    if !takes_file(name) {
        // Names that are none are refused as ever.
        let metric = known(name)?;
        return Err(Error::config(format!("the metric {} takes no file", metric.name())));
    }
    let (kind, form) = match name.strip_suffix(AUTHORS) {
        Some(kind) => (kind, musiq::Form::Authors),
        None => (name, musiq::Form::Pyiqa),
    };
    let network = musiq::Musiq::open(file, &cpu())?.computed_as(form);
    if network.gives_marks() != (kind == "musiq-ava") {
        let fits = if network.gives_marks() { "musiq-ava" } else { "musiq, musiq-spaq or musiq-paq2piq" };
        let file = file.display();
        return Err(Error::config(format!("the network {file} is not one for {name}: its scores are those of {fits}")));
    }
    Ok(Box::new(Musiq::new(network, name.replace(['-', ':'], "_"))))
}

/// What to say of a metric that does not apply to an image.
pub fn left_out(metric: &dyn Metric) -> String {
    let (name, takes) = (metric.name(), metric.takes());
    match takes.is_empty() {
        true => format!("{name} does not apply"),
        false => format!("{name} does not apply: it takes {takes}"),
    }
}

/// Images that metrics say nothing of: a line for each metric.
#[derive(Debug, Default)]
pub struct LeftOut(BTreeSet<(String, String)>);

impl LeftOut {
    /// Counts an image for a metric.
    pub fn add(&mut self, metric: &dyn Metric, image: String) {
        self.0.insert((left_out(metric), image));
    }

    /// Warns of them.
    pub fn tell(self, log: &Log) {
        let mut tally = Tally::default();
        self.0.into_iter().for_each(|(what, image)| tally.add(what, image));
        tally.lines().iter().for_each(|line| log.warn(line));
    }
}

/// Prints every metric.
pub fn list(json: bool) -> Result<()> {
    let of_files = MUSIQ.iter().map(|metric| (metric, "higher")).chain([(&CLIP_IQA, "higher"), (&LPIPS, "lower")]);
    let of_files = of_files.map(|((name, describe), better)| {
        (format!("{name}=FILE"), better.to_owned(), String::new(), format!("{describe}, from your file"))
    });
    let metrics = all()?;
    let here = metrics
        .iter()
        .map(|m| (m.name().to_owned(), m.better().to_string(), m.unit().to_owned(), m.describe().to_owned()));
    let rows: Vec<_> = here.chain(of_files).collect();
    if json {
        let entry = |(name, better, unit, describe): &(String, String, String, String)| json!({"name": name, "better": better, "unit": unit, "describe": describe});
        return say!("{}", json!(rows.iter().map(entry).collect::<Vec<_>>()));
    }
    for (name, better, _, describe) in rows {
        say!("{name:<19} {better:<6} is better; {describe}")?;
    }
    Ok(())
}
