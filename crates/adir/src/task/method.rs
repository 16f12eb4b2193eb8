//! Presets, methods, and what may be set by hand.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::guidance::{Adjoint, DataStep, Residual, Strength};
use crate::sampler::EpsAfterGuidance;
use crate::schedule::Respacing;
use crate::{Error, Result};

/// A named set of sampling settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Preset {
    /// [`Method::Staged`] in about 20 network evaluations; the default.
    Fast,
    /// Table 4 of the paper to the letter: 1000 ancestral steps, s = 10 (20 for x8).
    Paper,
}

/// How the reverse process is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// Few steps with opposed noise down to an estimate near the posterior's mean; then, as far as the aim asks for
    /// detail, a second pass from a lower noise level that samples it.
    Staged,
    /// Algorithm 1 of the paper: ancestral sampling, guidance shifts the mean.
    Ancestral,
    /// The paper's form for few steps: DDIM, guidance corrects the x0 estimate.
    FewStep,
    /// DDNM and, for noisy observations, DDNM+ (Wang et al. 2023).
    Ddnm,
    /// DDRM (Kawar et al. 2022).
    Ddrm,
    /// DiffPIR (Zhu et al. 2023).
    Diffpir,
    /// DPS (Chung et al. 2023).
    Dps,
    /// PiGDM (Song et al. 2023).
    Pigdm,
    /// DAPS (Zhang et al. 2024) with its data step in closed form.
    Daps,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 9] = [
        Self::Staged,
        Self::FewStep,
        Self::Ancestral,
        Self::Ddnm,
        Self::Ddrm,
        Self::Diffpir,
        Self::Dps,
        Self::Pigdm,
        Self::Daps,
    ];

    /// The name it is written by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Ancestral => "ancestral",
            Self::FewStep => "few-step",
            Self::Ddnm => "ddnm",
            Self::Ddrm => "ddrm",
            Self::Diffpir => "diffpir",
            Self::Dps => "dps",
            Self::Pigdm => "pigdm",
            Self::Daps => "daps",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Settings given explicitly; `None` leaves the preset's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// Sampler.
    pub method: Option<Method>,
    /// Network evaluations per sample, as a number; for the methods of one stage also in guided-diffusion's respacing
    /// words `a,b,c` or `ddimN`.
    pub steps: Option<String>,
    /// Place between the least error (0) and the detail of a sample of the posterior (1), for [`Method::Staged`].
    pub aim: Option<f64>,
    /// s, see [`crate::guidance::AdirConfig::strength`]; for [`Method::Dps`] the step, see
    /// [`crate::guidance::DpsConfig::step`].
    pub strength: Option<Strength>,
    /// See [`crate::guidance::AdirConfig::residual`].
    pub residual: Option<Residual>,
    /// See [`crate::guidance::AdirConfig::adjoint`].
    pub adjoint: Option<Adjoint>,
    /// See [`crate::guidance::AdirConfig::cap`].
    pub cap: Option<bool>,
    /// See [`crate::guidance::AdirConfig::data_step`].
    pub data_step: Option<DataStep>,
    /// See [`super::StageSettings::clip_x0`].
    pub clip_x0: Option<bool>,
    /// Share of fresh noise: eta of DDIM ([`Method::FewStep`], [`Method::Pigdm`]), DDNM and DDRM.
    pub eta: Option<f64>,
    /// Share of fresh noise in the variance of the next level: zeta of DiffPIR.
    pub zeta: Option<f64>,
    /// See [`super::SamplerSettings::FewStep`].
    pub eps_after_guidance: Option<EpsAfterGuidance>,
}

impl Overrides {
    /// Refuses values that no setting can have.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if let Some(steps) = &self.steps {
            steps.parse::<Respacing>()?;
        }
        for (name, share) in [("aim", self.aim), ("eta", self.eta), ("zeta", self.zeta)] {
            if let Some(share) = share
                && !(0.0..=1.0).contains(&share)
            {
                return Err(Error::config(format!("{name} = {share}: expected 0 to 1")));
            }
        }
        if let Some(Strength::Scale(s)) = self.strength
            && !(s.is_finite() && s >= 0.0)
        {
            return Err(Error::config(format!("guidance strength s = {s}: expected a finite number, 0 or more")));
        }
        Ok(())
    }

    /// Refuses settings that have no effect with `method`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting and the methods that it belongs to.
    pub fn check_for(&self, method: Method) -> Result<()> {
        use Method::{Ancestral, Ddnm, Ddrm, Diffpir, Dps, FewStep, Pigdm, Staged};
        let settings: [(&str, bool, &[Method]); 9] = [
            ("aim", self.aim.is_some(), &[Staged]),
            ("strength (--scale)", self.strength.is_some(), &[Ancestral, FewStep, Dps]),
            ("residual", self.residual.is_some(), &[Ancestral]),
            ("adjoint", self.adjoint.is_some(), &[Ancestral, FewStep]),
            ("cap", self.cap.is_some(), &[Ancestral]),
            ("data step", self.data_step.is_some(), &[FewStep]),
            ("eta", self.eta.is_some(), &[FewStep, Ddnm, Ddrm, Pigdm]),
            ("zeta", self.zeta.is_some(), &[Diffpir]),
            ("eps after guidance", self.eps_after_guidance.is_some(), &[FewStep]),
        ];
        match settings.iter().find(|(_, given, methods)| *given && !methods.contains(&method)) {
            None => Ok(()),
            Some((name, _, methods)) => {
                let methods: Vec<_> = methods.iter().map(ToString::to_string).collect();
                Err(Error::config(format!(
                    "the setting {name} has no effect with the method {method}: it belongs to {} (--method)",
                    methods.join(", ")
                )))
            }
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Given explicitly.
    Given,
    /// The preset's.
    Preset,
    /// Follows from other values by the named rule.
    Rule(Cow<'static, str>),
}

impl Source {
    /// A rule in words.
    pub(super) const fn rule(words: &'static str) -> Self {
        Self::Rule(Cow::Borrowed(words))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("given"),
            Self::Preset => f.write_str("preset"),
            Self::Rule(rule) => write!(f, "rule: {rule}"),
        }
    }
}

/// One setting, its value in words and its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Name of the setting.
    pub name: Cow<'static, str>,
    /// Its value.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

impl Choice {
    /// A value that follows from others.
    pub(crate) fn rule(name: &'static str, value: impl Into<String>, rule: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), value: value.into(), source: Source::rule(rule) }
    }
}
