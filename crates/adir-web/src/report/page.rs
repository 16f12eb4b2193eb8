//! The page: HTML with everything in it, which loads nothing from elsewhere.

use std::fmt::Write;
use std::path::Path;

use adir::engine::{Findings, ImageRecord, LatentTask};
use adir::io::image::Picture;
use adir::io::limits::Limits;
use adir::io::shards::read_image_in;
use adir::operator::{ImageShape, Window};
use adir::retrieve::Tile;
use adir::{Error, Result};

use super::html::escaped;
use super::picture::{shown, thumbnail};
use super::{LatentReport, Report};

/// Neighbours that are shown; the rest is counted.
const SHOWN_NEIGHBOURS: usize = 24;

/// Where y lies on a result of the same view, in percent: top, left, height, width.
const WHOLE: [f64; 4] = [0.0, 0.0, 100.0, 100.0];

/// Moves the border between the pictures.
const SCRIPT: &str = "const s=document.getElementById('at'),p=document.getElementById('pair');\
const f=()=>p.style.setProperty('--at',s.value+'%');s.addEventListener('input',f);f();";

/// Nothing but what is in the page may be loaded.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// The page, whose parts are written one after the other.
struct Page(String);

impl Page {
    fn put(&mut self, text: std::fmt::Arguments<'_>) -> Result<()> {
        self.0.write_fmt(text).map_err(|e| Error::config(format!("the report: {e}")))
    }
}

/// Appends to a page like `write!`.
macro_rules! put {
    ($page:expr, $($part:tt)*) => { $page.put(format_args!($($part)*))? };
}

/// The page of a report.
pub fn page(report: &Report<'_>) -> Result<String> {
    let mut page = Page(String::new());
    let word = if report.findings.pass() { "PASS" } else { "WARN" };
    head(&mut page, &format!("{word}: {}", report.name), report.name)?;
    verdict(&mut page, report.findings)?;
    slider(&mut page, report.plan.picture(), &report.restored.mean, place_of_y(report), "observation")?;
    deviation(&mut page, report)?;
    numbers(&mut page, report.findings)?;
    warnings(&mut page, report.warnings)?;
    if let Some(adaptation) = &report.restored.record.adaptation {
        let outcome = adaptation.outcome.as_ref().map(ToString::to_string);
        neighbours(&mut page, &adaptation.images, adaptation.gallery.as_deref(), (adaptation.used, outcome))?;
    }
    settings(&mut page, report)?;
    put!(page, "<script>{SCRIPT}</script>\n</html>\n");
    Ok(page.0)
}

/// The page of a report about a result of a latent diffusion model.
pub fn latent_page(report: &LatentReport<'_>) -> Result<String> {
    let mut page = Page(String::new());
    let (record, request) = (&report.restored.record, report.plan.request());
    head(&mut page, report.name, report.name)?;
    let (input, said) = match request.task {
        LatentTask::Edit { .. } => (
            "picture",
            "The model invents what the marked part shows. All other pixels are those of the picture, to the bit.",
        ),
        _ => (
            "observation",
            "The model invents detail: what the result shows need not be there. How far it is from the observation, scaled \
             down, stands under Agreement.",
        ),
    };
    put!(page, "<div class=\"verdict\">{said}</div>\n");
    if let Some(first) = report.restored.results.first() {
        slider(&mut page, report.plan.picture(), first, WHOLE, input)?;
    }
    if let Some(findings) = report.findings {
        numbers(&mut page, findings)?;
    }
    warnings(&mut page, report.warnings)?;
    if let (Some(adaptation), Some(adapt)) = (&record.adaptation, &request.adapt) {
        let outcome = adaptation.outcome.map(|found| {
            format!(
                "the loss on held-out crops went from {:.4} to {:.4} (+- {:.4})",
                found.before, found.after, found.error
            )
        });
        neighbours(&mut page, &adaptation.images, Some(&adapt.gallery), (adaptation.used, outcome))?;
    }
    let mut rows = vec![
        ("program".to_owned(), record.program.clone()),
        (input.into(), request.input.display().to_string()),
        (format!("SHA-256 of the {input}"), record.input.sha256.to_string()),
        ("SHA-256 of the model".into(), record.model.clone()),
        ("computed by".into(), format!("{} in {}", record.device, record.dtype)),
        ("prompt".into(), request.prompt.clone()),
        ("time".into(), format!("{:.1} s", record.seconds.load_and_adapt + record.seconds.sample)),
    ];
    // What the plan says, a setting a line.
    let plan = report.plan.to_string();
    let said = plan.lines().filter_map(|line| line.split_once("  "));
    rows.extend(said.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    put!(
        page,
        "<h2>Settings</h2>\n<table class=\"wide\">\n<thead><tr><th>setting</th><th>value</th></tr></thead>\n<tbody>\n"
    );
    for (name, value) in rows {
        put!(page, "<tr><td>{}</td><td>{}</td></tr>\n", escaped(&name), escaped(&value));
    }
    put!(page, "</tbody></table>\n<script>{SCRIPT}</script>\n</html>\n");
    Ok(page.0)
}

fn head(page: &mut Page, title: &str, name: &str) -> Result<()> {
    let (title, name) = (escaped(title), escaped(name));
    put!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>{title}</title>\n<style>\n{}</style>\n<h1>{name}</h1>\n",
        include_str!("page.css")
    );
    Ok(())
}

