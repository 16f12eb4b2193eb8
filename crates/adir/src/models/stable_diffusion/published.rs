//! The names and shapes of the published models, in folders and in single files.
//!
//! A single file here has all of its names, shapes and its full size, and no values: the system keeps what was never written
//! as a hole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::names;
use super::random::TextSides;
use super::{Architecture, Autoencoder, ConditionalUNet, LatentFiles, Purpose};
use crate::models::Network;
use crate::models::guided_diffusion::Shapes;
use crate::models::params::ParamLayout;

/// A list beside the repository, where there is one.
fn listed(name: &str) -> Option<Shapes> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/spec/sd-keys");
    if !folder.is_dir() {
        println!("skipped: the lists of the published names are not here");
        return None;
    }
    Some(serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap())
}

fn shapes(layout: &ParamLayout, name: impl Fn(&str) -> String) -> Shapes {
    layout.specs().iter().map(|spec| (name(&spec.name), spec.shape.clone())).collect()
}

/// Names and shapes of [`Architecture`]s: what is found here, and the lists in both schemes.
#[test]
fn networks_have_the_published_names_and_shapes() {
    for (architecture, list) in [
        (Architecture::Upscaler, "unet_x4"),
        (Architecture::Inpainting1, "unet_inpaint15"),
        (Architecture::Inpainting2, "unet_inpaint2"),
    ] {
        let config = architecture.unet();
        let net = ConditionalUNet::new(&config).unwrap();
        let Some(expected) = listed(&format!("{list}.ldm.json")) else { return };
        assert_eq!(shapes(net.layout(), str::to_owned), expected, "{list}");
        let found = shapes(net.layout(), |name| names::of_unet(&config, name, false).unwrap());
        assert_eq!(found, listed(&format!("{list}.json")).unwrap(), "{list}");
    }
    for (architecture, list) in [(Architecture::Upscaler, "vae_x4"), (Architecture::Inpainting1, "vae_f8")] {
        let config = architecture.autoencoder();
        let net = Autoencoder::new(&config).unwrap();
        assert_eq!(shapes(net.layout(), str::to_owned), listed(&format!("{list}.ldm.json")).unwrap(), "{list}");
        let mut found = shapes(net.layout(), |name| names::of_autoencoder(&config, name, false).unwrap());
        // diffusers keeps the attention's layers as matrices.
        for (_, shape) in found.iter_mut().filter(|(name, _)| name.contains(".attentions.")) {
            shape.retain(|side| *side > 1);
        }
        assert_eq!(found, listed(&format!("{list}.json")).unwrap(), "{list}");
    }
    for (architecture, list) in
        [(Architecture::Inpainting1, "text_vitl"), (Architecture::Upscaler, "text_openclip_h23")]
    {
        let found = TextSides::of(architecture, false).specs().into_iter();
        let found: Shapes =
            found.map(|(name, shape)| (name.strip_prefix("text_model.").unwrap().into(), shape)).collect();
        assert_eq!(found, listed(&format!("{list}.json")).unwrap(), "{list}");
    }
    let listed: Shapes = listed("text_openclip_h24.openclip.json").unwrap();
    assert_eq!(open_clip(), listed);
}

/// OpenCLIP ViT-H's text tower, all 24 layers of it.
fn open_clip() -> Shapes {
    let mut found = Shapes::new();
    let mut add = |name: &str, shape: &[usize]| drop(found.insert(name.to_owned(), shape.to_vec()));
    for layer in 0..24 {
        let name = |part: &str| format!("transformer.resblocks.{layer}.{part}");
        for norm in ["ln_1", "ln_2"] {
            add(&name(&format!("{norm}.weight")), &[1024]);
            add(&name(&format!("{norm}.bias")), &[1024]);
        }
        add(&name("attn.in_proj_weight"), &[3072, 1024]);
        add(&name("attn.in_proj_bias"), &[3072]);
        for (part, out, input) in [("attn.out_proj", 1024, 1024), ("mlp.c_fc", 4096, 1024), ("mlp.c_proj", 1024, 4096)]
        {
            add(&name(&format!("{part}.weight")), &[out, input]);
            add(&name(&format!("{part}.bias")), &[out]);
        }
    }
    add("token_embedding.weight", &[49408, 1024]);
    add("positional_embedding", &[77, 1024]);
    add("text_projection", &[1024, 1024]);
    add("logit_scale", &[]);
    add("ln_final.weight", &[1024]);
    add("ln_final.bias", &[1024]);
    found
}

/// What lies in a published single file besides the networks.
fn extras(architecture: Architecture) -> Shapes {
    let mut found = Shapes::new();
    let table = [
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    ];
    found.extend(table.map(|name| (name.to_owned(), vec![1000])));
    found.insert("scale_factor".into(), vec![]);
    if architecture == Architecture::Upscaler {
        found.extend(table.map(|name| (format!("low_scale_model.{name}"), vec![1000])));
    } else if architecture == Architecture::SuperResolution {
        found.insert("first_stage_model.loss.perceptual_loss.lin0.model.1.weight".into(), vec![1, 64, 1, 1]);
    } else {
        found.insert("first_stage_model.loss.logvar".into(), vec![]);
        found.insert("first_stage_model.loss.discriminator.main.0.weight".into(), vec![64, 3, 4, 4]);
    }
    found
}

