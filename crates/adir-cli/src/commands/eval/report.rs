//! Tables and pictures of what was measured.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use adir::io::atomic;
use adir::io::image::{WriteOptions, read_image, write_image};
use adir::io::limits::Limits;
use adir::tensor::{Tensor, cpu};
use adir::{Error, Result};

use super::cell::{Cell, Measured};
use super::method::Method;
use super::task::EvalTask;

/// White pixels between pictures of a sheet.
const GAP: usize = 4;

/// An agreement of so many dB is one up to rounding.
const EXACT: f64 = 120.0;

/// Everything measured so far.
pub struct Report {
    cells: Vec<Cell>,
    shown: usize,
    rows: Vec<Vec<Tensor<4>>>,
    captions: Vec<String>,
}

impl Report {
    /// `shown` images of each set and task go into the sheet.
    pub fn new(shown: usize) -> Self {
        Self { cells: Vec::new(), shown, rows: Vec::new(), captions: Vec::new() }
    }

    pub fn add(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    /// A row of the sheet: observation, one sample of each method, truth.
    #[allow(clippy::too_many_arguments)] // what a row and its caption show
    pub fn show(
        &mut self,
        set: &str,
        task: &EvalTask,
        image: usize,
        y: &Tensor<4>,
        x: &Tensor<4>,
        methods: &[Method],
        pictures: &[PathBuf],
    ) -> Result<()> {
        if image >= self.shown {
            return Ok(());
        }
        let mut row = vec![task.picture(y, x)?];
        // The observation stands there already.
        let others = || methods.iter().zip(pictures).filter(|(m, _)| **m != Method::Observed);
        for (_, path) in others() {
            row.push(read_image(path, &Limits::default())?.tensor);
        }
        row.push(x.clone());
        self.rows.push(row);
        let names: Vec<_> = others().map(|(m, _)| m.name()).collect();
        let caption = format!("{set}, {}: observation, {}, truth", task.text, names.join(", "));
        if self.captions.last() != Some(&caption) {
            self.captions.push(caption);
        }
        Ok(())
    }

    /// Writes table.md, cells.csv and sheet.png.
    pub fn write(&self, folder: &Path, model: &str) -> Result<()> {
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            atomic::write(&path, |file| file.write_all(bytes).map_err(|e| Error::io(&path, e)))
        };
        write("cells.csv", self.csv()?.as_bytes())?;
        if let Some(sheet) = sheet(&self.rows) {
            write_image(&folder.join("sheet.png"), &sheet, &WriteOptions::default())?;
        }
        write("table.md", self.table(model).as_bytes())
    }

