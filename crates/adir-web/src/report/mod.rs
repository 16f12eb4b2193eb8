//! `--report`: one page about a restoration that needs nothing but itself.

mod html;
mod page;
mod picture;

use std::io::Write;
use std::path::Path;

use adir::engine::{Findings, LatentPlan, LatentRestored, Plan, Restored};
use adir::io::atomic;
use adir::{Error, Result};

/// What the page tells.
pub struct Report<'a> {
    /// What was asked for.
    pub plan: &'a Plan,
    /// What came of it.
    pub restored: &'a Restored,
    /// What its numbers say.
    pub findings: &'a Findings,
    /// Warnings of the run.
    pub warnings: &'a [String],
    /// How the result is called.
    pub name: &'a str,
}

impl Report<'_> {
    /// Writes the page to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        let page = page::page(self)?;
        atomic::write(path, |file| file.write_all(page.as_bytes()).map_err(|e| Error::io(path, e)))
    }
}

/// What the page about a result of a latent diffusion model tells.
pub struct LatentReport<'a> {
    /// What was asked for.
    pub plan: &'a LatentPlan,
    /// What came of it.
    pub restored: &'a LatentRestored,
    /// What the numbers of the first result say.
    pub findings: Option<&'a Findings>,
    /// Warnings of the run.
    pub warnings: &'a [String],
    /// How the result is called.
    pub name: &'a str,
}

impl LatentReport<'_> {
    /// Writes the page to `path`, whole or not at all.
    ///
    /// # Errors
    /// As [`Report::write`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let page = page::latent_page(self)?;
        atomic::write(path, |file| file.write_all(page.as_bytes()).map_err(|e| Error::io(path, e)))
    }
}

/// The verdict in one line, after `PASS` or `WARN`.
pub fn in_one_line(name: &str, findings: &Findings) -> String {
    if !findings.pass() {
        return format!("{name}: {}", findings.faults.join("; "));
    }
    let Findings { misfit_255: misfit, clipped, .. } = findings;
    let (explained, clipped) = (findings.explained(), 100.0 * clipped);
    format!(
        "{name}: A x differs from y by {misfit:.2} grey levels ({explained}), no bias, {clipped:.1} % black or white"
    )
}
