//! A table in Markdown: what was measured beside what is published, and what a plan costs.

use std::fmt::Write as _;

use super::cell::PaperCell;
use super::plan::{PaperPlan, PaperStep};
use super::tables::{Published, Row};
use crate::metric::Metric;

/// What the paper judges by: how it calls that, the names of the metrics, as pyiqa computes them and as Google's program, and
/// what a version says of it.
const JUDGES: [(&str, [&str; 2], OfVersion); 2] = [
    ("KonIQ-MUSIQ", ["musiq", "musiq_google"], |published| published.koniq),
    ("AVA-MUSIQ", ["musiq_ava", "musiq_ava_google"], |published| published.ava),
];
/// How the names of LPIPS begin, which go on with its network.
const LPIPS: &str = "lpips_";

/// A number of what a version says.
type OfVersion = fn(&Published) -> Option<f64>;

/// A version of the paper, and what it says of a row.
struct Version {
    name: &'static str,
    of: fn(&Row) -> &Published,
    /// Digits behind the point, where all its numbers have as many.
    digits: Option<usize>,
}

const VERSIONS: [Version; 2] = [
    Version { name: "paper v1", of: |row| &row.first, digits: Some(3) },
    Version { name: "paper v2", of: |row| &row.second, digits: None },
];

/// A column: how a metric is headed, and what the paper says of it.
struct Column<'a> {
    metric: Option<&'a dyn Metric>,
    heading: String,
    published: Option<OfVersion>,
}

impl<'a> Column<'a> {
    /// The paper's own first, whether they can be measured or not; then LPIPS, and all others.
    fn all(metrics: &'a [Box<dyn Metric>]) -> Vec<Self> {
        let metrics = || metrics.iter().map(AsRef::as_ref);
        let mut columns = Vec::new();
        for (judge, names, published) in JUDGES {
            let column = |heading: String, metric| Column { metric, heading, published: Some(published) };
            let found = metrics().filter(|metric| names.contains(&metric.name()));
            columns.extend(found.map(|metric| match metric.name() == names[0] {
                true => column(judge.into(), Some(metric)),
                false => column(format!("{judge} by Google's program"), Some(metric)),
            }));
            if !metrics().any(|metric| names.contains(&metric.name())) {
                columns.push(column(judge.into(), None));
            }
        }
        let is_judge = |metric: &&dyn Metric| JUDGES.iter().any(|(_, names, _)| names.contains(&metric.name()));
        let others = metrics().filter(|metric| !is_judge(metric));
        columns.extend(others.map(|metric| Column {
            metric: Some(metric),
            heading: metric.name().replace('_', " "),
            published: metric.name().starts_with(LPIPS).then_some((|published| published.lpips) as OfVersion),
        }));
        // What has a published number beside it comes first.
        columns.sort_by_key(|column| column.published.is_none());
        columns
    }

    /// The mean over the cells, as it is printed.
    fn mean(&self, cells: &[&PaperCell]) -> String {
        let Some(metric) = self.metric else { return "not measured".into() };
        let values: Vec<f64> = cells.iter().filter_map(|cell| cell.value(metric.name())).collect();
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let (digits, count) = (metric.digits(), finite.len());
        match (values.is_empty(), count) {
            (true, _) => "-".into(),
            (false, 0) => "exact".into(),
            _ => format!("{:.digits$}", finite.iter().sum::<f64>() / count as f64),
        }
    }

    /// What a version says of a row.
    fn said(&self, version: &Version, row: &Row) -> Option<f64> {
        self.published.and_then(|value| value((version.of)(row)))
    }

    /// The versions that say something of any of these rows.
    fn versions(&self, rows: &[(&PaperStep, &Row)]) -> impl Iterator<Item = &'static Version> {
        VERSIONS.iter().filter(|version| rows.iter().any(|(_, row)| self.said(version, row).is_some()))
    }
}