/// The names and shapes of a published single file.
fn single(architecture: Architecture, averaged: bool) -> Shapes {
    let unet = ConditionalUNet::new(&architecture.unet()).unwrap();
    let autoencoder = Autoencoder::new(&architecture.autoencoder()).unwrap();
    let mut found = extras(architecture);
    found.extend(shapes(autoencoder.layout(), |name| format!("first_stage_model.{name}")));
    if architecture == Architecture::SuperResolution {
        found.extend(fused(unet.layout(), |name| format!("model.diffusion_model.{name}")));
        return found;
    }
    found.extend(shapes(unet.layout(), |name| format!("model.diffusion_model.{name}")));
    if architecture == Architecture::Inpainting1 {
        let text = TextSides::of(architecture, false).specs().into_iter();
        found.extend(text.map(|(name, shape)| (format!("cond_stage_model.transformer.{name}"), shape)));
        let positions = "cond_stage_model.transformer.text_model.embeddings.position_ids";
        found.insert(positions.into(), vec![1, 77]);
    } else {
        found.extend(open_clip().into_iter().map(|(name, shape)| (format!("cond_stage_model.model.{name}"), shape)));
    }
    if averaged {
        let bare = |name: &str| format!("model_ema.diffusion_model{}", name.replace('.', ""));
        found.extend(shapes(unet.layout(), bare));
        found.extend(["model_ema.decay", "model_ema.num_updates"].map(|name| (name.to_owned(), vec![])));
    }
    found
}

/// Names and shapes with the queries, keys and values of each attention in one 1-d convolution, as latent diffusion has them.
fn fused(layout: &ParamLayout, name: impl Fn(&str) -> String) -> Shapes {
    let mut found = shapes(layout, name);
    let attentions: Vec<_> = found.keys().filter_map(|name| name.strip_suffix(".q.weight")).map(String::from).collect();
    for attention in attentions {
        let channels = found[&format!("{attention}.q.weight")][0];
        for part in ["q", "k", "v"] {
            found.remove(&format!("{attention}.{part}.weight")).unwrap();
            found.remove(&format!("{attention}.{part}.bias")).unwrap();
        }
        found.insert(format!("{attention}.qkv.weight"), vec![3 * channels, channels, 1]);
        found.insert(format!("{attention}.qkv.bias"), vec![3 * channels]);
        found.insert(format!("{attention}.proj_out.weight"), vec![channels, channels, 1]);
    }
    found
}

/// A file with these tensors, whose values are a hole.
fn hollow(name: &str, shapes: &Shapes) -> PathBuf {
    let (mut header, mut end) = (BTreeMap::<&str, Value>::new(), 0);
    for (name, shape) in shapes {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let path = std::env::temp_dir().join(format!("adir-published-{}-{name}.safetensors", std::process::id()));
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    path
}

#[test]
fn single_files_fit_and_what_does_not_is_named() {
    for (name, architecture) in Architecture::ALL {
        let purpose = match architecture {
            Architecture::Upscaler => Purpose::Upscaling,
            Architecture::SuperResolution => Purpose::SuperResolution,
            _ => Purpose::Inpainting,
        };
        let whole = single(architecture, false);
        let path = hollow(name, &whole);
        let found = LatentFiles::recognised(&path, false).unwrap_or_else(|e| panic!("{name}: {e}")).unwrap();
        assert_eq!((found.purpose(), found.unet().config()), (purpose, &architecture.unet()), "{name}");
        let complaint = LatentFiles::open_averaged(&path).unwrap_err().to_string();
        assert!(complaint.contains("one set of weights"), "{complaint}");

        // Files of another program call the autoencoder otherwise.
        let other = |name: &String| name.replace("first_stage_model.", "vae.");
        let renamed = whole.iter().map(|(name, shape)| (other(name), shape.clone())).collect();
        assert_eq!(LatentFiles::open(&hollow(name, &renamed)).unwrap().purpose(), purpose, "{name}");

        let text = if architecture == Architecture::Inpainting1 {
            "cond_stage_model.transformer.text_model.final_layer_norm.bias"
        } else {
            "cond_stage_model.model.transformer.resblocks.22.mlp.c_fc.bias"
        };
        let unet = match architecture {
            Architecture::SuperResolution => "model.diffusion_model.middle_block.1.qkv.bias",
            _ => "model.diffusion_model.middle_block.1.proj_in.bias",
        };
        let text = if architecture == Architecture::SuperResolution { unet } else { text };
        for damaged in [unet, "first_stage_model.decoder.mid.attn_1.q.bias", text] {
            let refused = |shapes: Shapes| {
                let path = hollow(name, &shapes);
                LatentFiles::open(&path).expect_err(damaged).to_string()
            };
            let mut lacking = whole.clone();
            lacking.remove(damaged);
            let complaint = refused(lacking);
            assert!(complaint.contains("missing") && complaint.contains(damaged), "{complaint}");
            let mut other = whole.clone();
            other.insert(damaged.into(), vec![3]);
            let complaint = refused(other);
            assert!(complaint.contains("[3]") && complaint.contains(damaged), "{complaint}");
            let (mut more, strange) = (whole.clone(), damaged.replace("bias", "strange"));
            more.insert(strange.clone(), vec![3]);
            let complaint = refused(more);
            assert!(complaint.contains(&strange), "{complaint}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn averaged_weights_are_found_by_names_without_dots() {
    let whole = single(Architecture::Inpainting1, true);
    let path = hollow("averaged", &whole);
    let found = LatentFiles::open_averaged(&path).unwrap();
    assert_eq!(found.purpose(), Purpose::Inpainting);
    LatentFiles::open(&path).unwrap();
    let mut lacking = whole;
    lacking.remove("model_ema.diffusion_modelinput_blocks00weight").unwrap();
    let path = hollow("averaged", &lacking);
    let complaint = LatentFiles::open_averaged(&path).unwrap_err().to_string();
    assert!(complaint.contains("model_ema.diffusion_modelinput_blocks00weight"), "{complaint}");
    LatentFiles::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
}
