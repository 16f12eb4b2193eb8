//! Times the kernels; `benches/compare.py` runs this and PyTorch in turns and prints ratios.
//!
//! Prints a line `name median least` for each case, in milliseconds. The number of threads is rayon's
//! (`RAYON_NUM_THREADS`). Arguments select cases by substring; `--bf16` multiplies in bfloat16.

use std::hint::black_box;
use std::time::{Duration, Instant};

use adir_kernels::{Kernel, QkvOrder, attention, conv2d, group_norm};
use burn::tensor::{Device, Distribution, Tensor};

/// Time spent on each case.
const BUDGET: Duration = Duration::from_millis(600);

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let bf16_products = std::env::args().any(|arg| arg == "--bf16");
    let report = |name: String, run: &dyn Fn()| {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            let (median, least) = time(run);
            println!("{name} {median:.4} {least:.4}");
        }
    };
    let plain = Device::flex();
    let autodiff = Device::flex().autodiff();
    let random = |shape: [usize; 4], device: &Device| Tensor::<4>::random(shape, Distribution::Default, device);

    for (shape, outputs, kernel, stride) in [
        ([1, 128, 64, 64], 128, 3, 1),
        ([1, 256, 32, 32], 256, 3, 1),
        ([1, 512, 16, 16], 512, 3, 1),
        ([4, 64, 64, 64], 64, 3, 1),
        ([8, 64, 32, 32], 64, 3, 1),
        ([1, 96, 66, 66], 96, 3, 1),
        ([1, 192, 33, 33], 192, 3, 1),
        ([1, 3, 64, 64], 128, 3, 1),
        ([1, 128, 64, 64], 6, 3, 1),
        ([1, 128, 64, 64], 128, 3, 2),
        ([1, 256, 32, 32], 256, 1, 1),
        ([1, 512, 16, 16], 1536, 1, 1),
    ] {
        let name = format!("conv{kernel}x{kernel}s{stride}-{shape:?}-{outputs}").replace(' ', "");
        let padding = kernel / 2;
        let weight = |device: &Device| random([outputs, shape[1], kernel, kernel], device);
        let given = |weight: &Tensor<4>| Kernel { bf16_products, ..Kernel::from(weight.clone()) };
        let (x, w) = (random(shape, &plain), weight(&plain));
        report(format!("{name}-forward"), &|| {
            black_box(conv2d(x.clone(), given(&w), None, stride, padding));
        });
        let (x, w) = (random(shape, &autodiff).require_grad(), weight(&autodiff).require_grad());
        report(format!("{name}-gradients"), &|| {
            black_box(conv2d(x.clone(), given(&w), None, stride, padding).sum().backward());
        });
    }

    for shape in [[1, 128, 64, 64], [4, 64, 64, 64]] {
        let name = format!("gnsilu-{shape:?}").replace(' ', "");
        let vector = |device: &Device| Tensor::<1>::random([shape[1]], Distribution::Default, device);
        let (x, gamma, beta) = (random(shape, &plain), vector(&plain), vector(&plain));
        report(format!("{name}-forward"), &|| {
            black_box(group_norm(x.clone(), 32, gamma.clone(), beta.clone(), 1e-5, None, true));
        });
        let (x, gamma, beta) = (random(shape, &autodiff).require_grad(), vector(&autodiff), vector(&autodiff));
        let (gamma, beta) = (gamma.require_grad(), beta.require_grad());
        report(format!("{name}-gradients"), &|| {
            black_box(group_norm(x.clone(), 32, gamma.clone(), beta.clone(), 1e-5, None, true).sum().backward());
        });
    }

    for (shape, heads) in [([1, 1536, 256], 8), ([1, 768, 1024], 4)] {
        let name = format!("attention-{shape:?}-{heads}").replace(' ', "");
        let x = Tensor::<3>::random(shape, Distribution::Default, &plain);
        report(format!("{name}-forward"), &|| {
            black_box(attention(x.clone(), heads, QkvOrder::HeadsFirst));
        });
        let x = Tensor::<3>::random(shape, Distribution::Default, &autodiff).require_grad();
        report(format!("{name}-gradients"), &|| {
            black_box(attention(x.clone(), heads, QkvOrder::HeadsFirst).sum().backward());
        });
    }
}

/// Median and least milliseconds of a run, after one to warm up.
fn time(run: &dyn Fn()) -> (f64, f64) {
    run();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || begin.elapsed() < BUDGET {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}
