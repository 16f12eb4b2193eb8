//! Times what a step of sampling takes beside the network where y is blurred: the correction of the estimate towards y, and
//! noise that counts y's.
//!
//! Prints a line `name median least` for each case, in milliseconds. Arguments select cases by substring.

mod time;

use std::hint::black_box;
use std::sync::Arc;

use adir::guidance::{Guidance, ProximalConfig, ProximalGuidance, StepState, Target, Trust};
use adir::noise::{Noise, Stream};
use adir::operator::{Blur, Boundary, Compose, Crop, ImageShape, Kernel, LinearOperator};
use adir::schedule::{BetaSchedule, Schedule};
use adir::tensor::{DType, Tensor, cpu};
use time::time;

/// Standard deviation of y's noise.
const SIGMA: f64 = 0.04;
/// A noise level in the middle of a run.
const LEVEL: usize = 300;

fn main() {
    // As the program does.
    adir::tensor::keep_freed_memory();
    // On a thread of the pool, as steps of sampling are.
    rayon::scope(|_| all());
}

fn all() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let report = |name: &str, run: &mut dyn FnMut()| {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            let (median, least) = time(run);
            println!("{name} {median:.4} {least:.4}");
        }
    };
    let schedule = Schedule::new(BetaSchedule::Linear, 1000).expect("a schedule");
    let kernel = Kernel::boxed(5).expect("a kernel");
    // Windows of 256x256 of a larger scene, on the sides that a network takes.
    let (canvas, scene) = (ImageShape::new(3, 264, 264), ImageShape::new(3, 260, 260));
    let crop: Arc<dyn LinearOperator> = Arc::new(Crop::new(canvas, scene).expect("a crop"));
    let blur = Arc::new(Blur::new(scene, kernel.clone(), Boundary::Valid).expect("a blur"));
    let window: Arc<dyn LinearOperator> = Arc::new(Compose::new(vec![crop, blur]).expect("a composition"));
    let whole = ImageShape::new(3, 256, 256);
    let circular: Arc<dyn LinearOperator> =
        Arc::new(Blur::new(whole, kernel, Boundary::Circular).expect("a circular blur"));
    for (name, operator) in [("window", window), ("circular", circular)] {
        let noise = Noise::new(0, Stream::Evaluation);
        let image = |step: u32, shape: ImageShape| {
            noise.normal_tensor(step, [1, shape.channels, shape.height, shape.width], &cpu(), DType::F32)
        };
        let (x0, eps, fresh) = (image(0, operator.domain()), image(1, operator.domain()), image(2, operator.domain()));
        let y = operator.apply(&x0).expect("an observation") + image(3, operator.range()).mul_scalar(SIGMA);
        let x0 = x0 + image(4, operator.domain()).mul_scalar(0.1);
        let config = ProximalConfig { trust: Trust::Calibrated { factor: 8.0 }, sigma: SIGMA, count_noise: true };
        let guidance = ProximalGuidance::new(operator, y, config).expect("a guidance");
        let state =
            StepState { schedule: &schedule, index: LEVEL, x_t: &x0, x0: &x0, eps: &eps, back: None, errors: None };
        report(&format!("{name}-correct"), &mut || {
            black_box(guidance.correct(&state, Target::X0).expect("a correction"));
        });
        let y_noise = guidance.correct(&state, Target::X0).expect("a correction").y_noise.expect("noise that is known");
        report(&format!("{name}-noise"), &mut || {
            let draw = |like: &Tensor<4>| Ok(noise.normal_tensor(5, like.dims(), &cpu(), DType::F32));
            black_box(y_noise.fill(0.8, 0.6, 0.3, &fresh, &eps, draw).expect("noise"));
        });
    }
}
