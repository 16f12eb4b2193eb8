//! The identities a guidance must satisfy whatever the network says, on small dense operators in f64.

use std::sync::Arc;

use super::{AdirConfig, AdirGuidance, Adjoint, Correction, DataStep, Residual, StepState, Strength};
use crate::operator::LinearOperator;
use crate::schedule::{BetaSchedule, Respacing, Schedule};
use crate::tensor::{Tensor, cpu, from_f64, to_f64};
use crate::testing::{DenseOperator, assert_close, assert_tensors_close};
use crate::{Error, Result};

const COLUMNS: usize = 5;

/// A 3x5 matrix without structure; its largest singular value is about 1.6.
fn matrix() -> Vec<Vec<f64>> {
    (0..3)
        .map(|i| (0..COLUMNS).map(|j| (1.0 + f64::from(i) * 1.7 + j as f64 * j as f64 * 0.9).sin()).collect())
        .collect()
}

fn operator() -> Arc<dyn LinearOperator> {
    Arc::new(DenseOperator::new(&matrix()).expect("a matrix"))
}

/// Values in about [-1, 1], another set for each `phase`.
fn values(count: usize, phase: f64) -> Vec<f64> {
    (0..count).map(|i| (phase + 2.3 * i as f64).sin()).collect()
}

fn tensor(values: Vec<f64>) -> Tensor<4> {
    let n = values.len();
    from_f64(values, [1, 1, 1, n], &cpu())
}

fn schedule(steps: usize) -> Schedule {
    let full = Schedule::new(BetaSchedule::Linear, 1000).expect("a schedule");
    full.respaced(&Respacing::Sections(vec![steps])).expect("a respaced schedule")
}

/// Everything one guided step needs: x_t and eps at will, x0 by Eq. 14, mu by Eq. 5.
struct Moment {
    schedule: Schedule,
    index: usize,
    x_t: Tensor<4>,
    x0: Tensor<4>,
    eps: Tensor<4>,
    mean: Tensor<4>,
    y: Tensor<4>,
}

fn moment(steps: usize, index: usize) -> Moment {
    let schedule = schedule(steps);
    let (alpha, alpha_bar) = (schedule.alpha(index), schedule.alpha_bar(index));
    let (x_t, eps) = (tensor(values(COLUMNS, 0.4)), tensor(values(COLUMNS, 1.9)));
    let x0 = (x_t.clone() - eps.clone() * (1.0 - alpha_bar).sqrt()) / alpha_bar.sqrt();
    let mean = (x_t.clone() - eps.clone() * ((1.0 - alpha) / (1.0 - alpha_bar).sqrt())) / alpha.sqrt();
    Moment { schedule, index, x_t, x0, eps, mean, y: tensor(values(3, 2.6)) }
}

impl Moment {
    fn state(&self) -> StepState<'_> {
        StepState {
            schedule: &self.schedule,
            index: self.index,
            x_t: &self.x0,
            x0: &self.x0,
            eps: &self.eps,
            back: None,
            errors: None,
        }
    }

    fn correct_mean(&self, config: AdirConfig, variance: &Tensor<4>) -> Result<Correction> {
        AdirGuidance::new(operator(), self.y.clone(), config)?.correct_mean(&self.state(), &self.mean, variance)
    }

    fn correct_x0(&self, config: AdirConfig) -> Result<Correction> {
        AdirGuidance::new(operator(), self.y.clone(), config)?.correct_x0(&self.state())
    }

    /// y_t of Eq. 16.
    fn y_t(&self) -> Tensor<4> {
        let alpha_bar = self.schedule.alpha_bar(self.index);
        let a_eps = operator().apply(&self.eps).expect("of the domain");
        self.y.clone() * alpha_bar.sqrt() + a_eps * (1.0 - alpha_bar).sqrt()
    }
}

fn strict(residual: Residual) -> AdirConfig {
    AdirConfig { residual, adjoint: Adjoint::Strict, cap: false, ..AdirConfig::default() }
}

fn scalar(v: f64) -> Tensor<4> {
    from_f64(vec![v], [1, 1, 1, 1], &cpu())
}

fn square_norm(t: &Tensor<4>) -> f64 {
    to_f64(t).expect("readable").iter().map(|v| v * v).sum()
}

