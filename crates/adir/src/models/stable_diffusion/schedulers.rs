//! At which timesteps a latent diffusion model is sampled, as its scheduler's file says.

use serde_json::json;

use super::config::ConditionalConfig;
use super::json::Settings;
use crate::models::{DenoiserInfo, PredictionKind};
use crate::schedule::{BetaSchedule, Schedule, Timestep, VarianceKind};
use crate::{Error, Result};

/// How timesteps are spread (diffusers' `timestep_spacing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// From the least noise on, by whole strides.
    Leading,
    /// Evenly between the first and the last, both included.
    Linspace,
    /// From the most noise down, by equal strides.
    Trailing,
}

/// What a scheduler's file tells of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Betas, linear in their roots.
    pub betas: [f64; 2],
    /// Number of timesteps in training.
    pub steps: usize,
    /// What the network predicts.
    pub prediction: PredictionKind,
    /// Added to every timestep of [`Spacing::Leading`].
    pub offset: usize,
    /// How timesteps are spread, where the file says it; else each sampler has a way of its own.
    pub spacing: Option<Spacing>,
    /// Whether the last step goes to alpha_bar = 1, or to that of the first timestep.
    pub ends_clean: bool,
}

impl Facts {
    /// Those of the x4 upscaler.
    pub fn upscaler() -> Self {
        Self { betas: [1e-4, 0.02], prediction: PredictionKind::V, ..Self::stable_diffusion() }
    }

    /// Those of Stable Diffusion 1 and of its inpainting models.
    pub fn stable_diffusion() -> Self {
        Self {
            betas: [0.00085, 0.012],
            steps: 1000,
            prediction: PredictionKind::Epsilon,
            offset: 1,
            spacing: None,
            ends_clean: false,
        }
    }

    /// Those of latent diffusion's super-resolution.
    pub fn super_resolution() -> Self {
        Self { betas: [0.0015, 0.0155], ..Self::stable_diffusion() }
    }

