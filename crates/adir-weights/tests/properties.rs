//! What holds for any tensors, and for any damage to a file.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use adir_weights::hash::sha256;
use adir_weights::{Dtype, Error, TensorSpec, TensorToWrite, WeightFile, npy, stream_safetensors, write_safetensors};
use common::fixture;
use half::{bf16, f16};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// A path that no other case has.
fn scratch() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("adir-weights-properties-{}-{number}", std::process::id()))
}

#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    values: Vec<f32>,
}

fn any_tensor() -> impl Strategy<Value = Tensor> {
    let dtype = prop_oneof![Just(Dtype::F16), Just(Dtype::BF16), Just(Dtype::F32), Just(Dtype::F64)];
    // Up to what f16 can hold; half of the values are ordinary weights.
    let value = prop_oneof![-2.0_f32..2.0, prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO]
        .prop_map(|value| value.clamp(-65504.0, 65504.0));
    (dtype, vec(0_usize..5, 0..4)).prop_flat_map(move |(dtype, shape)| {
        vec(value.clone(), shape.iter().product::<usize>()).prop_map(move |values| Tensor {
            dtype,
            shape: shape.clone(),
            values,
        })
    })
}

fn any_text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

fn any_tensors() -> impl Strategy<Value = BTreeMap<String, Tensor>> {
    btree_map(any_text().prop_filter("is reserved", |name| name != "__metadata__"), any_tensor(), 0..6)
}

fn any_metadata() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(any_text(), any_text(), 0..4)
}

/// The file that holds these tensors.
fn written(tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let path = scratch();
    let tensors: Vec<_> = (tensors.iter())
        .map(|(name, t)| TensorToWrite { name, shape: &t.shape, dtype: t.dtype, values: &t.values })
        .collect();
    write_safetensors(&path, &tensors, metadata).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}

/// The tensors of a file, if all are of finite floats.
fn read(file: &WeightFile) -> Option<BTreeMap<String, Tensor>> {
    let tensor = |name: &str| {
        let info = file.info(name)?;
        let values = file.read_f32(name).ok()?;
        Some((name.to_owned(), Tensor { dtype: info.dtype, shape: info.shape.clone(), values }))
    };
    file.names().map(tensor).collect()
}

/// Checks that a pass over the file finds what reading finds.
fn check_stream(file: &WeightFile, bytes: &[u8]) -> Result<(), TestCaseError> {
    let readable: BTreeMap<&str, Vec<f32>> =
        file.names().filter_map(|name| Some((name, file.read_f32(name).ok()?))).collect();
    let mut seen = BTreeSet::new();
    let streamed = file.stream(
        |name, _| readable.contains_key(name),
        |name, values| {
            assert!(seen.insert(name.to_owned()), "{name:?} twice");
            assert!(values.iter().map(|v| v.to_bits()).eq(readable[name].iter().map(|v| v.to_bits())), "{name:?}");
            Ok::<_, Error>(())
        },
    );
    match streamed {
        Ok(hash) => {
            prop_assert_eq!(hash, sha256(bytes));
            prop_assert_eq!(seen.len(), readable.len());
        }
        // A pass also goes by what belongs to no readable tensor.
        Err(e) => prop_assert!(e.to_string().contains("CRC-32"), "{}", e),
    }
    Ok(())
}

/// Changes, removes or repeats single bytes.
fn damage(bytes: &mut Vec<u8>, changes: &[(usize, u8, u8)]) {
    for &(at, kind, value) in changes {
        if bytes.is_empty() {
            return;
        }
        let at = at % bytes.len();
        match kind {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, value),
            _ => bytes[at] = value,
        }
    }
}

fn any_changes() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    vec((any::<usize>(), 0_u8..8, any::<u8>()), 1..4)
}

/// An array as NumPy writes it.
fn npy(major: u8, kind: &str, rows: usize, columns: usize, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {columns}), }}\n");
    let len = (header.len() as u32).to_le_bytes();
    let len = if major == 1 { &len[..2] } else { &len[..] };
    [b"\x93NUMPY", &[major, 0][..], len, header.as_bytes(), data].concat()
}

