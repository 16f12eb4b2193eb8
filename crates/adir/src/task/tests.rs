//! What presets resolve to.

use super::*;
use crate::guidance::{AdirConfig, DataStep, Strength, Trust};
use crate::operator::{
    BicubicDownsample, Blur, Boundary, Identity, ImageShape, Kernel, LinearOperator, Mask, PixelMask,
};
use crate::sampler::EpsAfterGuidance;
use crate::schedule::{BetaSchedule, Schedule};
use crate::units::NoiseLevel;

/// An operator of the task whose largest eigenvalue of A^T A is 1.
fn operator(task: Task) -> Box<dyn LinearOperator> {
    let shape = ImageShape::new(3, 32, 32);
    match task {
        Task::SuperResolution { factor } => Box::new(BicubicDownsample::new(shape, factor).unwrap()),
        Task::Deblur => Box::new(Blur::new(shape, Kernel::boxed(5).unwrap(), Boundary::Circular).unwrap()),
        _ => Box::new(Identity::new(shape).unwrap()),
    }
}

/// Linear, with noise of that many grey levels, and nothing else in particular.
fn situation<'a>(hint: Hint, operator: &'a dyn LinearOperator, levels: f64, schedule: &'a Schedule) -> Situation<'a> {
    Situation {
        hint,
        operator,
        sigma: NoiseLevel::from_255(levels),
        rounding: NoiseLevel(0.0),
        unweighted: operator,
        uneven: None,
        is_linear: true,
        detail: None,
        schedule,
        adapted: false,
        own_guidance: false,
        beyond_range: false,
    }
}

/// What the tests below look at.
#[derive(Debug)]
struct Resolved {
    data_step: DataStep,
    strength: Strength,
    eps_after_guidance: EpsAfterGuidance,
}

fn settings(task: Task, levels: f64, rounding: f64, given: &Overrides) -> Resolved {
    let (operator, schedule) = (operator(task), Schedule::new(BetaSchedule::Linear, 1000).unwrap());
    let situation = Situation {
        rounding: NoiseLevel::from_255(rounding),
        ..situation(task.hint(), operator.as_ref(), levels, &schedule)
    };
    let given = Overrides { method: Some(Method::FewStep), ..given.clone() };
    let settings = resolve(Preset::Fast, &situation, &given).unwrap().0;
    let GuidanceSettings::Adir(AdirConfig { data_step, strength, .. }) = settings.stages[0].guidance else { panic!() };
    let SamplerSettings::FewStep { eps_after_guidance, .. } = settings.stages[0].sampler else { panic!() };
    Resolved { data_step, strength, eps_after_guidance }
}

/// Rounding to 8 bits is noise of 1/sqrt(12) levels to a solver, and nothing to a gradient step.
#[test]
fn blurs_with_little_noise_are_solved_for_as_far_as_rounding_allows() {
    let eight_bit = 1.0 / 12.0_f64.sqrt();
    let none = Overrides::default();
    let exact = settings(Task::Deblur, 0.0, 0.0, &none);
    assert_eq!((exact.data_step, exact.strength), (DataStep::Proximal, Strength::Projection));
    let rounded = settings(Task::Deblur, 0.0, eight_bit, &none);
    let Strength::Scale(s) = rounded.strength else { panic!("{rounded:?}") };
    // 127.5^2 * 12 / 16
    assert!((s - 12_192.187_5).abs() < 1e-6, "{s}");
    assert_eq!(rounded.eps_after_guidance, EpsAfterGuidance::Keep);
    let little = settings(Task::Deblur, 2.55, eight_bit, &none);
    assert_eq!((little.data_step, little.eps_after_guidance), (DataStep::Proximal, EpsAfterGuidance::Rederive));
    let Strength::Scale(s) = little.strength else { panic!("{little:?}") };
    assert!((s - 127.5 * 127.5 / (16.0 * (2.55 * 2.55 + 1.0 / 12.0))).abs() < 1e-6, "{s}");
    let sr = settings(Task::SuperResolution { factor: 4 }, 0.0, eight_bit, &none);
    assert_eq!((sr.data_step, sr.strength), (DataStep::Gradient, Strength::Projection));
    let given = Overrides { data_step: Some(DataStep::Gradient), ..none };
    assert_eq!(settings(Task::Deblur, 0.0, eight_bit, &given).strength, Strength::Projection);
}

