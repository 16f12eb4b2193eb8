//! Which files of a model the program reads.

use adir::{Error, Result};

use super::cache::is_weights;
use super::id::is_inside;
use super::listing::Remote;

/// Parts of a diffusers pipeline with weights, and how these are named: as safetensors, and otherwise.
const PARTS: [(&str, &str, &str); 3] = [
    ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
    ("vae", "diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
    ("text_encoder", "model", "pytorch_model.bin"),
];

/// Parts with settings and tables only.
const TABLES: [&str; 3] = ["scheduler", "low_res_scheduler", "tokenizer"];

/// Folders of other programs' weights, and of a classifier that is not read.
const LEFT_OUT: [&str; 6] = ["flax", "onnx", "openvino", "coreml", "safety_checker", "feature_extractor"];

/// What trainings leave beside weights.
const OF_TRAINING: [&str; 6] = ["optimizer.", "scheduler.", "rng_state", "training_args.", "scaler.", "random_states"];

/// The chosen files, and what to say of the choice.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub files: Vec<Remote>,
    pub notes: Vec<String>,
}

/// Chooses files: those `named`, else what of a pipeline is read, else all weights and configurations. Of weights in two
/// precisions, those in f32 are taken, or with `half` those in f16.
///
/// # Errors
/// [`Error::Config`] for names that are not there; [`Error::Model`] if nothing can be read, or a name leads out of the
/// model's folder.
pub fn choose(id: &str, files: &[Remote], named: &[String], half: bool) -> Result<Choice> {
    let is_pipeline = files.iter().any(|file| file.name == "model_index.json");
    let choice = match (named.is_empty(), is_pipeline) {
        (false, _) => by_name(id, files, named)?,
        (true, true) => pipeline(id, files, half)?,
        (true, false) => others(id, files, half)?,
    };
    match choice.files.iter().find(|file| !is_inside(&file.name)) {
        Some(file) => {
            Err(Error::model(id, format!("has a file {:?}, which leads out of the model's folder", file.name)))
        }
        None => Ok(choice),
    }
}

fn by_name(id: &str, files: &[Remote], named: &[String]) -> Result<Choice> {
    let mut choice = Choice::default();
    for name in named {
        let Some(found) = files.iter().find(|file| file.name == *name) else {
            let weights: Vec<_> = files.iter().map(|file| file.name.as_str()).filter(|name| is_weights(name)).collect();
            return Err(Error::config(format!("{id} has no file {name}; its weights: {}", weights.join(", "))));
        };
        if !choice.files.contains(found) {
            choice.files.push(found.clone());
        }
    }
    Ok(choice)
}

fn pipeline(id: &str, files: &[Remote], half: bool) -> Result<Choice> {
    let mut choice = Choice::default();
    for file in files {
        let is_read = match file.name.split_once('/') {
            None => file.name == "model_index.json",
            Some((folder, "config.json")) => PARTS.iter().any(|(part, ..)| *part == folder),
            Some((folder, name)) => {
                let is_table = name.ends_with(".json") || name.ends_with(".txt");
                TABLES.contains(&folder) && is_table && !name.contains('/')
            }
        };
        if is_read {
            choice.files.push(file.clone());
        }
    }
    for (folder, stem, other) in PARTS {
        let inside: Vec<_> =
            files.iter().filter(|file| file.name.split_once('/').is_some_and(|(part, _)| part == folder)).collect();
        if inside.is_empty() && folder != "unet" {
            continue;
        }
        let (weights, is_half) = weights(folder, &inside, stem, other, half).ok_or_else(|| {
            let expected = format!("{folder}/{stem}.safetensors or {folder}/{other}");
            Error::model(id, format!("has no {folder} that is read: expected {expected}"))
        })?;
        if is_half != half {
            let (lacking, taken) = if half { ("f16", "f32") } else { ("f32", "f16") };
            choice.notes.push(format!("{folder} has no weights in {lacking}: taking those in {taken}"));
        }
        choice.files.extend(weights);
    }
    Ok(choice)
}