#[test]
fn eq_16_moves_the_residual_from_x0_to_x_t() {
    for (steps, index) in [(1000, 0), (1000, 500), (1000, 999), (25, 12)] {
        let m = moment(steps, index);
        let at_x0 = operator().apply(&m.x0).expect("of the domain") - m.y.clone();
        let at_x_t = operator().apply(&m.x_t).expect("of the domain") - m.y_t();
        let alpha_bar = m.schedule.alpha_bar(index);
        assert_close(&[alpha_bar * square_norm(&at_x0)], &[square_norm(&at_x_t)], 1e-12);
        let reported = m.correct_x0(AdirConfig::default()).expect("a correction").residual_rms;
        assert_close(&[reported], &[(square_norm(&at_x0) / 3.0).sqrt()], 1e-12);
    }
}

/// The shift is s Sigma times minus the gradient of |A x - y_t|^2 at x = mu, y_t held constant.
#[test]
fn eq_17_is_the_gradient_by_finite_differences() {
    let m = moment(1000, 400);
    let (s, variance) = (10.0, 0.0123);
    let shift =
        m.correct_mean(strict(Residual::Paper), &scalar(variance)).expect("a correction").shift.expect("a shift");
    let objective = |x: Vec<f64>| square_norm(&(operator().apply(&tensor(x)).expect("of the domain") - m.y_t()));
    let mean = to_f64(&m.mean).expect("readable");
    let step = 1e-5;
    let expected: Vec<f64> = (0..COLUMNS)
        .map(|j| {
            let at = |h: f64| {
                let mut x = mean.clone();
                x[j] += h;
                objective(x)
            };
            -s * variance * (at(step) - at(-step)) / (2.0 * step)
        })
        .collect();
    assert_close(&to_f64(&shift).expect("readable"), &expected, 1e-8);
}

/// The bias of the paper's residual against the consistent one: section 1.3 of the derivation,
/// (1 - sqrt(alpha)) (sqrt(alpha_bar') A x0 - (1 + sqrt(alpha) alpha_bar')/sqrt(1 - alpha_bar) A eps) beside
/// sqrt(alpha_bar) (A x0 - y).
#[test]
fn the_paper_residual_has_its_closed_form() {
    for (steps, index) in [(1000, 1), (1000, 700), (50, 20), (25, 24)] {
        let m = moment(steps, index);
        let (alpha, alpha_bar) = (m.schedule.alpha(index), m.schedule.alpha_bar(index));
        let previous = m.schedule.alpha_bar_prev(index);
        let a = |x: &Tensor<4>| operator().apply(x).expect("of the domain");
        let bias =
            a(&m.x0) * previous.sqrt() - a(&m.eps) * ((1.0 + alpha.sqrt() * previous) / (1.0 - alpha_bar).sqrt());
        let residual = (a(&m.x0) - m.y.clone()) * alpha_bar.sqrt() + bias * (1.0 - alpha.sqrt());
        let expected = operator().adjoint(&residual).expect("of the range") * (-2.0 * 10.0 * 0.01);
        let shift = m.correct_mean(strict(Residual::Paper), &scalar(0.01)).expect("a correction").shift;
        assert_tensors_close(&shift.expect("a shift"), &expected, 1e-10);
    }
}

#[test]
fn the_consistent_residual_is_that_of_x0_and_vanishes_in_agreement() {
    let mut m = moment(50, 30);
    let a_x0 = operator().apply(&m.x0).expect("of the domain");
    let expected = operator().adjoint(&(a_x0.clone() - m.y.clone())).expect("of the range")
        * (-2.0 * 10.0 * 0.01 * m.schedule.alpha_bar(29).sqrt());
    let shift = m.correct_mean(strict(Residual::Consistent), &scalar(0.01)).expect("a correction").shift;
    assert_tensors_close(&shift.expect("a shift"), &expected, 1e-12);

    m.y = a_x0;
    let shift_of = |residual| {
        let c = m.correct_mean(strict(residual), &scalar(0.01)).expect("a correction");
        assert_eq!(c.residual_rms, 0.0);
        square_norm(&c.shift.expect("a shift")).sqrt()
    };
    assert_eq!(shift_of(Residual::Consistent), 0.0);
    assert!(shift_of(Residual::Paper) > 1e-3);
    let x0_shift = m.correct_x0(AdirConfig::default()).expect("a correction").shift;
    assert_eq!(square_norm(&x0_shift.expect("a shift")), 0.0);
}

