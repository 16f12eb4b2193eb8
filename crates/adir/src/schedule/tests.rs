//! Schedules against recorded tables, published end points and closed forms.

use super::*;
use crate::io::weights::{Dtype, WeightFile};
use crate::testing::assert_close;
use crate::units::NoiseLevel;

/// Tables of openai/guided-diffusion 22e0df8 in float64: `GaussianDiffusion(betas=get_named_beta_schedule(..))` and
/// `SpacedDiffusion(use_timesteps=space_timesteps(1000, ..))` on the linear schedule.
const RECORDED: &[u8] = include_bytes!("../../tests/fixtures/schedules.safetensors");

fn recorded(name: &str) -> Vec<f64> {
    let file = WeightFile::from_bytes("schedules", RECORDED).expect("a safetensors file");
    match file.info(name).expect(name).dtype {
        Dtype::F64 => file.read_f64(name).expect(name),
        _ => file.read_i64(name).expect(name).into_iter().map(|v| v as f64).collect(),
    }
}

fn table(schedule: &Schedule, value: impl Fn(&Schedule, usize) -> f64) -> Vec<f64> {
    (0..schedule.len()).map(|i| value(schedule, i)).collect()
}

fn linear() -> Schedule {
    Schedule::new(BetaSchedule::Linear, 1000).expect("a schedule")
}

/// Every entry within 1e-12 of the expected one, relative.
#[track_caller]
fn assert_entries_close(actual: &[f64], expected: &[f64]) {
    assert_eq!(actual.len(), expected.len());
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= 1e-12 * e.abs(), "entry {i}: {a:e} instead of {e:e}");
    }
}

#[test]
fn tables_are_those_of_guided_diffusion() {
    for (name, kind) in [("linear", BetaSchedule::Linear), ("cosine", BetaSchedule::Cosine)] {
        let schedule = Schedule::new(kind, 1000).expect("a schedule");
        let check = |key: &str, value: fn(&Schedule, usize) -> f64| {
            assert_entries_close(&table(&schedule, value), &recorded(&format!("{name}.{key}")));
        };
        check("betas", Schedule::beta);
        check("alphas_cumprod", Schedule::alpha_bar);
        check("posterior_variance", Schedule::posterior_variance);
        check("posterior_log_variance_clipped", Schedule::posterior_log_variance_clipped);
        check("posterior_mean_coef1", |s, i| s.posterior_mean_coefficients(i).0);
        check("posterior_mean_coef2", |s, i| s.posterior_mean_coefficients(i).1);
    }
}

#[test]
fn respacing_is_that_of_guided_diffusion() {
    for text in ["25", "50", "100", "250", "10,15,20", "ddim25", "ddim50"] {
        let schedule = linear().respaced(&text.parse().expect(text)).expect(text);
        let timesteps = table(&schedule, |s, i| f64::from(s.timestep(i).0));
        assert_eq!(timesteps, recorded(&format!("respace.{text}")), "{text}");
        // A respaced beta near 1e-4 is 1 - alpha_bar/alpha_bar', which costs four digits.
        assert_close(&table(&schedule, Schedule::beta), &recorded(&format!("respace_betas.{text}")), 1e-12);
        let kept = table(&schedule, |s, i| s.original_alpha_bar(s.timestep(i)));
        assert_entries_close(&table(&schedule, Schedule::alpha_bar), &kept);
        assert!(schedule.is_respaced() && schedule.is_from(&linear()));
    }
}

#[test]
fn last_alpha_bars_are_those_of_the_published_models() {
    let scaled = |start, end| BetaSchedule::ScaledLinear { start, end };
    for (kind, index, expected) in [
        (BetaSchedule::Linear, 999, 4.0358e-5),
        (scaled(0.00085, 0.012), 999, 4.6601e-3),
        (scaled(1e-4, 0.02), 999, 7.3341e-4),
        (scaled(1e-4, 0.02), 20, 0.99730),
        (scaled(1e-4, 0.02), 349, 0.64250),
        (scaled(0.0015, 0.0155), 999, 6.6867e-4),
    ] {
        let schedule = Schedule::new(kind, 1000).expect("a schedule");
        assert_close(&[schedule.alpha_bar(index)], &[expected], 2e-5);
    }
}

/// (1/sqrt(alpha)) (x_t - (1 - alpha)/sqrt(1 - alpha_bar) eps) against c1 x0 + c2 x_t at every step.
#[test]
fn the_mean_of_eq_5_is_the_posterior_mean() {
    let (x_t, eps) = (0.83, -1.21);
    let linear = linear();
    for schedule in [linear.clone(), linear.respaced(&Respacing::Sections(vec![25])).expect("25 steps")] {
        for i in 0..schedule.len() {
            let (alpha, alpha_bar) = (schedule.alpha(i), schedule.alpha_bar(i));
            let eq_5 = (x_t - (1.0 - alpha) / (1.0 - alpha_bar).sqrt() * eps) / alpha.sqrt();
            let x0 = (x_t - (1.0 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt();
            let (c1, c2) = schedule.posterior_mean_coefficients(i);
            assert!((c1 * x0 + c2 * x_t - eq_5).abs() < 1e-12, "step {i}");
        }
    }
}

#[test]
fn fixed_variances_are_beta_and_beta_tilde_but_for_the_first() {
    let s = linear();
    let log = |kind, i| s.fixed_log_variance(kind, i);
    assert_eq!(log(VarianceKind::LearnedRange, 5), None);
    assert_eq!(log(VarianceKind::FixedLarge, 5), Some(s.beta(5).ln()));
    assert_eq!(log(VarianceKind::FixedSmall, 5), Some(s.posterior_variance(5).ln()));
    assert_eq!(log(VarianceKind::FixedLarge, 0), Some(s.posterior_variance(1).ln()));
    assert_eq!(log(VarianceKind::FixedSmall, 0), Some(s.posterior_variance(1).ln()));
    let one_step = s.at(&[999]).expect("one step");
    assert!(one_step.posterior_log_variance_clipped(0).is_finite());
}

#[test]
fn impossible_schedules_are_refused() {
    assert!(Schedule::from_betas(vec![]).is_err());
    assert!(Schedule::from_betas(vec![0.5; (1 << 16) + 1]).is_err());
    for beta in [0.0, 1.0, -0.1, f64::NAN] {
        assert!(Schedule::from_betas(vec![0.1, beta]).is_err(), "{beta}");
    }
    let s = linear();
    for steps in [&[][..], &[3, 3], &[5, 4], &[1000]] {
        assert!(s.at(steps).is_err(), "{steps:?}");
    }
    for text in ["0", "1001", "ddim999", "ddim0", "500,501", "0,0"] {
        assert!(text.parse::<Respacing>().expect(text).indices(1000).is_err(), "{text}");
    }
    for text in ["x", "10,", "ddim", "-5", "2.5"] {
        assert!(text.parse::<Respacing>().is_err(), "{text}");
    }
    assert_eq!("".parse::<Respacing>().expect("all"), Respacing::All);
    assert!(!s.is_respaced() && !s.is_from(&Schedule::new(BetaSchedule::Cosine, 1000).expect("a schedule")));
}

#[test]
fn noise_levels_in_grey_levels() {
    assert!((NoiseLevel::from_255(10.0).0 - 0.078431).abs() < 1e-6);
    assert!((NoiseLevel::from_255(10.0).to_255() - 10.0).abs() < 1e-12);
}