/// The weights of a part, whole or in shards with their index, and whether they are in f16. These are the names that
/// the library looks for.
fn weights(folder: &str, inside: &[&Remote], stem: &str, other: &str, half: bool) -> Option<(Vec<Remote>, bool)> {
    let named =
        |name: &str| inside.iter().find(|file| file.name == format!("{folder}/{name}")).map(|file| (*file).clone());
    let in_precision = |half: bool| {
        let (end, index) = match half {
            true => (".fp16.safetensors", ".safetensors.index.fp16.json"),
            false => (".safetensors", ".safetensors.index.json"),
        };
        if let Some(whole) = named(&format!("{stem}{end}")) {
            return Some((vec![whole], half));
        }
        let mut found = vec![named(&format!("{stem}{index}"))?];
        let is_shard = |name: &str| {
            let name = name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
            let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".safetensors"));
            rest.is_some_and(|rest| rest.contains("-of-") && rest.contains("fp16") == half)
        };
        found.extend(inside.iter().filter(|file| is_shard(&file.name)).map(|file| (*file).clone()));
        (found.len() > 1).then_some((found, half))
    };
    let pickled = || named(other).map(|file| (vec![file], false));
    in_precision(half).or_else(|| in_precision(!half)).or_else(pickled)
}

/// Of a model that is no pipeline: weights and configurations, in the folders they are in.
fn others(id: &str, files: &[Remote], half: bool) -> Result<Choice> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let is_other_s = |name: &str| {
        let folders = name.rsplit_once('/').map_or("", |(folders, _)| folders);
        is_inside(name)
            && (folders.split('/').any(|folder| LEFT_OUT.contains(&folder) || folder.starts_with('.'))
                || OF_TRAINING.iter().any(|start| last(name).starts_with(start)))
    };
    let candidates: Vec<_> = files.iter().filter(|file| !is_other_s(&file.name)).collect();
    let has = |name: &str| candidates.iter().any(|file| file.name == name);
    let is_wanted = |name: &str| {
        if !is_weights(name) {
            return name.ends_with(".json") || matches!(last(name).as_str(), "merges.txt" | "vocab.txt");
        }
        let (stem, end) = name.rsplit_once('.').unwrap_or((name, ""));
        let (plain, is_half) = match stem.strip_suffix(".fp16") {
            Some(plain) => (plain, true),
            None => (stem, false),
        };
        // Safetensors before pickles, under the names that transformers and diffusers give to both.
        let better = plain.strip_suffix("pytorch_model").map(|start| match start.ends_with("diffusion_") {
            true => format!("{plain}.safetensors"),
            false => format!("{start}model.safetensors"),
        });
        let twin = if is_half { format!("{plain}.{end}") } else { format!("{plain}.fp16.{end}") };
        let is_better = |other: &str| has(other) || has(&other.replace(".safetensors", ".fp16.safetensors"));
        let is_worse = end != "safetensors"
            && (is_better(&format!("{plain}.safetensors")) || better.is_some_and(|name| is_better(&name)));
        !is_worse && (is_half == half || !has(&twin))
    };
    let files: Vec<_> = candidates.iter().filter(|file| is_wanted(&file.name)).map(|file| (*file).clone()).collect();
    if files.iter().any(|file| is_weights(&file.name)) {
        return Ok(Choice { files, notes: Vec::new() });
    }
    Err(Error::model(id, "has no weights that are read: safetensors, .pt, .pth, .ckpt or .bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(name: &str) -> Remote {
        Remote { name: name.into(), facts: None }
    }

    fn chosen(names: &[&str], half: bool) -> Vec<String> {
        let files: Vec<_> = names.iter().map(|name| remote(name)).collect();
        let choice = choose("a/b", &files, &[], half).unwrap();
        let mut names: Vec<_> = choice.files.into_iter().map(|file| file.name).collect();
        names.sort();
        names
    }

    /// Names of a published pipeline, in all the forms that there are.
    const PIPELINE: [&str; 29] = [
        ".gitattributes",
        "README.md",
        "model_index.json",
        "x4-upscaler-ema.safetensors",
        "x4-upscaler-ema.ckpt",
        "feature_extractor/preprocessor_config.json",
        "low_res_scheduler/scheduler_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/flax_model.msgpack",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/model.onnx",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.non_ema.safetensors",
        "vae_1_0/config.json",
        "vae_1_0/diffusion_pytorch_model.safetensors",
    ];

    const TABLES_OF_IT: [&str; 9] = [
        "low_res_scheduler/scheduler_config.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "vae/config.json",
    ];

    fn with_tables(weights: &[&str]) -> Vec<String> {
        let mut names: Vec<_> = TABLES_OF_IT.iter().chain(weights).map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn of_a_pipeline_only_what_is_read_is_taken_in_one_precision() {
        let f32 = [
            "text_encoder/model.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.bin",
        ];
        assert_eq!(chosen(&PIPELINE, false), with_tables(&f32));
        let f16 = [
            "text_encoder/model.fp16.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.bin",
        ];
        assert_eq!(chosen(&PIPELINE, true), with_tables(&f16));
        let files: Vec<_> = PIPELINE.iter().map(|name| remote(name)).collect();
        assert_eq!(choose("a/b", &files, &[], true).unwrap().notes, ["vae has no weights in f16: taking those in f32"]);
    }

    #[test]
    fn shards_are_taken_with_their_index() {
        let names = [
            "model_index.json",
            "unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.fp16.safetensors",
            "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "unet/diffusion_pytorch_model.safetensors.index.json",
        ];
        assert_eq!(chosen(&names, false), [names[0], names[2], names[4], names[6]]);
        assert_eq!(chosen(&names, true), [names[0], names[1], names[3], names[5]]);
    }

    #[test]
    fn of_other_models_weights_and_configurations_are_taken() {
        let clip = [
            "config.json",
            "flax_model.msgpack",
            "merges.txt",
            "model.safetensors",
            "pytorch_model.bin",
            "tf_model.h5",
            "vocab.json",
            "onnx/model.safetensors",
            "training_args.bin",
        ];
        assert_eq!(chosen(&clip, false), ["config.json", "merges.txt", "model.safetensors", "vocab.json"]);
        assert_eq!(chosen(&["a.pt", "b.pt", "README.md"], false), ["a.pt", "b.pt"]);
        let both = ["m.fp16.safetensors", "m.safetensors", "n.fp16.safetensors", "o.safetensors", "o.ckpt"];
        assert_eq!(chosen(&both, false), ["m.safetensors", "n.fp16.safetensors", "o.safetensors"]);
        assert_eq!(chosen(&both, true), ["m.fp16.safetensors", "n.fp16.safetensors", "o.safetensors"]);
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let files = |names: &[&str]| names.iter().map(|name| remote(name)).collect::<Vec<_>>();
        let refused = |names: &[&str], named: &[&str]| {
            let named: Vec<_> = named.iter().map(|name| (*name).to_owned()).collect();
            choose("a/b", &files(names), &named, false).unwrap_err().to_string()
        };
        assert!(refused(&["model_index.json", "transformer/config.json"], &[]).contains("no unet"));
        assert!(refused(&["model_index.json", "unet/config.json", "unet/x.bin"], &[]).contains("no unet that is read"));
        assert!(refused(&["README.md"], &[]).contains("no weights"));
        assert!(refused(&["m.pt"], &["n.pt"]).contains("its weights: m.pt"));
        for name in ["../m.pt", "/m.pt", "a/../../m.pt", "a\\..\\m.pt", "C:m.pt", "a//m.pt"] {
            assert!(refused(&[name], &[]).contains("leads out"), "{name}");
            assert!(refused(&[name], &[name]).contains("leads out"), "{name}");
        }
    }
}