fn read_npy(bytes: &[u8]) -> Result<(usize, usize, Vec<f32>), Error> {
    npy::from_reader(Path::new("array"), bytes, bytes.len() as u64)
}

proptest! {
    #[test]
    fn tensors_come_back_as_they_were_rounded(tensors in any_tensors(), metadata in any_metadata()) {
        let bytes = written(&tensors, &metadata);
        let file = WeightFile::from_bytes("written", bytes.clone()).unwrap();
        let expected: BTreeMap<_, _> = tensors
            .iter()
            .map(|(name, tensor)| {
                let rounded = |&v: &f32| match tensor.dtype {
                    Dtype::F16 => f16::from_f32(v).to_f32(),
                    Dtype::BF16 => bf16::from_f32(v).to_f32(),
                    _ => v,
                };
                (name.clone(), Tensor { values: tensor.values.iter().map(rounded).collect(), ..tensor.clone() })
            })
            .collect();
        prop_assert_eq!(read(&file), Some(expected));
        prop_assert_eq!(file.metadata(), &metadata);
        check_stream(&file, &bytes)?;
    }

    #[test]
    fn tensors_written_in_any_order_make_the_same_file(tensors in any_tensors(), turn in 0_usize..6) {
        let path = scratch();
        let mut named: Vec<_> = tensors.iter().collect();
        let places = named.len().max(1);
        named.rotate_left(turn % places);
        let specs: Vec<_> =
            named.iter().map(|(name, t)| TensorSpec { name, shape: &t.shape, dtype: t.dtype }).collect();
        stream_safetensors(&path, &specs, &BTreeMap::new(), |i| Ok::<_, Error>(&named[i].1.values)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        prop_assert_eq!(bytes, written(&tensors, &BTreeMap::new()));
    }

    #[test]
    fn what_is_accepted_is_written_and_read_again_the_same(
        tensors in any_tensors(),
        metadata in any_metadata(),
        changes in any_changes(),
    ) {
        let mut bytes = written(&tensors, &metadata);
        damage(&mut bytes, &changes);
        if let Ok(file) = WeightFile::from_bytes("damaged", bytes.clone()) {
            check_stream(&file, &bytes)?;
            if let Some(found) = read(&file) {
                let again = written(&found, file.metadata());
                let file_again = WeightFile::from_bytes("again", again.clone()).unwrap();
                prop_assert_eq!(file_again.metadata(), file.metadata());
                prop_assert_eq!(read(&file_again), Some(found.clone()));
                prop_assert_eq!(written(&found, file_again.metadata()), again);
            }
        }
    }

    #[test]
    fn damaged_checkpoints_read_alike_in_both_ways(which in 0_usize..4, changes in any_changes()) {
        let name = ["zip.pt", "legacy.pt", "torchscript.pt", "wrapped.pth"][which];
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        damage(&mut bytes, &changes);
        if let Ok(file) = WeightFile::from_bytes("damaged", bytes.clone()) {
            check_stream(&file, &bytes)?;
        }
    }

    #[test]
    fn arrays_come_back(
        major in 1_u8..4,
        kind in 0_usize..3,
        (columns, values) in (0_usize..5).prop_flat_map(|columns| (
            Just(columns),
            (0_usize..7).prop_flat_map(move |rows| vec(-60000.0_f32..60000.0, rows * columns)),
        )),
        changes in any_changes(),
    ) {
        let rows = values.len().checked_div(columns).unwrap_or(3);
        let data: Vec<u8> = match kind {
            0 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            1 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
        };
        let mut bytes = npy(major, ["<f2", "<f4", "<f8"][kind], rows, columns, &data);
        let expected: Vec<f32> =
            values.iter().map(|&v| if kind == 0 { f16::from_f32(v).to_f32() } else { v }).collect();
        prop_assert_eq!(read_npy(&bytes).unwrap(), (rows, columns, expected));
        damage(&mut bytes, &changes);
        if let Ok((rows, columns, values)) = read_npy(&bytes) {
            prop_assert_eq!(rows.checked_mul(columns), Some(values.len()));
        }
    }
}
