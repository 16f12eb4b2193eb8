//! What a client asks for, and the engine's request that it becomes.

use std::path::{Path, PathBuf};

use adir::engine::{Adapt, OutputRequest, Request};
use adir::io::limits::Limits;
use adir::io::side_inputs::read_kernel_values;
use adir::operator::{Boundary, Kernel, KernelCentre, KernelSpec};
use adir::problem::{Problem, Sigma};
use adir::task::{Method, Task};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::Fault;
use super::id::Id;

/// A restoration. Pictures are named by the ids of their uploads, galleries and models by the names that the server was
/// started with. What is left out takes the defaults of `adir restore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restoration {
    /// The observation y.
    #[schema(value_type = String)]
    pub image: Id,
    /// What happened to it: `sr2` to `sr16`, `deblur`, `inpaint`, `denoise`, `colourise`.
    pub task: String,
    /// The blur by name: `box:N`, `gaussian:N:SIGMA`, `motion:LENGTH:ANGLE`.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The blur as a picture of its weights.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub kernel_image: Option<Id>,
    /// The centre of a kernel with an even side: `opencv`, `matlab`, `symmetric`.
    #[serde(default)]
    pub kernel_centre: Option<String>,
    /// What the blur saw beyond the border: `valid`, `circular`, `reflect`, `reflect-101`, `replicate`, `constant:VALUE`.
    #[serde(default)]
    pub boundary: Option<String>,
    /// The missing pixels of an inpainting: white is missing.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub mask: Option<Id>,
    /// Pixels that were not measured, in any task.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ignore: Option<Id>,
    /// Standard deviation of the noise in grey levels of 0..255, or `auto`.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    pub sigma: Option<Sigma>,
    /// How the noise grows with the light.
    #[serde(default)]
    pub gain: Option<f64>,
    /// Whether the operator acts on light.
    #[serde(default)]
    pub linear_light: bool,
    /// 0 (faithful) to 1 (detailed).
    #[serde(default)]
    pub aim: Option<f64>,
    /// Number of samples.
    #[serde(default = "one")]
    pub samples: usize,
    /// Seed of the noise of sampling; -1 draws one.
    #[serde(default)]
    pub seed: i64,
    /// Network evaluations per sample.
    #[serde(default)]
    pub steps: Option<usize>,
    /// The sampler, as `--method` names it.
    #[serde(default)]
    pub method: Option<String>,
    /// The gallery whose nearest images the model is adapted to.
    #[serde(default)]
    pub gallery: Option<String>,
    /// Number of these images.
    #[serde(default)]
    pub neighbours: Option<usize>,
    /// Minutes for the training.
    #[serde(default)]
    pub adapt_minutes: Option<f64>,
    /// The model.
    #[serde(default)]
    pub model: Option<String>,
    /// Page of a stack, from 1.
    #[serde(default)]
    pub page: Option<usize>,
    /// Format of the result.
    #[serde(default)]
    pub format: Format,
}

fn one() -> usize {
    1
}

/// A format of results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// PNG, of 8 or 16 bits.
    #[default]
    Png,
    /// TIFF, of 8 or 16 bits or floats.
    Tif,
    /// JPEG.
    Jpg,
    /// WebP.
    Webp,
}

impl Format {
    /// The name of a result.
    pub fn file(self) -> &'static str {
        match self {
            Self::Png => "x.png",
            Self::Tif => "x.tif",
            Self::Jpg => "x.jpg",
            Self::Webp => "x.webp",
        }
    }
}

/// The files of a restoration.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// y.
    pub image: PathBuf,
    /// The missing pixels.
    pub mask: Option<PathBuf>,
    /// The pixels not measured.
    pub ignore: Option<PathBuf>,
    /// The kernel.
    pub kernel: Option<PathBuf>,
    /// Where the result goes, if anywhere.
    pub output: Option<PathBuf>,
}

impl Restoration {
    /// The task.
    pub fn task(&self) -> Result<Task, Fault> {
        Ok(self.task.parse()?)
    }