/// 127.5^2 / (4 sigma^2): what suits a Gaussian model. A gradient step asked for keeps its own strength.
#[test]
fn blurs_with_much_noise_are_solved_for_and_trusted_as_in_a_gaussian_model() {
    let much = settings(Task::Deblur, 10.0, 0.0, &Overrides::default());
    assert_eq!((much.data_step, much.eps_after_guidance), (DataStep::Proximal, EpsAfterGuidance::Rederive));
    let Strength::Scale(s) = much.strength else { panic!("{much:?}") };
    assert!((s - 40.640_625).abs() < 1e-9, "{s}");
    let given = Overrides { data_step: Some(DataStep::Gradient), ..Overrides::default() };
    let gradient = settings(Task::Deblur, 10.0, 0.0, &given);
    let Strength::Scale(s) = gradient.strength else { panic!("{gradient:?}") };
    assert!((s - 10.160_156_25).abs() < 1e-9, "{s}");
    let denoise = settings(Task::Denoise, 10.0, 0.0, &Overrides::default());
    assert_eq!((denoise.data_step, denoise.strength), (DataStep::Gradient, gradient.strength));
}

/// The stages of the method staged: start, first timestep, evaluations.
fn stages(task: Task, levels: f64, given: &Overrides) -> Vec<(crate::sampler::Start, u16, usize)> {
    let settings = staged(task, levels, given, false);
    let stage = |stage: &StageSettings| match stage.levels {
        Levels::Powers { first, count, .. } => (stage.start, first, count),
        _ => panic!("{stage:?}"),
    };
    let stages: Vec<_> = settings.stages.iter().map(stage).collect();
    assert!(settings.steps <= stages.iter().map(|(.., count)| count).sum::<usize>());
    stages
}

fn staged(task: Task, levels: f64, given: &Overrides, adapted: bool) -> Settings {
    let (operator, schedule) = (operator(task), Schedule::new(BetaSchedule::Linear, 1000).unwrap());
    let situation = Situation { adapted, ..situation(task.hint(), operator.as_ref(), levels, &schedule) };
    resolve(Preset::Fast, &situation, given).unwrap().0
}

/// More detail is asked for by a second stage from a higher noise level.
#[test]
fn the_aim_names_the_noise_level_of_the_second_stage() {
    use crate::sampler::Start::{Estimate, Noisy};
    let aim = |aim| Overrides { aim: Some(aim), ..Overrides::default() };
    let sr4 = Task::SuperResolution { factor: 4 };
    assert_eq!(stages(sr4, 0.0, &Overrides::default()), [(Estimate, 396, 10)]);
    let [low, high] = [0.25, 1.0].map(|a| stages(sr4, 0.0, &aim(a)));
    assert_eq!((low[0], high[0]), ((Estimate, 396, 8), (Estimate, 396, 8)));
    assert!(low[1].1 < high[1].1 && low[1].2 < high[1].2, "{low:?} {high:?}");
    // The mean answer of a denoising is one evaluation, at the level of its noise: sigma = 25 / 127.5.
    let schedule = Schedule::new(BetaSchedule::Linear, 1000).unwrap();
    let denoise = stages(Task::Denoise, 25.0, &aim(0.0));
    let alpha_bar = schedule.alpha_bar(usize::from(denoise[0].1));
    assert!((((1.0 - alpha_bar) / alpha_bar).sqrt() * 127.5 - 25.0).abs() < 0.3, "{denoise:?}");
    assert_eq!((denoise.len(), denoise[0].0, denoise[0].2), (1, Noisy, 1));
    let given = Overrides { steps: Some("5".into()), ..aim(0.0) };
    assert_eq!(stages(Task::Denoise, 25.0, &given)[0].2, 5);
    let given = Overrides { steps: Some("30".into()), ..aim(0.5) };
    assert_eq!(stages(Task::Deblur, 10.0, &given).iter().map(|stage| stage.2).collect::<Vec<_>>(), [10, 20]);
}