#[test]
fn the_normalised_adjoint_is_the_strict_one_over_the_largest_eigenvalue() {
    let m = moment(1000, 600);
    let lambda = operator().norm_squared();
    let shift = |adjoint| {
        let config = AdirConfig { adjoint, ..strict(Residual::Paper) };
        m.correct_mean(config, &scalar(0.01)).expect("a correction").shift.expect("a shift")
    };
    assert_tensors_close(&(shift(Adjoint::Normalized) * lambda), &shift(Adjoint::Strict), 1e-14);
}

/// Gain min(2 s Sigma, 1/lambda_max(A* A)), element by element.
#[test]
fn the_cap_limits_the_gain_of_each_element_by_itself() {
    let m = moment(25, 20);
    let variance = tensor(vec![0.001, 0.04, 0.2, 0.5, 0.01]);
    for adjoint in [Adjoint::Normalized, Adjoint::Strict] {
        let shift = |cap, variance: &Tensor<4>| {
            let config = AdirConfig { cap, adjoint, ..strict(Residual::Consistent) };
            to_f64(&m.correct_mean(config, variance).expect("a correction").shift.expect("a shift")).expect("readable")
        };
        let unit_gain = shift(false, &scalar(0.05)); // 2 s Sigma = 1
        let limit = if adjoint == Adjoint::Strict { 1.0 / operator().norm_squared() } else { 1.0 };
        let gains = [0.02, 0.8, 4.0, 10.0, 0.2];
        let scaled =
            |gain: &dyn Fn(f64) -> f64| -> Vec<f64> { unit_gain.iter().zip(gains).map(|(u, g)| u * gain(g)).collect() };
        assert_close(&shift(false, &variance), &scaled(&|g| g), 1e-14);
        assert_close(&shift(true, &variance), &scaled(&|g| g.min(limit)), 1e-14);
    }
}

/// c = min(1/lambda_max(A* A), 2 s (1 - alpha_bar)) at both ends, and s = infinity.
#[test]
fn the_x0_form_fades_with_the_noise_and_projects_without() {
    let direction = |m: &Moment| {
        let residual = operator().apply(&m.x0).expect("of the domain") - m.y.clone();
        operator().adjoint(&residual).expect("of the range")
    };
    let lambda = operator().norm_squared();
    for (adjoint, unit) in [(Adjoint::Normalized, 1.0 / lambda), (Adjoint::Strict, 1.0)] {
        for (strength, index, gain) in [
            (Strength::Scale(10.0), 0, 2.0 * 10.0 * 1e-4 * unit),
            (Strength::Scale(10.0), 999, 1.0 / lambda),
            (Strength::Projection, 0, 1.0 / lambda),
        ] {
            let m = moment(1000, index);
            let shift =
                m.correct_x0(AdirConfig { strength, adjoint, ..AdirConfig::default() }).expect("a correction").shift;
            assert_tensors_close(&shift.expect("a shift"), &(direction(&m) * -gain), 1e-12);
        }
    }
}

#[test]
fn a_mask_moves_only_what_it_shows() {
    let mask: Arc<dyn LinearOperator> = Arc::new(DenseOperator::diagonal(&[1.0, 0.0, 1.0, 0.0, 0.0]).expect("a mask"));
    let m = moment(1000, 300);
    let y = mask.apply(&tensor(values(COLUMNS, 5.0))).expect("of the domain");
    for residual in [Residual::Paper, Residual::Consistent] {
        let guidance = AdirGuidance::new(mask.clone(), y.clone(), strict(residual)).expect("a guidance");
        let on_mean = guidance.correct_mean(&m.state(), &m.mean, &scalar(0.02)).expect("a correction").shift;
        let on_x0 = guidance.correct_x0(&m.state()).expect("a correction").shift;
        for shift in [on_mean, on_x0] {
            let shift = to_f64(&shift.expect("a shift")).expect("readable");
            let moved: Vec<bool> = shift.iter().map(|v| *v != 0.0).collect();
            assert_eq!(moved, [true, false, true, false, false]);
        }
    }
}