    fn csv(&self) -> Result<String> {
        let fault = |e: csv::Error| Error::config(format!("cells.csv: {e}"));
        let mut out = csv::Writer::from_writer(Vec::new());
        out.write_record([
            "set",
            "task",
            "image",
            "method",
            "seed",
            "psnr_one",
            "psnr_mean",
            "ssim_one",
            "ssim_mean",
            "feature_angle",
            "niqe",
            "agreement_db",
            "held_out_before",
            "held_out_after",
            "seconds",
        ])
        .map_err(fault)?;
        for c in &self.cells {
            let m = &c.measured;
            let maybe = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.6}"));
            let numbers = [m.psnr_one, m.psnr_mean, m.ssim_one, m.ssim_mean, m.features].map(|v| format!("{v:.6}"));
            let seconds = format!("{:.2}", c.seconds);
            let (before, after) = (maybe(c.held_out.map(|h| h.before)), maybe(c.held_out.map(|h| h.after)));
            let names = [c.set.clone(), c.task.clone(), c.image.clone(), c.method.clone(), c.seed.to_string()];
            let rest = [maybe(m.niqe), maybe(m.agreement), before, after, seconds];
            out.write_record(names.iter().chain(&numbers).chain(&rest)).map_err(fault)?;
        }
        let bytes = out.into_inner().map_err(|e| Error::config(format!("cells.csv: {e}")))?;
        String::from_utf8(bytes).map_err(|e| Error::config(format!("cells.csv: {e}")))
    }

    fn table(&self, model: &str) -> String {
        let mut text = format!(
            "Model {model:.12}. \"One\" is one sample (the mean of the numbers of all), \"mean\" the mean of the samples. \
            PSNR and SSIM on RGB, agreement is the PSNR of A x against y, features the angle in radians between EfficientNet-Lite0 \
            features of a sample and of the truth (not a published quality metric), NIQE only from 192x96 pixels on. In brackets: \
            better than none in so many images, by PSNR of the mean and by features.\n"
        );
        let mut groups: Vec<(&str, &str)> = Vec::new();
        for c in &self.cells {
            if !groups.contains(&(&c.set, &c.task)) {
                groups.push((&c.set, &c.task));
            }
        }
        for (set, task) in groups {
            let of = |method: &str| -> Vec<&Cell> {
                self.cells.iter().filter(|c| c.set == set && c.task == task && c.method == method).collect()
            };
            let plain = of("none");
            let count = Method::ALL.iter().map(|m| of(&m.name()).len()).max().unwrap_or(0);
            let _ = write!(
                text,
                "\n### {set}, {task} ({count} images)\n\n| method | PSNR one | PSNR mean | SSIM one | SSIM mean | features | NIQE \
                 | agreement | better than none | seconds |\n|---|---|---|---|---|---|---|---|---|---|\n"
            );
            for method in Method::ALL.iter().map(|m| m.name()) {
                let cells = of(&method);
                if cells.is_empty() {
                    continue;
                }
                let mean = |f: &dyn Fn(&Measured) -> Option<f64>| -> Option<f64> {
                    let values: Vec<f64> = cells.iter().filter_map(|c| f(&c.measured)).collect();
                    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
                };
                let shown = |v: Option<f64>, digits: usize| v.map_or_else(String::new, |v| format!("{v:.digits$}"));
                let better = if plain.len() == cells.len() && method != "none" {
                    let pairs = || cells.iter().zip(&plain).map(|(a, b)| (a.measured, b.measured));
                    let by_psnr = pairs().filter(|(a, b)| a.psnr_mean > b.psnr_mean).count();
                    let by_features = pairs().filter(|(a, b)| a.features < b.features).count();
                    let gain = pairs().map(|(a, b)| a.psnr_mean - b.psnr_mean).sum::<f64>() / cells.len() as f64;
                    format!("{gain:+.3} dB [{by_psnr}, {by_features} of {}]", cells.len())
                } else {
                    String::new()
                };
                let seconds = cells.iter().map(|c| c.seconds).sum::<f64>() / cells.len() as f64;
                let _ = writeln!(
                    text,
                    "| {method} | {} | {} | {} | {} | {} | {} | {} | {better} | {seconds:.1} |",
                    shown(mean(&|m| Some(m.psnr_one)), 2),
                    shown(mean(&|m| Some(m.psnr_mean)), 2),
                    shown(mean(&|m| Some(m.ssim_one)), 3),
                    shown(mean(&|m| Some(m.ssim_mean)), 3),
                    shown(mean(&|m| Some(m.features)), 3),
                    shown(mean(&|m| m.niqe), 2),
                    mean(&|m| m.agreement).filter(|a| *a < EXACT).map_or("exact".into(), |a| format!("{a:.1}")),
                );
            }
        }
        if !self.captions.is_empty() {
            text.push_str("\n![sheet](sheet.png)\n\nRows of the sheet, in order:\n\n");
            for caption in &self.captions {
                let _ = writeln!(text, "- {caption}");
            }
        }
        text
    }
}

/// The pictures in rows, the smaller ones on white.
fn sheet(rows: &[Vec<Tensor<4>>]) -> Option<Tensor<4>> {
    let all = || rows.iter().flatten().map(|t| t.dims());
    let (height, width) = (all().map(|d| d[2]).max()?, all().map(|d| d[3]).max()?);
    let columns = rows.iter().map(Vec::len).max()?;
    let mut sheet = Tensor::ones([1, 3, rows.len() * (height + GAP), columns * (width + GAP)], &cpu());
    for (i, row) in rows.iter().enumerate() {
        for (j, picture) in row.iter().enumerate() {
            let [_, _, h, w] = picture.dims();
            let (top, left) = (i * (height + GAP), j * (width + GAP));
            sheet = sheet.slice_assign([0..1, 0..3, top..top + h, left..left + w], picture.clone());
        }
    }
    Some(sheet)
}
