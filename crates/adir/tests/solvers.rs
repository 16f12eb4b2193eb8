//! Published solvers against their reference implementations on an ideal Gaussian prior, with the same noise, through the
//! settings that a method resolves to. `fixtures/solvers.py` made the references, most of them with deepinv.

use std::sync::Arc;

use adir::guidance::Strength;
use adir::io::limits::Limits;
use adir::models::{Denoiser, Pixels};
use adir::operator::{BicubicDownsample, Blur, Boundary, ImageShape, Kernel, LinearOperator, Mask, PixelMask};
use adir::problem::Problem;
use adir::restore::{RestorePlan, SamplingConfig};
use adir::sampler::NoiseSource;
use adir::schedule::{BetaSchedule, Schedule};
use adir::task::{Hint, Method, Overrides, Preset};
use adir::tensor::{DType, Tensor, cpu, from_f64, to_f64};
use adir::testing::{GaussianDenoiser, distance};
use adir::units::NoiseLevel;
use adir::{Error, Result};
use serde::Deserialize;

const SIDE: usize = 8;
const SHAPE: ImageShape = ImageShape::new(1, SIDE, SIDE);
const CASES: &str = include_str!("fixtures/solvers.json");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    method: Method,
    operator: String,
    sigma: f64,
    steps: String,
    eta: Option<f64>,
    zeta: Option<f64>,
    step: Option<f64>,
    y: Vec<f64>,
    result: Vec<f64>,
}

fn image(value: impl Fn(f64) -> f64) -> Tensor<4> {
    let values = (0..SIDE * SIDE).map(|i| value(i as f64)).collect();
    from_f64(values, [1, 1, SIDE, SIDE], &cpu()).cast(DType::F32)
}

/// The noise of the script.
struct Recorded;

impl NoiseSource for Recorded {
    fn noise(&self, step: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        self.start(step + 1, like)
    }

    fn start(&self, used: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        let k = used as f64;
        Ok(image(|i| 1.4 * (1.0 + 3.7 * k + 1.9 * i + 0.13 * i * i).sin()).cast(like.dtype()))
    }
}

fn operator(name: &str) -> (Arc<dyn LinearOperator>, Hint) {
    let outer = |w: [f64; 3]| w.iter().flat_map(|a| w.map(|b| a * b)).collect();
    match name {
        "blur" => {
            let kernel = Kernel::from_values(3, 3, outer([1.0, 4.0, 1.0])).unwrap();
            (Arc::new(Blur::new(SHAPE, kernel, Boundary::Circular).unwrap()), Hint::Blurs)
        }
        "mask" => {
            let known = (0..SIDE * SIDE).map(|i| i as f64).map(|i| (2.3 * i + 0.2 * i * i).sin() > 0.0).collect();
            (Arc::new(PixelMask::new(SHAPE, Mask::new(SIDE, SIDE, known).unwrap()).unwrap()), Hint::Hides)
        }
        _ => (Arc::new(BicubicDownsample::new(SHAPE, 2).unwrap()), Hint::ShrinksBy(2)),
    }
}

impl Case {
    fn problem(&self) -> Problem {
        let (operator, hint) = operator(&self.operator);
        Problem::with_operator(operator, hint).sigma(self.sigma * 127.5)
    }

    fn y(&self) -> Tensor<4> {
        let ImageShape { height, width, .. } = operator(&self.operator).0.range();
        from_f64(self.y.clone(), [1, 1, height, width], &cpu()).cast(DType::F32)
    }

    /// The states after every step.
    fn run(&self) -> Result<Vec<Vec<f64>>> {
        let schedule = Schedule::new(BetaSchedule::Linear, 1000)?;
        let (mean, variance) = (image(|i| 1.1 * (0.4 * i).cos()), image(|i| 0.4 + 0.2 * (1.3 * i).sin()));
        let denoiser = GaussianDenoiser::new(schedule, mean, variance);
        let overrides = Overrides {
            method: Some(self.method),
            steps: Some(self.steps.clone()),
            eta: self.eta,
            zeta: self.zeta,
            strength: self.step.map(Strength::Scale),
            ..Overrides::default()
        };
        let sampling = SamplingConfig { preset: Preset::Fast, overrides, seed: 0, class: None, adapted: false };
        let measurement = self.problem().measure(&self.y(), NoiseLevel(0.0), 1, &Limits::default())?;
        let plan = RestorePlan::new(measurement, &sampling, denoiser.info())?;
        plan.sampler(&denoiser, &Pixels, &Recorded)?.map(|step| to_f64(&step?.x_t)).collect()
    }
}

#[test]
fn every_sibling_is_its_reference() {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let name = format!("{} of {} with noise {} (eta {:?})", case.method, case.operator, case.sigma, case.eta);
        let mut states = case.run().unwrap_or_else(|e: Error| panic!("{name}: {e}"));
        if case.method == Method::Diffpir {
            states.pop(); // deepinv ends with the state before the last evaluation
        }
        let found = distance(states.last().unwrap(), &case.result).unwrap();
        if found.relative_l2 > 1e-4 {
            wrong.push(format!("{name}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where a method needs eigenvectors that are not known it says so, and where only its equations need solving it goes on.
#[test]
fn methods_that_need_singular_values_refuse_what_has_none() {
    let valid: Arc<dyn LinearOperator> =
        Arc::new(Blur::new(SHAPE, Kernel::boxed(3).unwrap(), Boundary::Replicate).unwrap());
    assert!(!valid.gram().is_some_and(|gram| gram.is_exact()));
    let y = valid.apply(&image(|i| (0.3 * i).sin())).unwrap();
    let measurement = Problem::with_operator(valid, Hint::Blurs).sigma(5.0);
    let measurement = measurement.measure(&y, NoiseLevel(0.0), 1, &Limits::default()).unwrap();
    let info =
        GaussianDenoiser::new(Schedule::new(BetaSchedule::Linear, 1000).unwrap(), image(|_| 0.0), image(|_| 1.0));
    for (method, refuses) in [
        (Method::Ddnm, true),
        (Method::Ddrm, true),
        (Method::Diffpir, false),
        (Method::Dps, false),
        (Method::Pigdm, false),
        (Method::Daps, false),
    ] {
        let overrides = Overrides { method: Some(method), ..Overrides::default() };
        let sampling = SamplingConfig { preset: Preset::Fast, overrides, seed: 0, class: None, adapted: false };
        let plan = RestorePlan::new(measurement.clone(), &sampling, info.info());
        assert_eq!(plan.is_err(), refuses, "{method}: {plan:?}");
    }
}