fn verdict(page: &mut Page, findings: &Findings) -> Result<()> {
    if findings.pass() {
        put!(
            page,
            "<div class=\"verdict pass\"><b>PASS</b> The result agrees with the observation as well as noise and rounding \
             allow. That says nothing of what the observation does not show: it is invented from what is likely.</div>\n"
        );
        return Ok(());
    }
    put!(page, "<div class=\"verdict warn\"><b>WARN</b><ul>");
    for fault in &findings.faults {
        put!(page, "<li>{}</li>", escaped(fault));
    }
    put!(page, "</ul></div>\n");
    Ok(())
}

/// Input and result, one over the other; what the input is called.
fn slider(page: &mut Page, y: &Picture, x: &Picture, [top, left, height, width]: [f64; 4], input: &str) -> Result<()> {
    let (y, x) = (shown(y)?, shown(x)?);
    let (title, symbol) = match input {
        "observation" => ("Observation", " y"),
        _ => ("Picture", ""),
    };
    put!(
        page,
        "<h2>{title} and result</h2>\n<div class=\"frame\" style=\"--ratio:{}/{}\"><div class=\"pair\" id=\"pair\">\
         <img alt=\"The {input}{symbol}\" src=\"{}\" style=\"top:{top}%;left:{left}%;width:{width}%;height:{height}%\">\
         <img class=\"x\" alt=\"The result x\" src=\"{}\"><i></i></div>\n\
         <input type=\"range\" id=\"at\" min=\"0\" max=\"100\" value=\"50\" step=\"1\" \
         aria-label=\"Border between {input} and result, percent from the left\">\n\
         <div class=\"ends\"><span>{input}</span><span>result</span></div></div>\n",
        x.width,
        x.height,
        y.url,
        x.url
    );
    if x.shrunk || y.shrunk {
        put!(page, "<p class=\"note\">Pictures are made smaller for this page; the files are not.</p>\n");
    }
    Ok(())
}

/// Where y lies on the result, in percent of it: top, left, height, width. Only a result that keeps its margin is larger.
fn place_of_y(report: &Report<'_>) -> [f64; 4] {
    let measurement = report.plan.restore().measurement();
    let (whole, y) = (measurement.result(), ImageShape::of_batch(measurement.y()));
    let window = measurement.degradation().and_then(|degradation| degradation.window_for_range(y).ok());
    let is_kept = report.plan.request().problem.keep_margin;
    let Window { top, left, height, width } = window.filter(|_| is_kept).unwrap_or(Window::whole(whole));
    let percent = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
    [percent(top, whole.height), percent(left, whole.width), percent(height, whole.height), percent(width, whole.width)]
}

fn deviation(page: &mut Page, report: &Report<'_>) -> Result<()> {
    let Some(deviation) = &report.restored.deviation else { return Ok(()) };
    let heat = shown(&deviation.heat)?;
    put!(
        page,
        "<h2>Where {} samples differ</h2>\n<figure class=\"frame\" style=\"--ratio:{}/{}\"><img alt=\"Standard deviations in colour over the mean\" src=\"{}\" \
         width=\"{}\" height=\"{}\">\
         <div class=\"scale\" style=\"background:linear-gradient(to right,#808080,#280b54 6%,#781c6d 25%,#cb4149 50%,\
         #f59628 75%,#fcffa4)\"></div><div class=\"ends\"><span>they agree</span><span>32 grey levels and more</span></div>\
         <figcaption>Standard deviation over the samples: {:.2} grey levels in the root mean square, {:.1} at most. Where \
         there is colour, the observation does not determine the image.</figcaption></figure>\n",
        report.restored.record.samples,
        heat.width,
        heat.height,
        heat.url,
        heat.width,
        heat.height,
        deviation.record.rms_255,
        deviation.record.most_255
    );
    Ok(())
}

