//! Weight files of a small network with one fault each: every fault is found before anything is computed, and named.

use adir::io::weights::WeightFile;
use adir::models::guided_diffusion::UNetConfig;
use adir::models::params::Params;
use adir::models::{Prior, PriorHeader};
use adir::tensor::{Compute, to_f32};

const TOY: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,2],
"attention_resolutions":[2],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true,
"noise_schedule":"linear","diffusion_steps":1000}"#;

/// A tensor of a file.
#[derive(Debug, Clone)]
struct Stored {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    values: Vec<f32>,
}

fn config() -> UNetConfig {
    UNetConfig::from_json(TOY).unwrap()
}

fn toy() -> Vec<Stored> {
    let layout = PriorHeader::new(config()).unwrap().network().layout().clone();
    let params = Params::initial(layout.clone(), 1, &Compute::default()).unwrap();
    let stored = |id| {
        let spec = layout.spec(id);
        let values = to_f32(&params.flat(id)).unwrap();
        Stored { name: spec.name.clone(), dtype: "F32", shape: spec.shape.clone(), values }
    };
    layout.ids().map(stored).collect()
}

fn load(tensors: &[Stored]) -> Result<(), String> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for Stored { name, dtype, shape, values } in tensors {
        let from = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let to = data.len();
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#));
    }
    let header = format!("{{{}}}", entries.join(","));
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    let file = WeightFile::from_bytes("toy", bytes).map_err(|e| e.to_string())?;
    Prior::load(&file, Some(config()), &Compute::default()).map(drop).map_err(|e| e.to_string())
}

/// With one tensor changed by `fault`, or left out.
fn refusals(fault: impl Fn(Stored) -> Option<Stored>) -> usize {
    let tensors = toy();
    for (k, tensor) in tensors.iter().enumerate() {
        let mut changed = tensors.clone();
        match fault(tensor.clone()) {
            Some(fault) => changed[k] = fault,
            None => drop(changed.remove(k)),
        }
        let message = load(&changed).expect_err(&tensor.name);
        assert!(message.contains(&tensor.name), "{}: {message}", tensor.name);
    }
    tensors.len()
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    load(&toy()).unwrap();
    let dropped = refusals(|_| None);
    let renamed = refusals(|tensor| Some(Stored { name: format!("{}.old", tensor.name), ..tensor }));
    let turned = refusals(|tensor| {
        let turned: Vec<usize> = tensor.shape.iter().rev().copied().collect();
        // A square stays one: its shape says nothing.
        let shape = if turned == tensor.shape { [&[1], &turned[..]].concat() } else { turned };
        Some(Stored { shape, ..tensor })
    });
    let retyped = refusals(|tensor| Some(Stored { dtype: "I32", ..tensor }));
    println!("drop, rename, transpose, re-dtype: {dropped} + {renamed} + {turned} + {retyped}, all named");
    assert!(dropped > 50 && [renamed, turned, retyped] == [dropped; 3]);
}

#[test]
fn values_that_are_not_finite_are_named() {
    for poison in [f32::NAN, f32::INFINITY] {
        let count = refusals(|mut tensor| {
            let middle = tensor.values.len() / 2;
            tensor.values[middle] = poison;
            Some(tensor)
        });
        println!("{poison} in each of {count} tensors: all named");
    }
}