/// Noise in what is seen of an image is counted down to its own level, at which the network takes it out.
#[test]
fn noise_of_a_part_of_an_image_is_counted() {
    let stage = |missing: usize, sigma: f64| {
        let seen = (0..32 * 32).map(|i| i % 2 == 0 || i >= 2 * missing).collect();
        let operator = PixelMask::new(ImageShape::new(3, 32, 32), Mask::new(32, 32, seen).unwrap()).unwrap();
        let schedule = Schedule::new(BetaSchedule::Linear, 1000).unwrap();
        let situation = situation(Hint::Hides, &operator, sigma, &schedule);
        let stages = resolve(Preset::Fast, &situation, &Overrides::default()).unwrap().0.stages;
        assert_eq!(stages.len(), 1);
        let Levels::Powers { last, count, .. } = stages[0].levels else { panic!("{stages:?}") };
        (count, schedule.ratio(usize::from(last)) * 127.5, stages[0].guidance)
    };
    for (missing, sigma, steps) in [(1, 12.0, 8), (512, 25.0, 25)] {
        let (count, level, guidance) = stage(missing, sigma);
        assert!((sigma..1.1 * sigma).contains(&level) && count == steps, "{count} steps down to {level}");
        let GuidanceSettings::Proximal(config) = guidance else { panic!("{guidance:?}") };
        assert!(matches!(config.trust, Trust::Ddnm { .. }) && config.count_noise, "{config:?}");
    }
    let (count, level, guidance) = stage(1, 0.0);
    assert!(count == 25 && level < 2.0, "{count} steps down to {level}");
    assert!(matches!(guidance, GuidanceSettings::Proximal(config) if matches!(config.trust, Trust::Calibrated { .. })));
}

/// The last step of a blur with noise gives none of it back; noise of rounding alone is weighed as before.
#[test]
fn y_is_weighed_by_the_next_level_in_blurs_with_noise() {
    let (operator, schedule) = (operator(Task::Deblur), Schedule::new(BetaSchedule::Linear, 1000).unwrap());
    for (levels, rounding, by_next) in [(5.0, 0.2887, true), (1.0, 0.0, true), (0.29, 0.2887, false), (0.0, 0.0, false)]
    {
        let rounding = NoiseLevel::from_255(rounding);
        let situation = Situation { rounding, ..situation(Hint::Blurs, operator.as_ref(), levels, &schedule) };
        let settings = resolve(Preset::Fast, &situation, &Overrides::default()).unwrap().0;
        let GuidanceSettings::Proximal(config) = settings.stages[1].guidance else { panic!("{settings:?}") };
        assert_eq!(matches!(config.trust, Trust::NextLevel { .. }), by_next, "{levels}: {config:?}");
    }
}

/// Blurred and noisy, with a network that knows what such images look like: gradients through it, then steps of detail.
#[test]
fn an_adapted_network_is_asked_for_gradients() {
    let gradients = |task, levels, given: &Overrides, adapted| -> Vec<bool> {
        let stages = staged(task, levels, given, adapted).stages;
        stages.iter().map(|stage| matches!(stage.guidance, GuidanceSettings::Pigdm(_))).collect()
    };
    let none = Overrides::default();
    assert_eq!(gradients(Task::Deblur, 5.0, &none, true), [true, false]);
    assert_eq!(gradients(Task::Deblur, 5.0, &none, false), [false, false]);
    assert_eq!(gradients(Task::Deblur, 0.0, &none, true), [false, false]);
    assert_eq!(gradients(Task::SuperResolution { factor: 4 }, 0.0, &none, true), [false]);
    let given = Overrides { steps: Some("30".into()), ..none };
    let levels = staged(Task::Deblur, 5.0, &given, true).stages.into_iter().map(|stage| stage.levels);
    let counts = levels.map(|levels| if let Levels::Powers { count, .. } = levels { count } else { 0 });
    assert_eq!(counts.collect::<Vec<_>>(), [20, 10]);
}

#[test]
fn settings_without_effect_are_refused() {
    let schedule = Schedule::new(BetaSchedule::Linear, 1000).unwrap();
    let operator = operator(Task::Deblur);
    let situation = situation(Hint::Blurs, operator.as_ref(), 5.0, &schedule);
    let none = Overrides::default();
    let refused = |given: Overrides| resolve(Preset::Fast, &situation, &given).unwrap_err().to_string();
    assert!(refused(Overrides { eta: Some(0.5), ..none.clone() }).contains("few-step, ddnm, ddrm"));
    let few_step = Overrides { method: Some(Method::FewStep), aim: Some(0.5), ..none.clone() };
    assert!(refused(few_step).contains("belongs to staged"));
    assert!(refused(Overrides { steps: Some("2000".into()), ..none.clone() }).contains("1000 noise levels"));
    assert!(refused(Overrides { steps: Some("1".into()), ..none }).contains("2 or more"));
}
