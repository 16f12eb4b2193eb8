//! Tables and pictures of what was measured.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use adir::evaluate::{Cell, EvalTask, Method};
use adir::io::atomic;
use adir::io::image::{WriteOptions, read_image, write_image};
use adir::io::limits::Limits;
use adir::io::tally::counted;
use adir::metric::{Better, Metric};
use adir::tensor::{Tensor, cpu};
use adir::{Error, Result};

/// White pixels between pictures of a sheet.
const GAP: usize = 4;

/// So many dB are equality up to rounding.
const EXACT: f64 = 120.0;

/// The columns by which a method counts as better than the prior as it is.
const JUDGES: [&str; 2] = ["psnr_rgb_mean", "feature_angle_one"];

/// Everything measured so far.
pub struct Report<'a> {
    columns: Vec<Column<'a>>,
    cells: Vec<Cell>,
    shown: usize,
    rows: Vec<Vec<Tensor<4>>>,
    captions: Vec<String>,
}

/// A number that tables have of every result.
#[derive(Clone, Copy)]
struct Column<'a> {
    metric: &'a dyn Metric,
    of: Of,
}

/// What it is the number of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// The mean over the samples of the number of each.
    One,
    /// The mean of the samples.
    Mean,
}

impl<'a> Column<'a> {
    /// The one or two columns of a metric.
    fn all_of(metric: &'a dyn Metric) -> impl Iterator<Item = Self> {
        let one = metric.over().samples().then_some(Of::One);
        let mean = metric.over().mean().then_some(Of::Mean);
        one.into_iter().chain(mean).map(move |of| Self { metric, of })
    }

    /// Its name, the words joined by `between`.
    fn name(&self, between: &str) -> String {
        let of = match self.of {
            Of::One => "one",
            Of::Mean => "mean",
        };
        format!("{}{between}{of}", self.metric.name())
    }

    fn value(&self, cell: &Cell) -> Option<f64> {
        let found = cell.measured.get(self.metric.name())?;
        match self.of {
            Of::One => found.one,
            Of::Mean => found.mean,
        }
    }

    /// The mean over the cells that have a finite number, as it is printed.
    fn mean(&self, cells: &[&Cell]) -> String {
        let values: Vec<f64> = cells.iter().filter_map(|cell| self.value(cell)).collect();
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let (mean, digits) = (finite.iter().sum::<f64>() / finite.len() as f64, self.metric.digits());
        match (values.is_empty(), finite.is_empty(), self.metric.unit()) {
            (true, ..) => String::new(),
            (_, true, _) => "exact".into(),
            (.., "dB") if mean >= EXACT => "exact".into(),
            _ => format!("{mean:.digits$}"),
        }
    }
}

impl<'a> Report<'a> {
    /// Tables of these metrics; `shown` images of each set and task go into the sheet.
    pub fn new(metrics: &'a [Box<dyn Metric>], shown: usize) -> Self {
        let columns = metrics.iter().flat_map(|metric| Column::all_of(metric.as_ref())).collect();
        Self { columns, cells: Vec::new(), shown, rows: Vec::new(), captions: Vec::new() }
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
        // The row already starts with the observation.
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
        let names = self.columns.iter().map(|column| column.name("_"));
        let before = ["set", "task", "image", "method", "seed"].map(str::to_owned);
        let after = ["held_out_before", "held_out_after", "seconds"].map(str::to_owned);
        out.write_record(before.into_iter().chain(names).chain(after)).map_err(fault)?;
        for c in &self.cells {
            let maybe = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.6}"));
            let numbers = self.columns.iter().map(|column| maybe(column.value(c)));
            let before = [c.set.clone(), c.task.clone(), c.image.clone(), c.method.clone(), c.seed.to_string()];
            let held_out = [c.held_out.as_ref().map(|h| h.before), c.held_out.as_ref().map(|h| h.after)].map(maybe);
            let seconds = [format!("{:.2}", c.seconds)];
            out.write_record(before.into_iter().chain(numbers).chain(held_out).chain(seconds)).map_err(fault)?;
        }
        let bytes = out.into_inner().map_err(|e| Error::config(format!("cells.csv: {e}")))?;
        String::from_utf8(bytes).map_err(|e| Error::config(format!("cells.csv: {e}")))
    }

    fn table(&self, model: &str) -> String {
        let mut text = format!(
            "Model {model:.12}. \"One\" is one sample (the mean of the numbers of all), \"mean\" the mean of the samples; \
            over images numbers are averaged as they are, perfect ones left out (\"exact\" where all are). In brackets: better \
            than none in so many images, by {}.\n\n",
            JUDGES.join(" and by ")
        );
        for (i, column) in self.columns.iter().enumerate() {
            let metric = column.metric;
            if i == 0 || self.columns[i - 1].metric.name() != metric.name() {
                let _ = writeln!(text, "- {}: {} is better; {}", metric.name(), metric.better(), metric.describe());
            }
        }
        let mut groups: Vec<(&str, &str)> = Vec::new();
        for c in &self.cells {
            if !groups.contains(&(&c.set, &c.task)) {
                groups.push((&c.set, &c.task));
            }
        }
        let headings: Vec<String> = self.columns.iter().map(|column| column.name(" ")).collect();
        for (set, task) in groups {
            let cells_of = |method: &str| -> Vec<&Cell> {
                self.cells.iter().filter(|c| c.set == set && c.task == task && c.method == method).collect()
            };
            let plain = cells_of("none");
            let count = Method::ALL.iter().map(|(_, name)| cells_of(name).len()).max().unwrap_or(0);
            let _ = write!(
                text,
                "\n### {set}, {task} ({})\n\n| method | {} | better than none | seconds |\n|---|{}---|---|\n",
                counted(count, "image"),
                headings.join(" | "),
                "---|".repeat(headings.len()),
            );
            for (_, method) in Method::ALL {
                let cells = cells_of(method);
                if cells.is_empty() {
                    continue;
                }
                let better = if plain.len() == cells.len() && method != "none" {
                    self.better_than(&cells, &plain)
                } else {
                    String::new()
                };
                let numbers: Vec<String> = self.columns.iter().map(|column| column.mean(&cells)).collect();
                let seconds = cells.iter().map(|c| c.seconds).sum::<f64>() / cells.len() as f64;
                let _ = writeln!(text, "| {method} | {} | {better} | {seconds:.1} |", numbers.join(" | "));
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

    /// The mean gain over other cells of the same images by the first judge, and in how many images each judge says so.
    fn better_than(&self, cells: &[&Cell], others: &[&Cell]) -> String {
        let judges = JUDGES.map(|name| self.columns.iter().find(|column| column.name("_") == name));
        let pairs = |column: &'_ Column<'a>| -> Vec<(f64, f64)> {
            let both = cells.iter().zip(others).map(|(a, b)| column.value(a).zip(column.value(b)));
            both.flatten().collect()
        };
        let wins = judges.iter().flatten().map(|column| {
            let better: Better = column.metric.better();
            pairs(column).iter().filter(|(a, b)| better.prefers(*a, *b)).count().to_string()
        });
        let wins = wins.collect::<Vec<_>>().join(", ");
        let gain = judges[0].map(|column| {
            let gain = pairs(column).iter().map(|(a, b)| a - b).sum::<f64>() / cells.len() as f64;
            format!("{gain:+.3} {} ", column.metric.unit())
        });
        format!("{}[{wins} of {}]", gain.unwrap_or_default(), cells.len())
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