    /// Reads `scheduler_config.json`. Which scheduler wrote it does not matter: the sampler is chosen by the caller.
    ///
    /// # Errors
    /// [`Error::Config`] naming a setting that is not supported.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut settings = Settings::parse("scheduler", text)?;
        let betas = settings.take_betas()?;
        let prediction: String = settings.take("prediction_type", "epsilon".to_owned())?;
        let spacing: Option<String> = settings.take("timestep_spacing", None)?;
        let facts = Self {
            betas,
            steps: settings.take("num_train_timesteps", 1000)?,
            prediction: match prediction.as_str() {
                "epsilon" => PredictionKind::Epsilon,
                "v_prediction" => PredictionKind::V,
                "sample" => PredictionKind::Sample,
                other => return Err(Error::config(format!("prediction_type = {other:?} is not known"))),
            },
            offset: settings.take("steps_offset", 0)?,
            spacing: match spacing.as_deref() {
                None => None,
                Some("leading") => Some(Spacing::Leading),
                Some("linspace") => Some(Spacing::Linspace),
                Some("trailing") => Some(Spacing::Trailing),
                Some(other) => return Err(Error::config(format!("timestep_spacing = {other:?} is not known"))),
            },
            ends_clean: settings.take("set_alpha_to_one", true)?,
        };
        let supported = [
            ("thresholding", json!(false)),
            ("rescale_betas_zero_snr", json!(false)),
            ("clip_sample", json!(false)),
            ("trained_betas", json!(null)),
            ("use_karras_sigmas", json!(false)),
            ("use_exponential_sigmas", json!(false)),
            ("use_beta_sigmas", json!(false)),
        ];
        let unused = [
            "clip_sample_range",
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "skip_prk_steps",
            "tensor_format",
            "variance_type",
            "solver_order",
            "solver_type",
            "algorithm_type",
            "lower_order_final",
            "euler_at_final",
            "final_sigmas_type",
            "lambda_min_clipped",
            "interpolation_type",
            "sigma_max",
            "sigma_min",
            "timestep_type",
            "use_flow_sigmas",
            "flow_shift",
            "use_dynamic_shifting",
            "time_shift_type",
        ];
        settings.finish(&supported, &unused)?;
        facts.schedule()?;
        if facts.offset >= facts.steps {
            return Err(Error::config(format!("steps_offset = {} of {} timesteps", facts.offset, facts.steps)));
        }
        Ok(facts)
    }

    /// What diffusers writes for it.
    pub fn to_json(&self) -> String {
        let prediction = match self.prediction {
            PredictionKind::V => "v_prediction",
            PredictionKind::Sample => "sample",
            PredictionKind::Epsilon => "epsilon",
        };
        let spacing = self.spacing.map(|spacing| match spacing {
            Spacing::Leading => "leading",
            Spacing::Linspace => "linspace",
            Spacing::Trailing => "trailing",
        });
        let mut value = json!({
            "_class_name": "DDIMScheduler",
            "beta_end": self.betas[1],
            "beta_schedule": "scaled_linear",
            "beta_start": self.betas[0],
            "clip_sample": false,
            "num_train_timesteps": self.steps,
            "prediction_type": prediction,
            "set_alpha_to_one": self.ends_clean,
            "steps_offset": self.offset,
        });
        if let Some(spacing) = spacing {
            value["timestep_spacing"] = json!(spacing);
        }
        format!("{value:#}")
    }

    /// The schedule of training.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn schedule(&self) -> Result<Schedule> {
        let [start, end] = self.betas;
        Schedule::new(BetaSchedule::ScaledLinear { start, end }, self.steps)
    }

    /// What samplers must know of a U-Net trained so.
    ///
    /// # Errors
    /// As [`Facts::schedule`].
    pub fn info(&self, unet: &ConditionalConfig) -> Result<DenoiserInfo> {
        Ok(DenoiserInfo {
            channels: unet.out_channels,
            size_multiple: unet.size_multiple(),
            schedule: self.schedule()?,
            variance: VarianceKind::FixedSmall,
            prediction: self.prediction,
            errors: None,
        })
    }

    /// The timesteps of `count` steps, the noisiest first, as DDIM takes them.
    ///
    /// # Errors
    /// [`Error::Config`] for no steps, or more than there are.
    pub fn timesteps(&self, spacing: Spacing, count: usize) -> Result<Vec<Timestep>> {
        let ascending = match spacing {
            Spacing::Leading => (0..count).map(|i| i * (self.steps / count.max(1)) + self.offset).collect(),
            Spacing::Linspace => self.even(count),
            Spacing::Trailing => self.trailing(count),
        };
        self.checked(count, ascending)
    }

    /// The same as DPM-Solver takes them: spread over one more, the last of which is no noise at all.
    ///
    /// # Errors
    /// As [`Facts::timesteps`].
    pub fn timesteps_above_none(&self, spacing: Spacing, count: usize) -> Result<Vec<Timestep>> {
        let ascending = match spacing {
            Spacing::Leading => (1..=count).map(|i| i * (self.steps / (count + 1)) + self.offset).collect(),
            Spacing::Linspace => self.even(count + 1).split_off(1),
            Spacing::Trailing => self.trailing(count),
        };
        self.checked(count, ascending)
    }

    /// From the first to the last, both included.
    fn even(&self, count: usize) -> Vec<usize> {
        let last = (self.steps - 1) as f64;
        let place = |i: usize| if count > 1 { last * i as f64 / (count - 1) as f64 } else { 0.0 };
        (0..count).map(|i| place(i).round_ties_even() as usize).collect()
    }

    /// From the last down, by equal strides.
    fn trailing(&self, count: usize) -> Vec<usize> {
        let stride = self.steps as f64 / count as f64;
        let at = |i: usize| (self.steps as f64 - i as f64 * stride).round_ties_even() as usize;
        (0..count).rev().map(|i| at(i).saturating_sub(1)).collect()
    }

    fn checked(&self, count: usize, ascending: Vec<usize>) -> Result<Vec<Timestep>> {
        let rising = ascending.windows(2).all(|pair| pair[0] < pair[1]);
        if count == 0 || !rising || ascending.last().is_none_or(|last| *last >= self.steps) {
            return Err(Error::config(format!("{count} sampling steps: expected 1 to {}", self.steps - self.offset)));
        }
        Ok(ascending.into_iter().rev().map(|t| Timestep(t as u16)).collect())
    }
}