impl PaperPlan {
    /// The table in Markdown, of the cells that are there: means over images, and how many.
    pub fn table(&self, cells: &[PaperCell], metrics: &[Box<dyn Metric>]) -> String {
        let table = self.config.table;
        let mut text = format!("# {table}: {}\n\n", table.title());
        let (complete, wanted) = (cells.len(), self.images.len() * self.steps.len());
        if complete < wanted {
            let _ = writeln!(text, "Not finished: {complete} of {wanted} cells are there.\n");
        }
        text.push_str(
            "Means over the images beside what the paper says: v1 is its first version (all weights), v2 its second \
             (low-rank factors). Measured on the pictures as they are kept, with 8 bits. \"-\": nothing is published.\n",
        );
        if !self.model.is_empty() {
            let _ = writeln!(text, "\nModel {:.12}, seed {}.", self.model, self.config.seed);
        }
        let differences = self.differs();
        if !differences.is_empty() {
            text.push_str("\nNot as in the paper, whose own is in brackets:\n\n");
            for line in differences {
                let _ = writeln!(text, "- {line}");
            }
        }
        let columns = Column::all(metrics);
        for (k, experiment) in table.experiments().iter().enumerate() {
            let steps: Vec<&PaperStep> = self.steps.iter().filter(|step| step.experiment == k).collect();
            let Some(side) = steps.first().map(|step| step.side) else { continue };
            let _ = writeln!(text, "\n## {}, references of {side}x{side} pixels\n", experiment.task);
            self.rows(&mut text, &columns, &steps, cells);
            self.nearest(&mut text, &steps, cells);
        }
        text.push_str("\nColumns:\n\n");
        for metric in columns.iter().filter_map(|column| column.metric) {
            let _ = writeln!(
                text,
                "- {}: {} is better; {}",
                metric.name().replace('_', " "),
                metric.better(),
                metric.describe()
            );
        }
        text
    }

    fn rows(&self, text: &mut String, columns: &[Column<'_>], steps: &[&PaperStep], cells: &[PaperCell]) {
        let rows: Vec<(&PaperStep, &Row)> = steps
            .iter()
            .filter_map(|step| Some((*step, self.experiment(step).rows.iter().find(|row| row.method == step.method)?)))
            .collect();
        let mut headings = vec!["row".to_owned()];
        for column in columns {
            headings.push(column.heading.clone());
            headings.extend(column.versions(&rows).map(|version| version.name.to_owned()));
        }
        headings.push("images".into());
        let mut line = |cells: &[String]| {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        line(&headings);
        line(&vec!["---".to_owned(); headings.len()]);
        for (step, row) in &rows {
            let mine: Vec<&PaperCell> = cells.iter().filter(|cell| self.holds(step, cell)).collect();
            let mut shown = vec![self.config.table.label(row.method).to_owned()];
            for column in columns {
                shown.push(column.mean(&mine));
                shown.extend(column.versions(&rows).map(|version| match (column.said(version, row), version.digits) {
                    (None, _) => "-".into(),
                    (Some(value), Some(digits)) => format!("{value:.digits$}"),
                    (Some(value), None) => value.to_string(),
                }));
            }
            shown.push(format!("{} of {}", mine.len(), self.images.len()));
            line(&shown);
        }
    }

    /// What the table takes of memory and of time with so many products a second, a line for each row: `done` are the cells
    /// that are there.
    pub fn costs(&self, speed: f64, done: &[PaperCell]) -> String {
        let own = self.own_images();
        let is_own = |cell: &&PaperCell| own.iter().any(|image| image.name == cell.image);
        let mut text = String::from(
            "| task | side | row | memory, GB | 10^12 products | hours an image | images left | hours |\n",
        );
        text.push_str("|---|---|---|---|---|---|---|---|\n");
        let mut hours = 0.0;
        for step in &self.steps {
            let there = done.iter().filter(is_own).filter(|cell| self.holds(step, cell)).count();
            let (left, each) = (own.len() - there, step.cost.hours(speed));
            hours += left as f64 * each;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {:.2} | {:.3} | {each:.3} | {left} | {:.2} |",
                self.experiment(step).task,
                step.side,
                self.config.table.label(step.method),
                step.cost.memory as f64 / 1e9,
                step.cost.products as f64 / 1e12,
                left as f64 * each
            );
        }
        let (memory, speed) = (self.memory() as f64 / 1e9, speed / 1e9);
        let _ = write!(
            text,
            "\nin all               about {hours:.2} hours and {memory:.2} GB, at {speed:.0} * 10^9 products a second as \
             measured now with a small network; without metrics"
        );
        text
    }

    /// How near the images were that models were adapted to, and what was left out for being copies.
    fn nearest(&self, text: &mut String, steps: &[&PaperStep], cells: &[PaperCell]) {
        let mine = || cells.iter().filter(|cell| steps.iter().any(|step| self.holds(step, cell)));
        let distances = mine().filter_map(|cell| cell.neighbours.first()?.distance);
        let least = distances.fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            let copies = mine().map(|cell| cell.copies).max().unwrap_or(0);
            let _ = writeln!(
                text,
                "\nNearest image that a model was adapted to: {least:.3} radians from its observation. Left out as copies of \
                 a photograph: up to {copies}."
            );
        }
    }

    /// Whether a cell is one of a step.
    fn holds(&self, step: &PaperStep, cell: &PaperCell) -> bool {
        (cell.task.as_str(), cell.side, cell.method.as_str())
            == (self.experiment(step).task, step.side, step.method.name())
    }
}
