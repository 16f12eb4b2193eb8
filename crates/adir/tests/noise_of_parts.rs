//! y's noise in a step, where y is a part of what has a spectrum: a valid blur, and a circular one with pixels left out.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use adir::guidance::{Guidance, ProximalConfig, ProximalGuidance, StepState, Target, Trust, YNoise};
use adir::operator::{Blur, Boundary, ImageShape, Kernel, LinearOperator, Mask, Masked};
use adir::schedule::{BetaSchedule, Respacing, Schedule};
use adir::tensor::{Tensor, cpu, from_f64, to_f64};
use adir::testing::assert_tensors_close;

const SIDE: usize = 16;
const SHAPE: ImageShape = ImageShape::new(1, SIDE, SIDE);
const SIGMA: f64 = 0.1;

fn unit(shape: ImageShape, i: usize) -> Tensor<4> {
    let mut values = vec![0.0; shape.elements()];
    values[i] = 1.0;
    from_f64(values, [1, 1, shape.height, shape.width], &cpu())
}

fn zeros(shape: ImageShape) -> Tensor<4> {
    from_f64(vec![0.0; shape.elements()], [1, 1, shape.height, shape.width], &cpu())
}

fn schedule() -> Schedule {
    Schedule::new(BetaSchedule::Linear, 1000).unwrap().respaced(&Respacing::Sections(vec![10])).unwrap()
}

fn operators() -> [Arc<dyn LinearOperator>; 2] {
    let kernel = || Kernel::gaussian(5, 1.0).unwrap();
    let circular = Arc::new(Blur::new(SHAPE, kernel(), Boundary::Circular).unwrap());
    let some = Mask::new(SIDE, SIDE, (0..SIDE * SIDE).map(|i| i % SIDE > 2 || i / SIDE > 4).collect()).unwrap();
    [Arc::new(Blur::new(SHAPE, kernel(), Boundary::Valid).unwrap()), Arc::new(Masked::new(circular, &some).unwrap())]
}

/// The step towards `y` from an estimate of 0, with what it says of y's noise.
fn step(operator: &Arc<dyn LinearOperator>, y: Tensor<4>, schedule: &Schedule, index: usize) -> (Tensor<4>, YNoise) {
    let trust = Trust::NextLevel { factor: 1.5 };
    let guidance =
        ProximalGuidance::new(operator.clone(), y, ProximalConfig { trust, sigma: SIGMA, count_noise: true }).unwrap();
    let nothing = zeros(SHAPE);
    let state = StepState { schedule, index, x_t: &nothing, x0: &nothing, eps: &nothing, back: None, errors: None };
    let correction = guidance.correct(&state, Target::X0).unwrap();
    (correction.shift.unwrap(), correction.y_noise.unwrap())
}

#[test]
fn the_whole_makes_what_the_part_holds() {
    for operator in operators() {
        let part = operator.part_of().unwrap();
        let x = from_f64((0..SIDE * SIDE).map(|i| (1.7 * i as f64).sin()).collect(), [1, 1, SIDE, SIDE], &cpu());
        let cut = part.window.cut(&part.whole.apply(&x).unwrap());
        let cut = part.seen.as_ref().map_or_else(|| Ok(cut.clone()), |seen| seen.keep(&cut)).unwrap();
        assert_tensors_close(&cut, &operator.apply(&x).unwrap(), 1e-12);
    }
}

/// Everything random in the next state is linear in y's noise, the fresh one and that for what was not measured: their
/// units give its covariance, which has to be that of white noise of the next level.
#[test]
fn counted_noise_is_white_at_the_next_level() {
    let schedule = schedule();
    for operator in operators() {
        for index in [2, 5, 8] {
            let next = schedule.alpha_bar_prev(index);
            let (scale, total) = (next.sqrt(), (1.0 - next).sqrt());
            let (_, y_noise) = step(&operator, zeros(operator.range()), &schedule, index);
            let mut variance = vec![0.0; SIDE * SIDE];
            let mut off = vec![0.0; SIDE * SIDE];
            let mut of_y = vec![0.0; SIDE * SIDE];
            let middle = (SIDE / 2) * SIDE + SIDE / 2;
            let mut add = |part: Tensor<4>, amount: f64| {
                let values = to_f64(&part).unwrap();
                for (i, v) in values.iter().enumerate() {
                    variance[i] += (amount * v).powi(2);
                    off[i] += amount * v * amount * values[middle];
                }
            };
            for i in 0..operator.range().elements() {
                let shift = step(&operator, unit(operator.range(), i), &schedule, index).0;
                for (sum, v) in of_y.iter_mut().zip(to_f64(&shift).unwrap()) {
                    *sum += (scale * SIGMA * v).powi(2);
                }
                add(shift, scale * SIGMA);
            }
            let fill = |fresh: &Tensor<4>, rest: &Tensor<4>| {
                y_noise.fill(scale, total, 0.0, fresh, &zeros(SHAPE), |_| Ok(rest.clone())).unwrap()
            };
            for i in 0..SHAPE.elements() {
                add(fill(&unit(SHAPE, i), &zeros(SHAPE)), 1.0);
                add(fill(&zeros(SHAPE), &unit(SHAPE, i)), 1.0);
            }
            let t2 = total * total;
            let worst = variance.iter().map(|v| (v / t2 - 1.0).abs()).fold(0.0, f64::max);
            off[middle] = 0.0;
            let cross = off.iter().map(|v| v.abs() / t2).fold(0.0, f64::max);
            let y = of_y.iter().copied().fold(0.0, f64::max) / t2;
            assert!(y > 0.06, "y's noise would not be missed: a share of {y} at index {index}");
            assert!(worst < 0.1, "variances are off by up to {worst} of that of the level at index {index}");
            assert!(cross < 0.01, "covariances with the middle of up to {cross} at index {index}");
        }
    }
}