#[test]
fn strength_zero_shifts_nothing_but_still_measures() {
    let m = moment(1000, 300);
    let config = AdirConfig { strength: Strength::Scale(0.0), ..AdirConfig::default() };
    for c in [m.correct_mean(config, &scalar(0.02)), m.correct_x0(config)] {
        let c = c.expect("a correction");
        assert!(c.shift.is_none() && c.residual_rms > 0.0);
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let new = |config, y: Vec<f64>| AdirGuidance::new(operator(), tensor(y), config);
    for s in [-1.0, f64::NAN, f64::INFINITY] {
        let config = AdirConfig { strength: Strength::Scale(s), ..AdirConfig::default() };
        assert!(matches!(new(config, values(3, 0.0)), Err(Error::Config(_))), "{s}");
    }
    assert!(matches!(new(AdirConfig::default(), values(4, 0.0)), Err(Error::Config(_))), "y of the wrong size");
    let nothing: Arc<dyn LinearOperator> = Arc::new(DenseOperator::diagonal(&[0.0; 3]).expect("a matrix"));
    assert!(AdirGuidance::new(nothing, tensor(values(3, 0.0)), AdirConfig::default()).is_err());

    let m = moment(1000, 300);
    let projection = AdirConfig { strength: Strength::Projection, ..AdirConfig::default() };
    assert!(matches!(m.correct_mean(projection, &scalar(0.02)), Err(Error::Config(_))));

    let two = from_f64(values(6, 0.0), [2, 1, 1, 3], &cpu());
    let guidance = AdirGuidance::new(operator(), two, AdirConfig::default()).expect("a guidance");
    assert!(matches!(guidance.correct_x0(&m.state()), Err(Error::Config(_))), "two observations of one sample");
}

#[test]
fn settings_survive_json_and_unknown_keys_do_not() {
    for strength in [Strength::Scale(2.5), Strength::Projection] {
        let config = AdirConfig { strength, ..strict(Residual::Consistent) };
        let text = serde_json::to_string(&config).expect("json");
        assert_eq!(serde_json::from_str::<AdirConfig>(&text).expect(&text), config);
    }
    assert_eq!(serde_json::from_str::<AdirConfig>("{}").expect("defaults"), AdirConfig::default());
    assert!(serde_json::from_str::<AdirConfig>(r#"{"sacle": 3}"#).is_err());
    assert_eq!(Residual::for_schedule(&schedule(1000)), Residual::Paper);
    assert_eq!(Residual::for_schedule(&schedule(100)), Residual::Consistent);
}

/// The proximal step ends where the gradient of |x - x0|^2 + c |A x - y|^2 / lambda is zero, by finite differences;
/// a projection ends as near to A x = y as can be.
#[test]
fn the_proximal_step_is_a_minimum() {
    let m = moment(50, 20);
    let lambda = operator().norm_squared();
    for (s, adjoint) in [(0.3, Adjoint::Normalized), (40.0, Adjoint::Normalized), (5.0, Adjoint::Strict)] {
        let strength = Strength::Scale(s);
        let config = AdirConfig { strength, adjoint, data_step: DataStep::Proximal, ..AdirConfig::default() };
        let shift = m.correct_x0(config).expect("a correction").shift.expect("a shift");
        let c = 2.0 * s * (1.0 - m.schedule.alpha_bar(m.index));
        let weight = if adjoint == Adjoint::Normalized { c / lambda } else { c };
        let objective = |shift: Vec<f64>| {
            let shift = tensor(shift);
            let misfit = operator().apply(&(m.x0.clone() + shift.clone())).expect("of the domain") - m.y.clone();
            square_norm(&shift) + weight * square_norm(&misfit)
        };
        let (found, step) = (to_f64(&shift).expect("readable"), 1e-5);
        let slope = |from: &[f64], j: usize| {
            let at = |h: f64| {
                let mut x = from.to_vec();
                x[j] += h;
                objective(x)
            };
            (at(step) - at(-step)) / (2.0 * step)
        };
        for j in 0..COLUMNS {
            let (left, before) = (slope(&found, j).abs(), slope(&[0.0; COLUMNS], j).abs());
            assert!(left < 1e-3 * before.max(1.0), "s = {s}, {adjoint:?}: slope {left:.1e} of {before:.1e}");
        }
    }
    let config = AdirConfig { strength: Strength::Projection, data_step: DataStep::Proximal, ..AdirConfig::default() };
    let shift = m.correct_x0(config).expect("a correction").shift.expect("a shift");
    // The matrix has rank 2: no image agrees with y, but one is nearest.
    let misfit = |x: Tensor<4>| operator().apply(&x).expect("of the domain") - m.y.clone();
    let slope = |x: Tensor<4>| square_norm(&operator().adjoint(&misfit(x)).expect("of the range")).sqrt();
    assert!(slope(m.x0.clone() + shift) < 1e-3 * slope(m.x0.clone()));
}