fn numbers(page: &mut Page, findings: &Findings) -> Result<()> {
    put!(
        page,
        "<h2>Agreement</h2>\n<table>\n<tr><th>values of y compared</th><td>{}</td></tr>\n\
         <tr><th>A x - y, root mean square</th><td>{:.3} grey levels; noise, rounding and the solver explain {:.3}</td></tr>\n\
         <tr><th>noise given</th><td>{} grey levels</td></tr>\n",
        findings.observed,
        findings.misfit_255,
        findings.allowed_255,
        findings.sigma_255
    );
    let channels: &[&str] = if findings.bias.len() == 3 { &["red", "green", "blue"] } else { &["grey"] };
    for (bias, channel) in findings.bias.iter().zip(channels) {
        let said = if bias.is_significant() { ": more than chance" } else { "" };
        put!(
            page,
            "<tr><th>bias of A x - y, {channel}</th><td>{:+.3} &plusmn; {:.3} grey levels{said}</td></tr>\n",
            bias.mean_255,
            bias.error_255
        );
    }
    put!(
        page,
        "<tr><th>black or white</th><td>{:.2} % of the result, {:.2} % of the observation, noise aside</td></tr>\n</table>\n",
        100.0 * findings.clipped,
        100.0 * findings.clipped_observed
    );
    Ok(())
}

fn warnings(page: &mut Page, warnings: &[String]) -> Result<()> {
    if warnings.is_empty() {
        return Ok(());
    }
    put!(page, "<h2>Warnings</h2>\n<ul class=\"list\">\n");
    for warning in warnings {
        put!(page, "<li>{}</li>\n", escaped(warning));
    }
    put!(page, "</ul>\n");
    Ok(())
}

/// The images that were adapted to, as thumbnails where their files can be read.
fn neighbours(
    page: &mut Page,
    images: &[ImageRecord],
    gallery: Option<&Path>,
    (used, outcome): (bool, Option<String>),
) -> Result<()> {
    let used = if used { "used" } else { "not used" };
    put!(page, "<h2>Adaptation</h2>\n<p>The adapted weights were {used}");
    match outcome {
        Some(outcome) => put!(page, ": {}.</p>\n", escaped(&outcome)),
        None => put!(page, ".</p>\n"),
    }
    put!(page, "<div class=\"few\">\n");
    for image in images.iter().take(SHOWN_NEIGHBOURS) {
        let name = image.path.as_deref().map_or("an image from memory".into(), Path::to_string_lossy);
        let file = image.path.as_ref().map(|path| gallery.map_or(path.clone(), |gallery| gallery.join(path)));
        let small = file.and_then(|file| small(&file, image.tile));
        let distance = image.distance.map_or(String::new(), |distance| format!(", {distance:.2} rad"));
        let tile = image.tile.map_or(String::new(), |tile| format!(", {tile}"));
        let name = format!("{}{tile}", escaped(&name));
        match small {
            Some(url) => put!(page, "<figure><img alt=\"\" src=\"{url}\">"),
            None => put!(page, "<figure>"),
        }
        put!(page, "<figcaption>{name}{distance}</figcaption></figure>\n");
    }
    put!(page, "</div>\n");
    let more = images.len().saturating_sub(SHOWN_NEIGHBOURS);
    if more > 0 {
        put!(page, "<p class=\"note\">And {more} more.</p>\n");
    }
    Ok(())
}

/// The address of a thumbnail, if the file can be read.
fn small(file: &Path, tile: Option<Tile>) -> Option<String> {
    let mut picture: Picture = read_image_in(file, &Limits::default()).ok()?;
    if let Some(tile) = tile {
        picture.tensor = tile.cut(&picture.tensor).ok()?;
    }
    Some(thumbnail(&picture).ok()?.url)
}

fn settings(page: &mut Page, report: &Report<'_>) -> Result<()> {
    let record = &report.restored.record;
    put!(page, "<h2>Settings</h2>\n<table class=\"wide\">\n");
    put!(page, "<thead><tr><th>setting</th><th>value</th><th>source</th></tr></thead>\n<tbody>\n");
    let file = record.input.path.as_deref().map_or("from memory".into(), Path::to_string_lossy);
    let facts = [
        ("program", record.program.clone()),
        ("observation", file.into_owned()),
        ("SHA-256 of the observation", record.input.sha256.to_string()),
        ("model", record.model.name.clone()),
        ("SHA-256 of the model", record.model.sha256.clone()),
        ("computed by", format!("{} in {}", record.device, record.dtype)),
        ("task", record.task.to_string()),
        ("noise", noise(record)),
        ("seed", record.seed.to_string()),
        ("samples", record.samples.to_string()),
        ("time", format!("{:.1} s", record.seconds.load_and_adapt + record.seconds.sample)),
    ];
    for (name, value) in facts {
        put!(page, "<tr><td>{name}</td><td>{}</td><td></td></tr>\n", escaped(&value));
    }
    for choice in &record.sources {
        let source = choice.source.to_string();
        let [name, value, source] = [&choice.name, choice.value.as_str(), source.as_str()].map(escaped);
        put!(page, "<tr><td>{name}</td><td>{value}</td><td>{source}</td></tr>\n");
    }
    put!(page, "</tbody></table>\n");
    Ok(())
}

/// The noise of y in words.
fn noise(record: &adir::engine::Record) -> String {
    let grows = record.gain.map(|gain| format!(", and a variance of {gain} times the signal"));
    format!("{} grey levels{}", record.sigma, grows.unwrap_or_default())
}
