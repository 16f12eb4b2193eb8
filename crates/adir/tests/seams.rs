//! Tiles of a large image leave no seams.

use std::ops::ControlFlow;
use std::path::Path;

use adir::io::image::{Picture, WriteOptions, write_image};
use adir::metric::psnr_rgb;
use adir::prelude::*;
use adir::tensor::{Tensor, to_f64};

const SIDE: usize = 192;
const TILE: usize = 72;
/// Rows at the border of the image, where the network sees padding and no tile begins.
const EDGE: usize = 2;

/// Root mean square of d(i + 1) - d(i) for each pair of neighbouring rows within the image, in grey levels.
fn across_rows(d: &[f64]) -> Vec<f64> {
    let difference = |row: usize| {
        let line = |row: usize| (0..3).flat_map(move |channel| d[(channel * SIDE + row) * SIDE..][..SIDE].iter());
        let squares = line(row).zip(line(row + 1)).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        127.5 * (squares / (3 * SIDE) as f64).sqrt()
    };
    (EDGE..SIDE - 1 - EDGE).map(difference).collect()
}

fn transposed(d: &[f64]) -> Vec<f64> {
    let of = |i: usize| d[i / (SIDE * SIDE) * SIDE * SIDE + i % SIDE * SIDE + i / SIDE % SIDE];
    (0..d.len()).map(of).collect()
}

/// What tiles change of an image has no lines: neighbouring rows and columns differ as little at the borders of tiles as
/// elsewhere. Tiles agree with y as the whole does, and are as near to the truth.
#[test]
fn tiles_leave_no_seams() {
    let f = std::env::temp_dir().join(format!("adir-seams-{}", std::process::id()));
    std::fs::create_dir_all(&f).unwrap();
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cat.png");
    let truth = Picture::read(photo).unwrap().tensor.narrow(2, 32, SIDE).narrow(3, 32, SIDE);
    let engine = Engine::builder().build().unwrap();
    let go = |_: &Event| ControlFlow::Continue(());
    write_image(&f.join("x.png"), &truth, &WriteOptions::default()).unwrap();
    // The largest difference across a line against the 90th percentile of all. It is 1.3 for a denoising and 2.0 for a
    // down-sampling; with an earlier prior 1.2 and 1.9, and there with an overlap that was averaged and not blended 1.8 and
    // 2.7, without one 4.5 and 5.2.
    for (name, problem, limit) in [("sr2", Problem::super_resolution(2), 2.3), ("denoise", Problem::denoise(25.0), 1.5)]
    {
        let y = f.join(format!("{name}.png"));
        let measured = observe(&truth, &problem);
        write_image(&y, &measured, &WriteOptions::default()).unwrap();
        let restored = |tile: usize| {
            let mut request = Request::new(y.as_path(), problem.clone());
            request.sampling.tile = Some(tile);
            let restored = engine.run(&engine.plan(&request).unwrap(), &go).unwrap();
            (restored.mean.tensor, restored.record.agreement_psnr.0)
        };
        let ((whole, agrees), (tiled, tiles_agree)) = (restored(SIDE), restored(TILE));
        let change = to_f64(&(tiled.clone() - whole.clone())).unwrap();
        assert!(change.iter().any(|v| v.abs() > 1e-3), "{name}: nothing was tiled");
        for (lines, change) in [("rows", change.clone()), ("columns", transposed(&change))] {
            let differences = across_rows(&change);
            let mut sorted = differences.clone();
            sorted.sort_by(f64::total_cmp);
            let (usual, most) = (sorted[sorted.len() * 9 / 10], sorted[sorted.len() - 1]);
            let at = EDGE + differences.iter().position(|v| *v == most).unwrap();
            assert!(
                most < limit * usual,
                "{name}, {lines}: {most:.2} grey levels between {at} and the next, {usual:.2}"
            );
        }
        let near = |x: &Tensor<4>| psnr_rgb(x, &truth).unwrap()[0];
        let (whole, tiled) = (near(&whole), near(&tiled));
        assert!((whole - tiled).abs() < 0.1, "{name}: {whole:.2} dB, in tiles {tiled:.2} dB");
        assert!(
            (agrees - tiles_agree).abs() < 0.5,
            "{name}: agrees to {agrees:.2} dB, in tiles to {tiles_agree:.2} dB"
        );
    }
    std::fs::remove_dir_all(f).unwrap();
}

fn observe(x: &Tensor<4>, problem: &Problem) -> Tensor<4> {
    use adir::noise::{Noise, Stream};
    use adir::tensor::{DType, cpu};
    if let adir::task::Task::SuperResolution { factor } = problem.task {
        return adir::operator::bicubic_resize(x, SIDE / factor, SIDE / factor).unwrap();
    }
    let noise = Noise::new(5, Stream::Degradation).normal_tensor(0, x.dims(), &cpu(), DType::F32);
    x.clone() + noise * (25.0 / 127.5)
}
