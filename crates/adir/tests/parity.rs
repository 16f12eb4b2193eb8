//! Our network, gradients, Adam and samplers against recordings of the reference implementation
//! (openai/guided-diffusion in PyTorch, f32). `mini_legacy` lives here; the wider networks are found in the
//! shared fixtures where these are at hand.

use std::path::{Path, PathBuf};

use adir::io::sidecar::{beside, sidecar_config};
use adir::io::weights::WeightFile;
use adir::models::Prior;
use adir::models::guided_diffusion::UNetConfig;
use adir::tensor::{Compute, DType, cpu};
use adir::verify::{Check, Limits, verify};

fn check(weights: &Path, cases: &Path, dtype: DType) -> Vec<Check> {
    let file = WeightFile::open(weights).unwrap();
    let config = beside(weights).map(|path| UNetConfig::from_json(&sidecar_config(&path).unwrap()).unwrap());
    let model = Prior::load(&file, config, &Compute::new(&cpu(), dtype)).unwrap();
    let checks = verify(&model, &WeightFile::open(cases).unwrap(), Limits::F32, |_| ()).unwrap();
    assert!(checks.len() >= 14, "every kind of check must run, not {}", checks.len());
    checks
}

fn assert_all_hold(name: &str, checks: &[Check]) {
    for c in checks {
        eprintln!("{name}: {:<46} {:>4} tensors {:.1e}", c.name, c.tensors, c.error);
    }
    let failed: Vec<_> = checks.iter().filter(|c| !c.holds()).collect();
    assert!(failed.is_empty(), "{name}: {failed:#?}");
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[test]
fn the_smallest_network_computes_what_the_reference_computes() {
    let f = fixtures();
    let checks =
        check(&f.join("mini_legacy.weights.safetensors"), &f.join("mini_legacy.cases.safetensors"), DType::F32);
    assert_all_hold("mini_legacy", &checks);
}

#[test]
fn every_recorded_network_computes_what_the_reference_computes() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/guided_diffusion");
    if !shared.is_dir() {
        eprintln!("skipped: the shared fixtures are not here");
        return;
    }
    for name in ["uncond_legacy", "classcond_neworder", "plain_resample_conv", "mini_legacy"] {
        let checks =
            check(&shared.join(format!("{name}.pt")), &shared.join(format!("{name}.cases.safetensors")), DType::F32);
        assert_all_hold(name, &checks);
    }
}