/// How noise is added to the small image of an upscaler.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRes {
    schedule: Schedule,
    most: usize,
}

impl LowRes {
    /// That of the x4 upscaler.
    pub fn upscaler() -> Self {
        let betas = BetaSchedule::ScaledLinear { start: 1e-4, end: 0.02 };
        Self { schedule: Schedule::new(betas, 1000).expect("a schedule in range"), most: 350 }
    }

    /// From `low_res_scheduler/scheduler_config.json`, for levels up to `most`.
    ///
    /// # Errors
    /// [`Error::Config`] naming a setting that is not supported.
    pub fn from_json(text: &str, most: usize) -> Result<Self> {
        let mut settings = Settings::parse("low_res_scheduler", text)?;
        let [start, end] = settings.take_betas()?;
        let steps = settings.take("num_train_timesteps", 1000)?;
        let schedule = Schedule::new(BetaSchedule::ScaledLinear { start, end }, steps)?;
        if most == 0 || most > schedule.len() {
            return Err(Error::config(format!("noise levels up to {most} of {} timesteps", schedule.len())));
        }
        Ok(Self { schedule, most })
    }

    /// Factors of the image and of the noise at a level.
    ///
    /// # Errors
    /// [`Error::Config`] for a level above [`LowRes::most`].
    pub fn factors(&self, level: usize) -> Result<(f64, f64)> {
        if level > self.most || level >= self.schedule.len() {
            return Err(Error::config(format!("noise level {level}: expected 0 to {}", self.most)));
        }
        let bar = self.schedule.alpha_bar(level);
        Ok((bar.sqrt(), (1.0 - bar).sqrt()))
    }

    /// The highest level.
    pub fn most(&self) -> usize {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of diffusers 0.42.1: `DDIMScheduler(...).set_timesteps(n); .timesteps`.
    #[test]
    fn timesteps_are_those_of_diffusers() {
        let facts = Facts::upscaler();
        let numbers = |found: Result<Vec<Timestep>>| found.unwrap().iter().map(|t| t.0).collect::<Vec<_>>();
        let steps = |spacing, n| numbers(facts.timesteps(spacing, n));
        assert_eq!(steps(Spacing::Leading, 10), [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]);
        let many = steps(Spacing::Leading, 75);
        assert_eq!((many[0], many[1], many[73], many[74]), (963, 950, 14, 1));
        assert_eq!(steps(Spacing::Leading, 500)[..2], [999, 997]);
        assert_eq!(steps(Spacing::Trailing, 4), [999, 749, 499, 249]);
        assert_eq!(steps(Spacing::Linspace, 4), [999, 666, 333, 0]);
        for spacing in [Spacing::Leading, Spacing::Linspace, Spacing::Trailing] {
            assert!(facts.timesteps(spacing, 0).is_err() && facts.timesteps(spacing, 1001).is_err());
        }
        // DPMSolverMultistepScheduler
        let steps = |spacing, n| numbers(facts.timesteps_above_none(spacing, n));
        assert_eq!(steps(Spacing::Linspace, 10), [999, 899, 799, 699, 599, 500, 400, 300, 200, 100]);
        let leading = steps(Spacing::Leading, 20);
        assert_eq!((leading[0], leading[1], leading[19]), (941, 894, 48));
    }

    #[test]
    fn levels_of_the_small_image() {
        let low = LowRes::upscaler();
        for (level, bar) in [(0, 0.99989998), (20, 0.99730128), (349, 0.64250213)] {
            let (image, noise) = low.factors(level).unwrap();
            assert!((image * image - bar).abs() < 1e-6 && (noise * noise + bar - 1.0).abs() < 1e-6, "{level}");
        }
        assert!(low.factors(351).is_err());
    }
}
