//! Set5 and Set14, whose small images were made by MATLAB's imresize: the operator must make the
//! same, and bicubic up-sampling must score what the literature says. Skipped without the images.

use std::path::PathBuf;

use super::*;
use crate::metric::psnr_y;

/// The images of `set` in [-1, 1] as pairs (high resolution, low resolution), where they are.
fn pairs(set: &str) -> Option<Vec<(Tensor<4>, Tensor<4>)>> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/eval")).join(set);
    let mut names: Vec<PathBuf> = std::fs::read_dir(&folder).ok()?.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let high = names.iter().filter(|path| path.to_str().is_some_and(|path| path.ends_with("_HR.png")));
    Some(high.map(|path| (open(path), open(&path.to_str().unwrap().replace("_HR", "_LR").into()))).collect())
}

fn open(path: &PathBuf) -> Tensor<4> {
    let image = image::open(path).unwrap();
    let channels = if image.color().has_color() { 3 } else { 1 };
    let (bytes, [height, width]) = match channels {
        3 => (image.to_rgb8().into_raw(), [image.height() as usize, image.width() as usize]),
        _ => (image.to_luma8().into_raw(), [image.height() as usize, image.width() as usize]),
    };
    let values = (0..bytes.len()).map(|n| {
        let (channel, pixel) = (n / (height * width), n % (height * width));
        f64::from(bytes[pixel * channels + channel]) / 127.5 - 1.0
    });
    image_from(values.collect(), ImageShape::new(channels, height, width))
}

fn check(set: &str, count: usize, published: f64) {
    let Some(pairs) = pairs(set) else {
        eprintln!("skipped: no shared/data/eval/{set}");
        return;
    };
    assert_eq!(pairs.len(), count);
    let mut sum = 0.0;
    for (high, low) in &pairs {
        let shrunk = BicubicDownsample::new(ImageShape::of(high), 4).unwrap().apply(high).unwrap();
        let levels = |x: &Tensor<4>| values(&((x.clone() + 1.0) * 127.5).clamp(0.0, 255.0).round());
        let (made, given) = (levels(&shrunk), levels(low));
        let worst = max_difference(&made, &given);
        let differ = made.iter().zip(&given).filter(|(a, b)| a != b).count() as f64 / made.len() as f64;
        let score = psnr_y(&bicubic_upsample(low, 4).unwrap(), high, 4).unwrap()[0];
        eprintln!("{set} {}: differ {differ:.4} by at most {worst}, bicubic {score:.3} dB", ImageShape::of(high));
        sum += score;
    }
    let mean = sum / count as f64;
    eprintln!("{set} mean {mean:.3} dB");
    assert!((mean - published).abs() < 0.1, "{set}: {mean} dB, published {published}");
}

#[test]
fn set5_scores_as_published() {
    check("set5", 5, 28.42);
}

#[test]
fn set14_scores_as_published() {
    check("set14", 14, 26.00);
}