    /// What was measured. No text of the client is taken for a path.
    pub fn problem(&self, files: &Files, limits: &Limits) -> Result<Problem, Fault> {
        let mut problem = Problem::new(self.task()?);
        problem.kernel = match (&self.kernel, &files.kernel) {
            (Some(_), Some(_)) => return Err(Fault::config("a kernel is given by name and as a picture: give one")),
            (Some(name), None) => Some(name.parse::<KernelSpec>()?.into()),
            (None, Some(file)) => Some(kernel_in(file, limits)?.into()),
            (None, None) => None,
        };
        problem.kernel_centre = self.kernel_centre.as_deref().map(str::parse::<KernelCentre>).transpose()?;
        problem.boundary = self.boundary.as_deref().map(str::parse::<Boundary>).transpose()?;
        problem.mask = files.mask.as_deref().map(Into::into);
        problem.ignore = files.ignore.as_deref().map(Into::into);
        problem.sigma = self.sigma;
        problem.gain = self.gain;
        problem.linear_light = self.linear_light;
        problem.check()?;
        Ok(problem)
    }

    /// The engine's request, adapting to `gallery`.
    pub fn request(&self, files: &Files, gallery: Option<&Path>, limits: &Limits) -> Result<Request, Fault> {
        let seed = match self.seed {
            // One is drawn when it becomes a job.
            -1 => 0,
            seed => u64::try_from(seed).map_err(|_| Fault::config("a seed is 0 or more, or -1 to draw one"))?,
        };
        let mut request =
            Request::new(files.image.as_path(), self.problem(files, limits)?).samples(self.samples).seed(seed);
        request.reading.page = self.page;
        if let Some(steps) = self.steps {
            request = request.steps(steps);
        }
        request.sampling.overrides.aim = self.aim;
        request.sampling.overrides.method = self.method.as_deref().map(method).transpose()?;
        request.adapt = gallery.map(|gallery| {
            let mut adapt = Adapt::to_gallery(gallery);
            adapt.neighbours = self.neighbours.unwrap_or(adapt.neighbours);
            adapt.overrides.minutes = self.adapt_minutes;
            adapt
        });
        if gallery.is_none() && (self.neighbours.is_some() || self.adapt_minutes.is_some()) {
            return Err(Fault::config("neighbours and adapt_minutes have no effect without a gallery"));
        }
        // What lies there is of a run of this job that was killed.
        request.output = files.output.as_ref().map(|output| OutputRequest::new(output, true));
        Ok(request)
    }
}

fn kernel_in(file: &Path, limits: &Limits) -> Result<KernelSpec, Fault> {
    let grid = read_kernel_values(file, limits)?;
    Ok(KernelSpec::Values(Kernel::from_values(grid.height, grid.width, grid.values)?))
}

fn method(name: &str) -> Result<Method, Fault> {
    let found = Method::ALL.into_iter().find(|method| method.name() == name);
    let names = Method::ALL.map(Method::name).join(", ");
    found.ok_or_else(|| Fault::config(format!("no method {name:?}: expected one of {names}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Restoration, serde_json::Error> {
        serde_json::from_str(&json.replace("ID", &"0".repeat(32)))
    }

    #[test]
    fn a_text_is_never_a_path() {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        for kernel in [there.to_str().unwrap(), "../psf.png", "Cargo.toml"] {
            let text = format!(r#"{{"image": "ID", "task": "deblur", "kernel": {kernel:?}}}"#);
            let refused = read(&text).unwrap().problem(&Files::default(), &Limits::default()).unwrap_err();
            assert!(!refused.told.message.contains("rows"), "{refused:?}");
        }
        for image in ["..", "/etc/passwd", "x"] {
            assert!(read(&format!(r#"{{"image": "{image}", "task": "sr2"}}"#)).is_err());
        }
    }

    #[test]
    fn defaults_are_those_of_the_command_line() {
        let asked = read(r#"{"image": "ID", "task": "sr4"}"#).unwrap();
        let request = asked.request(&Files::default(), None, &Limits::default()).unwrap();
        let plain = Request::new("", Problem::super_resolution(4));
        assert_eq!(serde_json::to_value(&request).unwrap(), serde_json::to_value(&plain).unwrap());
        assert!(read(r#"{"image": "ID", "task": "sr4", "smaples": 2}"#).is_err());
        let wrong = read(r#"{"image": "ID", "task": "sr4", "neighbours": 5}"#).unwrap();
        assert!(wrong.request(&Files::default(), None, &Limits::default()).is_err());
    }
}
