//! What a text is to a diffusion model: the states of a CLIP text encoder at all of its positions.

use std::path::Path;

use serde::Deserialize;

use super::part::{Part, text_of};
use crate::compute::WeightPrecision;
use crate::models::clip::keys::Source;
use crate::models::clip::net::TextStates;
use crate::models::clip::{Activation, Tokenizer};
use crate::models::params::Params;
use crate::tensor::{Compute, Tensor};
use crate::{Error, Result};

/// What the weights of a text encoder do not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TextConfig {
    pub activation: Activation,
    pub heads: Option<usize>,
    /// Layers that are used; all where it is `None`.
    pub layers: Option<usize>,
    /// The token that fills up what is shorter than the context.
    pub pad: u32,
}

/// The token of the published vocabulary that ends a text.
const END: u32 = 49407;

impl TextConfig {
    /// CLIP ViT-L/14, of Stable Diffusion 1.
    pub const VIT_L: Self = Self { activation: Activation::QuickGelu, heads: None, layers: None, pad: END };
    /// OpenCLIP ViT-H without its last layer, of Stable Diffusion 2 and of the upscaler; "!" fills up.
    pub const VIT_H: Self = Self { activation: Activation::Gelu, heads: None, layers: Some(23), pad: 0 };

    /// From `text_encoder/config.json` and what lies in `tokenizer/`.
    ///
    /// # Errors
    /// [`Error::Model`] naming a file that is missing or says what is not supported.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct File {
            hidden_act: Option<String>,
            num_attention_heads: Option<usize>,
            num_hidden_layers: Option<usize>,
            layer_norm_eps: Option<f64>,
        }
        let path = folder.join("text_encoder").join("config.json");
        let fault = |message: String| Error::model(&path, message);
        let file: File = serde_json::from_str(&text_of(&path)?).map_err(|e| fault(e.to_string()))?;
        let activation = match file.hidden_act.as_deref() {
            None | Some("quick_gelu") => Activation::QuickGelu,
            Some("gelu") => Activation::Gelu,
            Some(other) => return Err(fault(format!("hidden_act = {other:?}: expected quick_gelu or gelu"))),
        };
        if file.layer_norm_eps.is_some_and(|eps| eps != 1e-5) {
            return Err(fault(format!("layer_norm_eps = {:?}: expected 1e-5", file.layer_norm_eps)));
        }
        let heads = file.num_attention_heads;
        let usual = if activation == Activation::Gelu { Self::VIT_H.pad } else { Self::VIT_L.pad };
        let pad = pad_token(&folder.join("tokenizer"))?.unwrap_or(usual);
        Ok(Self { activation, heads, layers: file.num_hidden_layers, pad })
    }
}

/// The token that fills up, where a file beside the vocabulary names one. transformers takes special_tokens_map.json first.
fn pad_token(folder: &Path) -> Result<Option<u32>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Added { content: String },
    }
    #[derive(Deserialize)]
    struct File {
        pad_token: Option<Token>,
    }
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        if !path.is_file() {
            continue;
        }
        let file: File = serde_json::from_str(&text_of(&path)?).map_err(|e| Error::model(&path, e.to_string()))?;
        return match file.pad_token {
            None => continue,
            Some(Token::Text(text) | Token::Added { content: text }) => match text.as_str() {
                "!" => Ok(Some(0)),
                "<|endoftext|>" => Ok(Some(END)),
                other => {
                    Err(Error::model(&path, format!("pad_token = {other:?}: expected \"!\" or \"<|endoftext|>\"")))
                }
            },
        };
    }
    Ok(None)
}

/// A text encoder with its weights.
#[derive(Debug)]
pub struct TextEncoder {
    states: TextStates,
    params: Params,
    tokenizer: Tokenizer,
    pad: u32,
}

impl TextEncoder {
    pub(super) fn load(part: &Part, config: TextConfig, weights: WeightPrecision, compute: &Compute) -> Result<Self> {
        let mut source = Source::of_text(&part.files)?;
        let states = source.text_states(config.heads, config.activation, config.layers)?;
        let kept_in = source.kept_in(weights);
        let params = source.params(&Compute { kept_in, ..compute.clone() })?;
        Ok(Self { states, params, tokenizer: Tokenizer::published(), pad: config.pad })
    }

    /// Checks names and shapes of what [`TextEncoder::load`] would read, and tells the width of the states and the number of
    /// parameters.
    pub(super) fn describe(part: &Part, config: TextConfig) -> Result<(usize, usize)> {
        let mut source = Source::of_text(&part.files)?;
        let states = source.text_states(config.heads, config.activation, config.layers)?;
        let (found, layers) = (states.tower.blocks.len(), config.layers);
        if let Some(expected) = layers.filter(|expected| *expected != found) {
            let message = format!("the text encoder has {found} layers, expected {expected}");
            return Err(Error::model(part.path(), message));
        }
        source.check_shapes()?;
        Ok((states.width, source.check()?))
    }

    /// Bytes of the parameters that [`TextEncoder::load`] would read, with its weights kept so.
    pub(super) fn bytes(part: &Part, config: TextConfig, weights: WeightPrecision) -> Result<u64> {
        let mut source = Source::of_text(&part.files)?;
        source.text_states(config.heads, config.activation, config.layers)?;
        Ok(source.bytes(weights))
    }

    /// Numbers of a state.
    pub fn width(&self) -> usize {
        self.states.width
    }

    /// Positions of a text.
    pub fn context(&self) -> usize {
        self.states.context
    }

    /// The tokens of a text: start, what fits, end, and what fills up.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        let mut tokens = self.tokenizer.encode_prompt(text, self.states.context);
        tokens.resize(self.states.context, self.pad);
        tokens
    }

    /// The states `[1, tokens, width]` of a text, of as many tokens as there are positions.
    ///
    /// # Errors
    /// [`Error::Config`] for a vocabulary other than the published one.
    pub fn states(&self, text: &str) -> Result<Tensor<3>> {
        if self.states.vocabulary != self.tokenizer.size() {
            let (found, known) = (self.states.vocabulary, self.tokenizer.size());
            return Err(Error::config(format!("the text encoder has {found} tokens, but the tokenizer has {known}")));
        }
        self.states_of(&self.tokens(text))
    }

    /// The states `[1, tokens, width]` of tokens.
    ///
    /// # Errors
    /// [`Error::Config`] if there are none, too many, or one is not in the vocabulary.
    pub fn states_of(&self, tokens: &[u32]) -> Result<Tensor<3>> {
        let TextStates { vocabulary, context, width, .. } = self.states;
        if tokens.is_empty() || tokens.len() > context {
            return Err(Error::config(format!("the text has {} tokens, expected 1 to {context}", tokens.len())));
        }
        if let Some(bad) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::config(format!("token {bad} is not in a vocabulary of {vocabulary}")));
        }
        Ok(self.states.forward(&self.params, tokens).reshape([1, tokens.len(), width]))
    }
}
